"""Target time and time sign in a host network: the modules that embed them, and the passes that use these."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.seams import changed, set_on
from simpletuner_twinflow.host.settings.family import Family
from simpletuner_twinflow.method.batch import ONE_STEP
from simpletuner_twinflow.method.time_conditioning import (
    NegativeTimeEmbedding,
    TargetTimeEmbedding,
    TimeConditioning,
    Times,
)

TARGET_TIME = "twinflow_target_time"  # batch key, and name of the module
NEGATIVE_TIME = "twinflow_negative_time"  # name of the module
SIGN = "twinflow_sign"  # batch key
OWN_TARGET_TIME = "target_timestep"  # argument of the networks that know one
TIME_CONDITIONING = (TARGET_TIME, NEGATIVE_TIME)  # the network's submodules that only training needs


def add_modules(network: nn.Module, family: Family, step_times: tuple[float, ...] = ONE_STEP) -> None:
    """Add the modules to a network whose sampler calls it at these times, on its device and in its dtype.

    The host's own sign embedding is not used: its loader fails on quantised networks and those with float32 modules.
    """
    reference = next(network.parameters())
    # By what they have, not by class: quantised and streamed layers are no `nn.Linear`.
    layers = network.get_submodule(family.time_embedding).modules()
    widths = [getattr(layer, "out_features", getattr(layer, "out_channels", None)) for layer in layers]
    width = [int(found) for found in widths if found is not None][-1]
    target_time, negative_time = TargetTimeEmbedding(width, step_times), NegativeTimeEmbedding(width)
    for name, module in ((TARGET_TIME, target_time), (NEGATIVE_TIME, negative_time)):
        network.add_module(name, module.to(device=reference.device, dtype=reference.dtype))


def attach(model: Any, family: Family, sigma: Any, step_times: tuple[float, ...]) -> TimeConditioning:
    """Add the modules to the loaded and frozen network of a `ModelFoundation`; its passes on our batches use them.

    Args: sigma: gives the times of a batch's rows, (B,); step_times: of the sampler that needs no modules.
    """
    network = model.get_trained_component(unwrap_model=True)
    add_modules(network, family, step_times)
    time_conditioning = TimeConditioning(
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
        times = Times(sigma(prepared_batch), prepared_batch[TARGET_TIME], prepared_batch[SIGN])
        if family.one_sample_a_pass:
            with each_sample_at(model, time_conditioning, times):
                return predict(prepared_batch, *args, **kwargs)
        if family.knows_target_time:
            with time_conditioning.times(*times), own_target_time(network, times.r):
                return predict(prepared_batch, *args, **kwargs)
        with time_conditioning.times(*times):
            return predict(prepared_batch, *args, **kwargs)

    set_on(model, "model_predict", model_predict)
    return time_conditioning


@contextmanager
def own_target_time(network: nn.Module, r: Tensor) -> Iterator[None]:
    """Inside this block a network that knows a target time is given r, (B,), and not the time, as the host gives it."""

    def with_target(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        known = kwargs.get(OWN_TARGET_TIME) is not None
        return args, kwargs | ({OWN_TARGET_TIME: r} if known else {})

    handle = network.register_forward_pre_hook(with_target, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def each_sample_at(model: Any, time_conditioning: TimeConditioning, times: Times) -> Iterator[None]:
    """Inside this block the model predicts a batch, a sample at a time and in order, each at its own times.

    Its time embedding is called once a sample, with a row a patch. It is outside of the parts that the host recomputes
    for gradient checkpointing, so that no pass needs its times again.

    Raises:
        TwinFlowError: the model has predicted another number of samples.
    """
    single, rows = model._predict_single_sample, iter(range(len(times.t)))

    def predict_single_sample(**given: Any) -> Any:
        if (row := next(rows, None)) is None:
            raise TwinFlowError(f"The host predicts more samples than the {len(times.t)} of its batch.")
        with time_conditioning.times(*(values[row : row + 1] for values in times)):
            return single(**given)

    with changed(model, _predict_single_sample=predict_single_sample):
        yield
    if left := len(list(rows)):
        raise TwinFlowError(f"The host has left out {left} of the {len(times.t)} samples of its batch.")


@contextmanager
def hidden(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Take the named submodules out of a network inside this block, so that PEFT cannot adapt or save them.

    A user's targets may name them: a bare "linear_1", a regular expression, "all-linear".
    """
    with ExitStack() as back:
        for name in names:
            parent, _, child = name.rpartition(".")
            owner = network.get_submodule(parent)
            # None keeps the place, and so the order of the parameters, on which optimizer and EMA depend. Assigned in
            # the table itself: with setattr some host networks keep the module and add a None.
            back.callback(owner._modules.__setitem__, child, owner._modules[child])
            owner._modules[child] = None
        yield


class TimeConditionedClass:
    """A network class with a `from_config` that adds the modules.

    The host saves a full model's EMA by filling a network made from its configuration, parameter by parameter.
    """

    def __init__(self, network_class: Any, family: Family) -> None:
        self._network_class, self._family = network_class, family

    def from_config(self, config: Any) -> nn.Module:
        """A network made by the class's own `from_config`, with the modules."""
        network = self._network_class.from_config(config)
        add_modules(network, self._family)
        return network
