"""LyCORIS networks (LoKr, LoHa and others): what such a run trains lies in a network of its own, beside the model's.

Optimizer, EMA, clipping and checkpoints of the host take that network's parameters. The time conditioning therefore
becomes a part of it too, and is taken out of it where an adapter is saved or loaded.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn import Parameter

from simpletuner_twinflow.host.training.compiled import named_parameters
from simpletuner_twinflow.host.training.time_conditioning import TIME_CONDITIONING, hidden

IN_NETWORK = "lycoris_wrapped_network"  # the name under which the host puts it into the model's network
EXPORT = "twinflow_export"  # of the LyCORIS network: a block in which its weights are those that the run exports


def lycoris_of(model: Any) -> Any | None:
    """The LyCORIS network that a run trains; None where it trains none. Args: model: the host's `ModelFoundation`."""
    return getattr(getattr(model, "accelerator", None), "_lycoris_wrapped_network", None)


def trained_parameters(model: Any, network: nn.Module | None = None) -> dict[str, Parameter]:
    """What a run trains, by the names in the model's network and in the order of its EMA's averages.

    Args: network: the model's, unwrapped, by one who has it: for another the host looks through all its modules.
    """
    if (lycoris := lycoris_of(model)) is not None:
        ours = {*TIME_CONDITIONING}
        return {
            name if name.split(".")[0] in ours else f"{IN_NETWORK}.{name}": parameter
            for name, parameter in lycoris.named_parameters()
        }
    network = network or model.get_trained_component(unwrap_model=True)
    return {name: parameter for name, parameter in named_parameters(network).items() if parameter.requires_grad}


def train_beside(lycoris: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Make the modules of the time conditioning a part of the network that is trained."""
    for name, module in modules.items():
        lycoris.add_module(name, module)


@contextmanager
def switched_off(lycoris: Any | None) -> Iterator[None]:
    """Inside this block the model's network is as it was before training, as the host's own prior passes have it."""
    if lycoris is None:
        yield
        return
    multiplier = lycoris.multiplier
    lycoris.set_multiplier(0.0)
    try:
        yield
    finally:
        lycoris.set_multiplier(multiplier)


def returns_to_base(lycoris: Any) -> bool:
    """Whether multiplier 0 is the base.

    A decomposed weight keeps its trained norm, a rescaled one its scale, and DyLoRA's bypass its change.
    """
    kinds = (type(layer).__name__ for layer in lycoris.loras if layer.bypass_mode)
    kept = (getattr(layer, "wd", False) or getattr(layer, "rescaled", False) for layer in lycoris.loras)
    return "DyLoraModule" not in kinds and not any(kept)


@contextmanager
def as_plain(lycoris: Any) -> Iterator[None]:
    """Inside this block the LyCORIS network is that of a plain run: an adapter, without our modules and export."""
    names = [name for name in TIME_CONDITIONING if name in lycoris._modules]
    with ExitStack() as back:
        if (export := vars(lycoris).pop(EXPORT, None)) is not None:
            back.callback(vars(lycoris).__setitem__, EXPORT, export)
        back.enter_context(hidden(lycoris, names))
        yield
