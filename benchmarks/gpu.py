"""What a training step of TwinFlow costs on an accelerator: time and memory against plain training, waits, launches.

python -m benchmarks.gpu [--output FOLDER]; under eight minutes on a bare CUDA machine with torch, diffusers and peft.
Networks in the shapes of SD3.5-medium and SANA-1.6B with random weights, bf16, LoRA and full fine-tune; no data and no
SimpleTuner, so the figures are of the objective and the network alone. `--tiny` runs all of it on a CPU in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import SanaTransformer2DModel, SD3Transformer2DModel
from peft import LoraConfig
from torch import Tensor, nn

from simpletuner_twinflow.host.settings.families import FAMILIES
from simpletuner_twinflow.method.batch import PromptRows, index
from simpletuner_twinflow.method.cost import passes, step_ratio
from simpletuner_twinflow.method.objective import ObjectiveSettings, training_step
from simpletuner_twinflow.method.roles import RoleSampler
from simpletuner_twinflow.method.teacher import RngState, replay_rng, teacher_weights
from simpletuner_twinflow.method.time_conditioning import NegativeTimeEmbedding, TargetTimeEmbedding, TimeConditioning
from simpletuner_twinflow.sampling.schedule import SamplerSettings, trained_times

LORA_RANK, LORA_TARGETS = 64, ["to_q", "to_k", "to_v", "to_out.0"]
EMA_DECAY = 0.99
REPEATS = 5  # blocks of each way, in turn
BLOCK = 4  # steps of a block; with batch 8 each role has its share of rows in it
PLAIN = "plain"
GUIDED = {"guidance_reference": "base", "enhanced_ratio": 0.5}
WAYS: dict[str, dict[str, Any] | None] = {
    PLAIN: None,
    "K = 1, no guidance": {"enhanced_ratio": 0.0},
    "K = 2, no guidance": {"enhanced_ratio": 0.0, "target_step_count": 2},
    "K = 2, guidance 2 (default)": {"target_step_count": 2, **GUIDED},
    "K = 1, guidance 2, adversarial": {"adversarial_enabled": True, **GUIDED},
}


@dataclass(frozen=True)
class Shape:
    """A published network's shape, and a tiny one of the same class."""

    family: str
    network: type[nn.Module]
    config: dict[str, Any]
    tiny: dict[str, Any]
    tokens: int
    pooled: bool
    size: int
    """Of the latents' sides."""


