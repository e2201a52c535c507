"""What it costs to lend the EMA's weights to the network, as a share of a training step: ours and the host's own way.

python -m benchmarks.teacher_swap; a few seconds on the demo's tiny SD3, with a LoRA and as a full fine-tune.
"""

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from simpletuner.helpers.training.ema import EMAModel  # noqa: TID251 - its way of swapping is what is measured

from simpletuner_twinflow.method.teacher import teacher_weights
from testbed.trainer import ROOT

BATCH = 16
REPEATS = 30


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    table = Table(
        "", "step, ms", "our swap, ms", "share", "host's swap, ms", "share", title="Swapping the teacher in and out"
    )
    for name, lora in (("LoRA", True), ("full", False)):
        network = _network(lora)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        ema = EMAModel(SimpleNamespace(), None, trained)
        everything = list(network.parameters())

        def ours(trained: list = trained, ema: EMAModel = ema) -> None:
            with teacher_weights(trained, ema.shadow_params):
                pass

        def hosts(everything: list = everything, ema: EMAModel = ema) -> None:
            ema.store(everything)
            ema.copy_to(everything)
            ema.restore(everything)

        step, swap, host_swap = (_milliseconds(action) for action in (_step(network), ours, hosts))
        shares = (f"{swap / step:.3%}", f"{host_swap / step:.2%}")
        table.add_row(name, f"{step:.1f}", f"{swap:.3f}", shares[0], f"{host_swap:.2f}", shares[1])
    Console().print(table)


def _network(lora: bool) -> SD3Transformer2DModel:
    network = SD3Transformer2DModel.from_pretrained(ROOT / "demo/base/transformer")
    if lora:
        network.requires_grad_(False)
        network.add_adapter(LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    return network


def _step(network: SD3Transformer2DModel) -> Callable[[], None]:
    """Forward and backward of one batch."""
    config = network.config
    arguments = {
        "hidden_states": torch.randn(BATCH, config.in_channels, 32, 32),
        "encoder_hidden_states": torch.randn(BATCH, 85, config.joint_attention_dim),
        "pooled_projections": torch.randn(BATCH, config.pooled_projection_dim),
        "timestep": torch.full((BATCH,), 500.0),
    }

    def step() -> None:
        network(**arguments).sample.square().mean().backward()
        network.zero_grad()

    return step


def _milliseconds(action: Callable[[], None]) -> float:
    """The median of some repeats."""
    durations = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        durations.append(1000 * (time.perf_counter() - began))
    return statistics.median(durations)


if __name__ == "__main__":
    main()
