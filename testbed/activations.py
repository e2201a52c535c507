"""What the pass with gradient keeps for its backward pass, counted from the tensors that autograd saves.

python -m testbed.activations      the numbers of simpletuner_twinflow/host/settings/activations.py, at the models' real
                                   shapes; without memory, time or a GPU, since only shapes are computed
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import diffusers
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from simpletuner_twinflow.host.settings.network import ATTENTION

RANK = 16
KINDS = ("full", "lora")


class Architecture(NamedTuple):
    """A network and the inputs of one row."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    tokens: int  # of picture and text; latent pixels of a U-Net
    blocks: int
    width: int


class _FusedAttention(torch.autograd.Function):
    """What a fused attention saves; its values are not computed."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, answer)
        return answer


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Where only shapes are computed none is fused, and each row's every pair of tokens would be saved."""
    known = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _FusedAttention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = known


def saved_bytes(weights: Iterable[Tensor], call: Callable[[], Any]) -> int:
    """Bytes of the tensors that a call saves for its backward pass, each memory once, without the network's own."""
    own = {tensor.untyped_storage()._cdata for tensor in weights}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory._cdata not in own:
            kept[memory._cdata] = memory.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = call()  # held while they are counted, so that no memory is used twice
    total = sum(count for count, _ in kept.values())
    del answer
    return total


def prepared(network: nn.Module, kind: str) -> nn.Module:
    """The network with what a kind of TwinFlow run trains of it. Args: kind: of `KINDS`."""
    if kind == "full":
        return network
    network = inject_adapter_in_model(LoraConfig(r=RANK, target_modules=[*ATTENTION]), network).train()
    for name, parameter in network.named_parameters():
        if "time" in name and name.endswith("bias"):  # as time conditioning, which is added there
            parameter.requires_grad_(True)
    return network


def widths_kept(architecture: Architecture, kind: str, dtype: torch.dtype) -> float:
    """Elements of `dtype` that are kept for each token, block and element of the width.

    In 16 bits under autocast, as the host trains: what it computes in 32 bits, norms above all, is kept in 32 bits.
    """
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            network = prepared(architecture.build(), kind)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
            own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            weights = {
                name: torch.empty(it.shape, dtype=it.dtype, requires_grad=it.requires_grad) for name, it in own.items()
            }
            inputs = architecture.inputs()
            with _fused_attention(), _autocast() if dtype.itemsize == 2 else nullcontext():
                kept = saved_bytes(weights.values(), lambda: functional_call(network, weights, kwargs=inputs))
    finally:
        torch.set_default_dtype(torch.float32)
    return kept / dtype.itemsize / architecture.tokens / architecture.blocks / architecture.width


@contextmanager
def _autocast() -> Iterator[None]:
    """What `torch.autocast("cuda", torch.bfloat16)` does, which does nothing where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def _sd3(layers: int, heads: int, dual: int) -> Architecture:
    def build() -> nn.Module:
        return diffusers.SD3Transformer2DModel(
            sample_size=128,
            num_layers=layers,
            num_attention_heads=heads,
            attention_head_dim=64,
            joint_attention_dim=4096,
            caption_projection_dim=64 * heads,
            pooled_projection_dim=2048,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(dual)),
            qk_norm="rms_norm",
        )

    def inputs() -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(1, 16, 128, 128),
            "encoder_hidden_states": torch.randn(1, 333, 4096),
            "pooled_projections": torch.randn(1, 2048),
            "timestep": torch.ones(1),
        }

    return Architecture(build, inputs, 4096 + 333, layers, 64 * heads)


def _flux() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 4096, 64),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.ones(1),
        "guidance": torch.ones(1),
        "img_ids": torch.zeros(4096, 3),
        "txt_ids": torch.zeros(512, 3),
    }


def _qwen_image() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 4096, 64),
        "encoder_hidden_states": torch.randn(1, 128, 3584),
        "timestep": torch.ones(1),
        "img_shapes": [[(1, 64, 64)]],
    }


def _sana() -> dict[str, Any]:
    text = torch.randn(1, 300, 2304)
    return {"hidden_states": torch.randn(1, 32, 32, 32), "encoder_hidden_states": text, "timestep": torch.ones(1)}


def _wan() -> dict[str, Any]:
    text = torch.randn(1, 512, 4096)
    return {"hidden_states": torch.randn(1, 16, 5, 60, 104), "encoder_hidden_states": text, "timestep": torch.ones(1)}


def _pixart() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 4, 128, 128),
        "encoder_hidden_states": torch.randn(1, 300, 4096),
        "timestep": torch.ones(1),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _sdxl_network() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _sdxl() -> dict[str, Any]:
    return {
        "sample": torch.randn(1, 4, 128, 128),
        "timestep": torch.ones(1),
        "encoder_hidden_states": torch.randn(1, 77, 2048),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 1280), "time_ids": torch.ones(1, 6)},
    }


ARCHITECTURES = {
    "SD3.5-medium": _sd3(24, 24, 13),
    "SD3.5-large": _sd3(38, 38, 0),
    "FLUX.1": Architecture(
        lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True), _flux, 4096 + 512, 19 + 38, 3072
    ),
    "Qwen-Image": Architecture(diffusers.QwenImageTransformer2DModel, _qwen_image, 4096 + 128, 60, 3072),
    "SANA-1.6B": Architecture(diffusers.SanaTransformer2DModel, _sana, 1024, 20, 2240),
    "Wan 14B": Architecture(diffusers.WanTransformer3DModel, _wan, 5 * 30 * 52, 40, 5120),
    "PixArt": Architecture(
        lambda: diffusers.PixArtTransformer2DModel(
            sample_size=128, caption_channels=4096, use_additional_conditions=False
        ),
        _pixart,
        4096,
        28,
        1152,
    ),
    "SDXL": Architecture(_sdxl_network, _sdxl, 128 * 128, 1, 320),
}


def main() -> None:
    """Print the table."""
    for name, architecture in ARCHITECTURES.items():
        for dtype in (torch.bfloat16, torch.float32):
            kept = [widths_kept(architecture, kind, dtype) for kind in KINDS]
            print(name, dtype, ", ".join(f"{kind} {number:.1f}" for kind, number in zip(KINDS, kept, strict=True)))


if __name__ == "__main__":
    main()