SHAPES = {
    "SD3.5-medium, 512 px": Shape(
        family="sd3",
        network=SD3Transformer2DModel,
        config={
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        tiny={
            "sample_size": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
        },
        tokens=333,
        pooled=True,
        size=64,
    ),
    "SANA-1.6B, 1024 px": Shape(
        family="sana",
        network=SanaTransformer2DModel,
        config={
            "in_channels": 32,
            "out_channels": 32,
            "num_attention_heads": 70,
            "attention_head_dim": 32,
            "num_layers": 20,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
            "cross_attention_dim": 2240,
            "caption_channels": 2304,
            "mlp_ratio": 2.5,
            "sample_size": 32,
            "patch_size": 1,
        },
        tiny={
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "sample_size": 8,
        },
        tokens=300,
        pooled=False,
        size=32,
    ),
}


@dataclass
class Trained:
    """A network that is trained, with its optimizer and what TwinFlow keeps beside it."""

    shape: Shape
    model_type: str
    batch: int
    device: torch.device
    tiny: bool
    network: nn.Module = field(init=False)
    parameters: list[nn.Parameter] = field(init=False)
    shadows: list[Tensor] = field(default_factory=list)
    base: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.shape.config | (self.shape.tiny if self.tiny else {})
        torch.manual_seed(0)
        with torch.device(self.device):
            network = self.shape.network(**config).to(torch.bfloat16)
        lora = self.model_type == "lora"
        if lora:
            network.requires_grad_(False)
            network.add_adapter(LoraConfig(r=LORA_RANK, target_modules=LORA_TARGETS))
        self.network = network.to(self.device, torch.bfloat16)
        self.conditioning = self._condition()
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6, fused=fused)
        self.size, self.channels = (8 if self.tiny else self.shape.size), config["in_channels"]
        width = config["joint_attention_dim"] if self.shape.pooled else config["caption_channels"]
        tokens = 7 if self.tiny else self.shape.tokens
        like = {"device": self.device, "dtype": torch.bfloat16}
        self.prompts = torch.randn(self.batch, tokens, width, **like)
        self.pooled = torch.randn(self.batch, config["pooled_projection_dim"], **like) if self.shape.pooled else None

    def _condition(self) -> TimeConditioning:
        embedding = self.network.get_submodule(FAMILIES[self.shape.family].time_embedding)
        width = [layer for layer in embedding.modules() if isinstance(layer, nn.Linear)][-1].out_features
        for name, module in (
            ("target_time", TargetTimeEmbedding(width)),
            ("negative_time", NegativeTimeEmbedding(width)),
        ):
            self.network.add_module(name, module.to(self.device, torch.bfloat16))
        return TimeConditioning(embedding, self.network, target_time="target_time", negative_time="negative_time")

    def keep_shadows(self) -> None:
        """The EMA, which plain training does without."""
        self.shadows = [parameter.detach().clone() for parameter in self.parameters]

    def keep_base(self) -> None:
        """The frozen base of guidance: a full fine-tune's first weights; a LoRA is switched off by zeros."""
        if self.model_type == "full":
            self.base = [parameter.detach().clone() for parameter in self.parameters]
        else:
            names = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
            off = [".lora_B." in name or name.endswith("_time") for name in names]
            self.base = [
                torch.zeros_like(it) if zero else it.detach() for zero, it in zip(off, self.parameters, strict=True)
            ]

    def predict(self, x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, prompts: PromptRows) -> Tensor:
        """The network's average velocity for these rows of the batch."""
        rows = index(prompts.rows, x_t)
        words = self.prompts.index_select(0, rows)
        words = torch.zeros_like(words) if prompts.unconditional else words
        more = {} if self.pooled is None else {"pooled_projections": self.pooled.index_select(0, rows)}
        with self.conditioning.times(t, r, sign):
            answer: Tensor = self.network(
                hidden_states=x_t.to(torch.bfloat16), encoder_hidden_states=words, timestep=1000 * t, **more
            ).sample
        return answer.float()

    def lent(self, weights: list[Tensor], rng: RngState) -> Callable[..., Tensor]:
        """The same passes with other weights, without gradient, by the student's random numbers."""

        @torch.no_grad()
        def predict(*arguments: Any) -> Tensor:
            with teacher_weights(self.parameters, weights), replay_rng(rng):
                return self.predict(*arguments)

        return predict


