"""A trained LoRA as a file that means the same to every reader: `W + B A`, where W is the base model's own weight.

Two parts of the change are not in the factors A and B. The scale alpha / rank stands in the file's header only, which
ComfyUI, LightX2V and sd.cpp do not read. And `lora_init_type` pissa and olora subtract the factors' initial product
from the frozen base weights, which no reader does to its own base. So the file holds the whole change: B includes the
scale, and the initial product is subtracted from `B A`.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from simpletuner_twinflow.host.settings.conflict_rows import MOVES_BASE
from simpletuner_twinflow.host.training.compiled import plain_name

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"  # the name under which the host adds the adapter that it trains


class Factors(NamedTuple):
    """A change of one layer's weight: `up @ down`."""

    down: Tensor  # A, (rank, in, ...)
    up: Tensor  # B, (out, rank, ...), its scale included


def taken_from_base(network: Any) -> dict[str, Factors]:
    """What the adapter's initialisation has subtracted from the frozen base weights, by layer; on the CPU.

    Must be called before the adapter is trained or loaded, while its factors are those of the initialisation.
    """
    if not str(network.peft_config[ADAPTER].init_lora_weights).startswith(MOVES_BASE):
        return {}
    return {
        name: Factors(
            down=layer.lora_A[ADAPTER].weight.detach().float().cpu().clone(),
            up=layer.lora_B[ADAPTER].weight.detach().float().cpu() * scale(layer),
        )
        for name, layer in lora_layers(network)
    }


def scale(layer: "LoraLayer") -> float:
    """The factor of the layer's `B A`; PEFT's own record of it changes while an adapter is switched off."""
    rank = layer.r[ADAPTER]
    return layer.lora_alpha[ADAPTER] / (rank**0.5 if layer.use_rslora[ADAPTER] else rank)


def lora_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The network's layers that the trained adapter changes, by name."""
    from peft.tuners.lora import LoraLayer  # takes ten seconds, for which `doctor` would wait

    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.r:
            yield plain_name(name), layer


def whole_change(network: nn.Module, weights: Mapping[str, Tensor], taken: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The adapter's weights as the whole change of the untouched base: a reader adds `B A` and nothing else.

    All layers are padded with zeros to the largest rank: where ranks differ, diffusers without the header takes the
    commonest for the alpha of all, and other readers have rules of their own.

    Args:
        network: with the adapter.
        weights: of `peft.get_peft_model_state_dict`, on the CPU.
        taken: of `taken_from_base` at the start of this run.
    """
    changes: dict[str, Factors] = {}
    for name, layer in lora_layers(network):
        a, b = (weights[key] for key in _keys(name, weights))
        change = Factors(a, (b.float() * scale(layer)).to(b.dtype))
        changes[name] = _difference(change, taken[name]) if name in taken else change
    rank = max(change.down.shape[0] for change in changes.values())
    whole = dict(weights)
    for name, change in changes.items():
        down, up = _keys(name, weights)
        whole[down] = _padded(change.down, 0, rank).contiguous()
        whole[up] = _padded(change.up, 1, rank).contiguous()
    return whole


def described(network: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The header of a file with these weights, for PEFT: rank and an alpha equal to it.

    Without dropout, which a loader would apply when it draws, and without an initialisation that changes the base.
    """
    name, _ = next(lora_layers(network))
    rank = weights[_keys(name, weights)[0]].shape[0]
    plain = {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
    }
    return network.peft_config[ADAPTER].to_dict() | plain


def _keys(name: str, weights: Mapping[str, Tensor]) -> tuple[str, str]:
    """The keys of a layer's A and B."""
    if f"{name}.lora_embedding_A" in weights:
        return f"{name}.lora_embedding_A", f"{name}.lora_embedding_B"
    return f"{name}.lora_A.weight", f"{name}.lora_B.weight"


def _difference(change: Factors, taken: Factors) -> Factors:
    """The difference of two changes of a linear layer, as factors of twice the rank with equal singular values.

    Subtracted in float64: after a short training both are large and nearly equal, and a reader in bf16 would lose the
    difference.
    """
    up_basis, up = torch.linalg.qr(torch.cat([change.up.double(), -taken.up.double()], dim=1))
    down_basis, down = torch.linalg.qr(torch.cat([change.down.double(), taken.down.double()]).T)
    left, values, right = torch.linalg.svd(up @ down.T, full_matrices=False)
    root = values.sqrt()
    return Factors(
        down=(root[:, None] * (right @ down_basis.T)).to(change.down.dtype),
        up=((up_basis @ left) * root).to(change.up.dtype),
    )


def _padded(factor: Tensor, dim: int, rank: int) -> Tensor:
    shape = list(factor.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([factor, factor.new_zeros(shape)], dim=dim)
