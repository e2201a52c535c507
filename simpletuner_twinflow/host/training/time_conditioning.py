"""Target time and time sign in a host's network: the modules, where they live, and the passes that use them."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from simpletuner_twinflow.host.seams import set_on
from simpletuner_twinflow.host.settings.families import Family
from simpletuner_twinflow.method.time_conditioning import NegativeTimeEmbedding, TargetTimeEmbedding, TimeConditioning

TARGET_TIME = "twinflow_target_time"  # batch key, and name of the module
NEGATIVE_TIME = "twinflow_negative_time"  # name of the module
SIGN = "twinflow_sign"  # batch key
TIME_CONDITIONING = (TARGET_TIME, NEGATIVE_TIME)  # the network's submodules that only training needs


def add_modules(network: nn.Module, family: Family) -> None:
    """Add the modules to a network, on its device and in its dtype.

    The host's own sign embedding is left alone. Its loader would have to make up weights that no file holds, and does
    so by reading the network a second time in a way that a network with float32 modules or a quantised one refuses.
    """
    reference = next(network.parameters())
    width = _width(network.get_submodule(family.time_embedding))
    for name, module in ((TARGET_TIME, TargetTimeEmbedding(width)), (NEGATIVE_TIME, NegativeTimeEmbedding(width))):
        network.add_module(name, module.to(device=reference.device, dtype=reference.dtype))


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
        negative_time=NEGATIVE_TIME,
        rows_first=family.rows_first,
    )
    predict = model.model_predict

    def model_predict(prepared_batch: dict, *args: Any, **kwargs: Any) -> dict:
        if TARGET_TIME not in prepared_batch:
            return predict(prepared_batch, *args, **kwargs)
        with conditioning.times(sigma(prepared_batch), prepared_batch[TARGET_TIME], prepared_batch[SIGN]):
            return predict(prepared_batch, *args, **kwargs)

    set_on(model, "model_predict", model_predict)
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


def batch_keys(r: Tensor, sign: Tensor) -> dict[str, Any]:
    """What a batch must hold so that its passes are conditioned on r and sign, both (B,)."""
    return {TARGET_TIME: r, SIGN: sign}


class TimeConditionedClass:
    """A network class whose `from_config` gives the network with its conditioning modules.

    The host saves a full model's EMA by filling a network made from its configuration, parameter by parameter.
    """

    def __init__(self, network_class: Any, family: Family) -> None:
        self._network_class, self._family = network_class, family

    def from_config(self, config: Any) -> nn.Module:
        """As the network class's own."""
        network = self._network_class.from_config(config)
        add_modules(network, self._family)
        return network


def _width(time_embedding: nn.Module) -> int:
    """The width of a time embedding: that of its last linear layer."""
    return [module for module in time_embedding.modules() if isinstance(module, nn.Linear)][-1].out_features
