"""The network as it was before training, the reference of guidance: its first weights, lent for a pass."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.seams import changed
from simpletuner_twinflow.host.settings.conflict_rows import MOVES_BASE
from simpletuner_twinflow.host.training.compiled import is_compiled
from simpletuner_twinflow.host.training.lycoris import (
    IN_NETWORK,
    lycoris_of,
    returns_to_base,
    switched_off,
    trained_parameters,
)
from simpletuner_twinflow.host.training.time_conditioning import TIME_CONDITIONING
from simpletuner_twinflow.method.sharding import is_sharded, like_sharded, reshard
from simpletuner_twinflow.method.teacher import lent_weights
from simpletuner_twinflow.options import TwinFlowOptions

Block = Callable[[], AbstractContextManager[None]]

logger = logging.getLogger("simpletuner_twinflow")

A, B = {"lora_A", "lora_embedding_A"}, {"lora_B", "lora_embedding_B"}  # in the names of an adapter's factors


class FrozenBase:
    """The first values of all that a run trains. Must be made before anything is trained, or loaded from a checkpoint.

    Where they are known they are not kept: an adapter is left out, by PEFT's switch or by zeros for its factors B, a
    LyCORIS network by its multiplier, and time conditioning by zeros, so an adapter needs no memory. An adapter that
    has changed the base's weights is kept as it was made, and so is all else: what a full fine-tune trains, and
    modules that are trained whole beside an adapter.
    """

    def __init__(self, trainer: Any, options: TwinFlowOptions) -> None:
        """Args: trainer: the host's; options: where a full fine-tune's copy is kept, and in which dtype."""
        self._model = trainer.model
        lora = trainer.config.model_type == "lora"
        moved = lora and trainer.config.lora_init_type in MOVES_BASE
        self._left_alone, zeros = (set(), set()) if moved else (A, B)
        if (lycoris := lycoris_of(self._model)) is not None:
            if not returns_to_base(lycoris):
                raise TwinFlowError(
                    f"lycoris_config is {trainer.config.lycoris_config!r}: LyCORIS cannot switch this network off, so "
                    "there is no base for guidance or a regularisation set. Way out: another algo in it, or "
                    'twinflow_guidance_reference "ema".'
                )
            self._left_alone = {IN_NETWORK}
        self._layers: list[nn.Module] | None = None
        self._zeros = zeros | {*TIME_CONDITIONING}
        device, dtype = trainer.accelerator.device, None
        if not lora and options.guidance_base_device == "cpu":
            device = torch.device("cpu")
        if not lora and options.guidance_base_dtype != "auto":
            dtype = getattr(torch, options.guidance_base_dtype)
        trained = self._trained().items()
        self._kept = {name: _copy(it, device, dtype) for name, it in trained if not self._zeros & _parts(name)}
        if self._kept and trainer.accelerator.is_main_process:
            self._log_cost(trainer.accelerator.device)

    def lend(self, network: nn.Module | None = None) -> Block:
        """A block in which the network is this base, to be entered as often as needed: its values are made here, once.

        Args: network: the model's, unwrapped, by one who has it.

        Raises:
            TwinFlowError: A parameter is trained that was not when training began.
        """
        network = network or self._model.get_trained_component(unwrap_model=True)
        reshard(network)
        trained, lycoris, layers = self._trained(network), lycoris_of(self._model), self._adapted(network)
        if layers:
            trained = {name: parameter for name, parameter in trained.items() if not B & _parts(name)}
        first = [self._first(name, parameter) for name, parameter in trained.items()]

        @contextmanager
        def block() -> Iterator[None]:
            with ExitStack() as off:
                off.enter_context(lent_weights(network, trained.values(), first))
                off.enter_context(switched_off(lycoris))
                for layer in layers:
                    off.enter_context(changed(layer, _disable_adapters=True))
                yield

        return block

    def kept(self) -> list[Tensor]:
        """The values that take memory of their own."""
        return list(self._kept.values())

    def _adapted(self, network: nn.Module) -> list[nn.Module]:
        """The layers whose adapter is left out of the base's passes, which saves what it would compute to no effect.

        None where the adapter has moved the base, nor in a network that torch compiles, which would be compiled anew.
        """
        if self._layers is None:
            from peft.tuners.tuners_utils import BaseTunerLayer  # takes ten seconds, for which `doctor` would wait

            off = bool(self._left_alone & A) and not is_compiled(self._model.accelerator)
            self._layers = [it for it in network.modules() if off and isinstance(it, BaseTunerLayer)]
        return self._layers

    def _first(self, name: str, parameter: Parameter) -> Tensor:
        if self._zeros & _parts(name):
            return torch.zeros_like(parameter)
        if (value := self._kept.get(name)) is None:
            raise TwinFlowError(f"{name} is trained, but was not when the frozen base of guidance was taken.")
        if is_sharded(parameter) and not is_sharded(value):
            value = self._kept[name] = like_sharded(value, parameter)  # taken before FSDP2 has sharded the network
        return value.to(device=parameter.device, dtype=parameter.dtype, non_blocking=True)

    def _trained(self, network: nn.Module | None = None) -> dict[str, Parameter]:
        """What is lent, by name: all that is trained but the factors A, which add nothing where B is zero."""
        return {
            name: parameter
            for name, parameter in trained_parameters(self._model, network).items()
            if not self._left_alone & _parts(name)
        }

    def _log_cost(self, accelerator: torch.device) -> None:
        values = self.kept()
        size = sum(value.numel() * value.element_size() for value in values) / 1e9
        logger.info(
            "TwinFlow keeps the first values of %s parameters for guidance: %.2f GB of %s on %s.",
            f"{sum(value.numel() for value in values):,}",
            size,
            ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in values})),
            values[0].device,
        )
        if values[0].device.type != accelerator.type:
            logger.warning(
                'twinflow_guidance_base_device is "cpu": TwinFlow copies %.2f GB to the accelerator for every batch. '
                'Set it to "accelerator" if its memory allows.',
                size,
            )


def _parts(name: str) -> set[str]:
    return {*name.split(".")}


def _copy(parameter: Parameter, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    value = parameter.detach().to(device=device, dtype=dtype, copy=True)
    # Copied from pinned memory for each batch, which does not make the host wait.
    return value.pin_memory() if device.type == "cpu" and torch.cuda.is_available() else value