@dataclass
class Way:
    """A way to train."""

    trained: Trained
    options: ObjectiveSettings | None

    def __post_init__(self) -> None:
        self.steps, self.forwards = 0, 0
        self.generator = torch.Generator(device=self.trained.device).manual_seed(0)
        if self.options is not None:
            self.roles = RoleSampler(self.options.roles(), seed=0)
            own_steps = self.options.target_step_count > 1
            self.times = trained_times(
                SamplerSettings().step_times, self.options.target_step_count, own_steps=own_steps
            )

    def step(self) -> Tensor:
        """One step with its optimizer and EMA updates; the loss, on the device."""
        trained, batch = self.trained, self.trained.batch
        shape = (batch, trained.channels, trained.size, trained.size)
        x, z = (torch.randn(shape, device=trained.device, generator=self.generator) for _ in range(2))
        t = torch.rand(batch, device=trained.device, generator=self.generator)
        loss = self._plain(x, z, t) if self.options is None else self._twinflow(x, z, t)
        loss.backward()
        trained.optimizer.step()
        trained.optimizer.zero_grad(set_to_none=True)
        if self.options is not None:
            with torch.no_grad():
                torch._foreach_lerp_(trained.shadows, [it.detach() for it in trained.parameters], 1 - EMA_DECAY)
        self.steps += 1
        return loss.detach()

    def _plain(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        x_t = torch.lerp(x, z, t.view(-1, 1, 1, 1))
        everyone = PromptRows(tuple(range(len(x))))
        return (self.trained.predict(x_t, t, t, torch.ones_like(t), everyone) - (z - x)).square().mean()

    def _twinflow(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        assert self.options is not None
        trained, rng = self.trained, RngState.capture(self.trained.device)
        losses = training_step(
            x,
            z,
            t,
            self.roles.sample(len(x), self.steps, len(x)),
            self.options,
            trained.predict,
            trained.lent(trained.shadows, rng),
            self.generator,
            step_times=self.times.jumps,
            sampler_steps=self.times.steps,
            base=trained.lent(trained.base, rng) if trained.base else None,
        )
        self.forwards += sum(losses.forwards.values()) - losses.forwards["student"]
        return losses.total


def measured(shape_name: str, model_type: str, batch: int, device: torch.device, tiny: bool) -> list[dict[str, Any]]:
    """The rows of one network's table."""
    trained = Trained(SHAPES[shape_name], model_type, batch, device, tiny)
    found: dict[str, dict[str, Any]] = {}
    ways: dict[str, Way] = {}
    for name, settings in WAYS.items():  # memory first: what a way keeps beside the network comes as it is needed
        options = None if settings is None else ObjectiveSettings(**settings)
        if options is not None and not trained.shadows:
            trained.keep_shadows()
        if options is not None and options.scale > 1 and not trained.base:
            trained.keep_base()
        ways[name] = way = Way(trained, options)
        way.step()
        found[name] = {"peak_gb": _peak(way, device), "waits": _waits(way, device), "launches": _launches(way, device)}
        assert bool(torch.isfinite(way.step())), f"{shape_name}, {model_type}, {name}: the loss is not finite"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if tiny else REPEATS):
        for name, way in ways.items():
            times[name].append(_seconds(way, device, 1 if tiny else BLOCK))
    plain = times[PLAIN]
    rows = []
    for name, way in ways.items():
        ratios = [mine / base for mine, base in zip(times[name], plain, strict=True)]
        more = {} if way.options is None else passes(way.options, batch_size=batch)
        kept = sum(it.numel() * it.element_size() for it in trained.shadows) if way.options else 0
        rows.append(
            {
                "network": shape_name,
                "parameters": sum(it.numel() for it in trained.network.parameters()),
                "model_type": model_type,
                "batch": batch,
                "way": name,
                "step_ms": 1000 * statistics.median(times[name]),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "foretold": step_ratio(more, model_type),
                "passes_a_row": way.forwards / max(1, way.steps * batch),
                "ema_gb": kept / 1e9,
                **found[name],
            }
        )
    return rows


def _seconds(way: Way, device: torch.device, steps: int) -> float:
    """Per step, in a block of so many."""
    _finish(device)
    began = time.perf_counter()
    for _ in range(steps):
        way.step()
    _finish(device)
    return (time.perf_counter() - began) / steps


def _peak(way: Way, device: torch.device) -> float:
    """Most memory of a block of steps, in GB, with all that lives beside them."""
    if device.type != "cuda":
        return 0.0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(BLOCK):
        way.step()
    return torch.cuda.max_memory_allocated(device) / 1e9


def _waits(way: Way, device: torch.device) -> int:
    """How often the CPU waits for the device in two steps, as CUDA's debug mode says."""
    with _counted_waits(device) as said:
        way.step()
        way.step()
    return len(said)


@contextlib.contextmanager
def _counted_waits(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield said
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            said[:] = [warning for warning in said if "synchroniz" in str(warning.message)]


def _launches(way: Way, device: torch.device) -> int:
    """Kernels that one step starts."""
    if device.type != "cuda":
        return 0
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        way.step()
        _finish(device)
    return sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | trained | way | ms a step | x plain (spread) | foretold by passes | passes a row | peak, GB "
        "| waits in two steps | kernels |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        cells = (
            *(row["network"], row["model_type"], row["way"], f"{row['step_ms']:.0f}", spread),
            *(f"{row['foretold']:.2f}", f"{row['passes_a_row']:.2f}", f"{row['peak_gb']:.1f}"),
            *(row["waits"], row["launches"]),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all and print; `gpu.json` and `gpu.md` in the folder are written after each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--networks", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="NAME")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, on the CPU")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("no CUDA device is at hand; --tiny tries the benchmark itself on the CPU")
    device = torch.device("cpu" if arguments.tiny else "cuda")
    if arguments.tiny:
        torch.set_num_threads(1)
    card = "CPU, tiny networks" if arguments.tiny else torch.cuda.get_device_name(device)
    title = f"{card}, torch {torch.__version__}, bf16, batch {arguments.batch}"
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        for model_type in ("lora", "full"):
            began = time.monotonic()
            rows += measured(name, model_type, arguments.batch, device, arguments.tiny)
            print(f"{name}, {model_type}: took {time.monotonic() - began:.0f} s", flush=True)
            document = json.dumps({"title": title, "rows": rows}, indent=1)
            (arguments.output / "gpu.json").write_text(document, encoding="utf-8")
            (arguments.output / "gpu.md").write_text(f"{title}\n\n{table(rows)}\n", encoding="utf-8")
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"{title}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
