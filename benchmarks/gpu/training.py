"""A network with random weights, and the ways to train it that are compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.gpu.shapes import Shape
from simpletuner_twinflow.host.settings.families import FAMILIES
from simpletuner_twinflow.method.batch import PromptRows, index
from simpletuner_twinflow.method.objective import ObjectiveSettings, training_step
from simpletuner_twinflow.method.roles import RoleSampler
from simpletuner_twinflow.method.teacher import RngState, replay_rng, teacher_weights
from simpletuner_twinflow.method.time_conditioning import NegativeTimeEmbedding, TargetTimeEmbedding, TimeConditioning
from simpletuner_twinflow.sampling.schedule import SamplerSettings, trained_times

LORA_RANK, LORA_TARGETS = 64, ["to_q", "to_k", "to_v", "to_out.0"]
EMA_DECAY = 0.99
PLAIN = "plain"
GUIDED = {"guidance_reference": "base", "enhanced_ratio": 0.5}
WAYS: dict[str, dict[str, Any] | None] = {
    PLAIN: None,
    "K = 1, no guidance": {"enhanced_ratio": 0.0},
    "K = 2, no guidance": {"enhanced_ratio": 0.0, "target_step_count": 2},
    "K = 1, guidance 2 (default)": {**GUIDED},
    "K = 2, guidance 2": {"target_step_count": 2, **GUIDED},
    "K = 1, guidance 2, adversarial": {"adversarial_enabled": True, **GUIDED},
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
        pooled = None if self.pooled is None else self.pooled.index_select(0, rows)
        with self.conditioning.times(t, r, sign):
            return self._answer(x_t, t, words, pooled)

    def plain(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity for the whole batch, without time conditioning, as plain training has it."""
        return self._answer(x_t, t, self.prompts, self.pooled)

    def _answer(self, x_t: Tensor, t: Tensor, words: Tensor, pooled: Tensor | None) -> Tensor:
        more = {} if pooled is None else {"pooled_projections": pooled}
        given = {"hidden_states": x_t.to(torch.bfloat16), "encoder_hidden_states": words, "timestep": 1000 * t} | more
        answer: Tensor = self.network(**given).sample
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
        return (self.trained.plain(x_t, t) - (z - x)).square().mean()

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
            turn=self.steps,
        )
        self.forwards += sum(losses.forwards.values()) - losses.forwards["student"]
        return losses.total
