"""Target time and time sign in a host's network: the modules, where they live, and the passes that use them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from simpletuner_twinflow.conditioning import NegativeTimeEmbedding, TargetTimeEmbedding, TimeConditioning
from simpletuner_twinflow.host.families import Family

TARGET_TIME = "twinflow_target_time"  # batch key, and name of the module
NEGATIVE_TIME = "twinflow_negative_time"  # name of the module where the sign does not go the host's way
SIGN = "twinflow_sign"  # batch key
HOST_SIGN = "twinflow_time_sign"  # the host's own batch key


def conditioning_names(family: Family) -> tuple[str, ...]:
    """The network's submodules that only training needs."""
    return TARGET_TIME, family.host_sign or NEGATIVE_TIME


def add_modules(network: nn.Module, family: Family) -> None:
    """Add the modules to a network, on its device and in its dtype."""
    reference = next(network.parameters())
    width = _width(network.get_submodule(family.time_embedding))
    network.add_module(TARGET_TIME, TargetTimeEmbedding(width).to(device=reference.device, dtype=reference.dtype))
    if family.host_sign is None:
        module = NegativeTimeEmbedding(width).to(device=reference.device, dtype=reference.dtype)
        network.add_module(NEGATIVE_TIME, module)


def attach(model: Any, family: Family, sigma: Any) -> TimeConditioning:
    """Add the modules to the model's network and have its passes on our batches use them.

    Args:
        model: the host's `ModelFoundation`; its network is loaded and frozen.
        family: of the model.
        sigma: gives the times of a batch's rows, (B,).
    """
    network = model.get_trained_component(unwrap_model=True)
    add_modules(network, family)
    conditioning = TimeConditioning(
        network.get_submodule(family.time_embedding),
        network,
        target_time=TARGET_TIME,
        negative_time=None if family.host_sign else NEGATIVE_TIME,
        rows_first=family.rows_first,
    )
    if family.host_sign is not None:
        # Positive time is the pre-trained network: its row of the sign embedding stays zero and gets no gradient.
        network.get_submodule(family.host_sign).padding_idx = 0

    predict = model.model_predict

    def model_predict(prepared_batch: dict, *args: Any, **kwargs: Any) -> dict:
        if TARGET_TIME not in prepared_batch:
            return predict(prepared_batch, *args, **kwargs)
        with conditioning.times(sigma(prepared_batch), prepared_batch[TARGET_TIME], prepared_batch[SIGN]):
            return predict(prepared_batch, *args, **kwargs)

    model.model_predict = model_predict
    return conditioning


@contextmanager
def hidden(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Keep the named submodules out of a network's sight inside this block; each is back in its place after it.

    PEFT adapts and saves whatever a network shows it that a user's targets name: a bare "linear_1", a regular
    expression, "all-linear".
    """
    with ExitStack() as back:
        for name in names:
            parent, _, child = name.rpartition(".")
            owner = network.get_submodule(parent)
            # None keeps the place, and with it the order of the parameters that optimizer and EMA go by. Assigned in
            # the table itself: some of the host's networks answer an assignment of None with one beside it.
            back.callback(owner._modules.__setitem__, child, owner._modules[child])
            owner._modules[child] = None
        yield


def batch_keys(family: Family, r: Tensor, sign: Tensor) -> Mapping[str, Tensor]:
    """What a batch must hold so that its passes are conditioned on r and sign, both (B,)."""
    keys = {TARGET_TIME: r, SIGN: sign}
    return keys | {HOST_SIGN: sign} if family.host_sign else keys


class ConditionedClass:
    """A network class whose `from_config` gives the network with its conditioning modules.

    The host saves a full model's EMA by filling a network made from its configuration, parameter by parameter.
    """

    def __init__(self, network_class: type, family: Family) -> None:
        self._network_class, self._family = network_class, family

    def from_config(self, config: Any) -> nn.Module:
        """As the network class's own."""
        network = self._network_class.from_config(config)
        add_modules(network, self._family)
        return network


def _width(time_embedding: nn.Module) -> int:
    """The width of a time embedding: that of its last linear layer."""
    return [module for module in time_embedding.modules() if isinstance(module, nn.Linear)][-1].out_features
