"""TREAD in a TwinFlow step: the teacher's passes drop the tokens that the student's pass with gradient has dropped.

The host routes in passes with gradient alone. RCGM divides the difference of the two by delta_t, so a teacher that sees
all tokens puts the routing into the target; measured in docs/benchmarks.md.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simpletuner_twinflow.host.seams import changed
from simpletuner_twinflow.method.objective import Predict, PromptRows
from simpletuner_twinflow.method.transfer import row_index


class TokenRoutes:
    """The routes of one step.

    Args: model: the host's `ModelFoundation`; network: its network, unwrapped, which may have a TREAD router.
    """

    def __init__(self, model: Any, network: nn.Module) -> None:
        self._model, self._network = model, network
        self._router = getattr(self._network, "_tread_router", None)
        self._taken: list[Any] = []  # the host's `MaskInfo`s, in the order of the network's routes

    @property
    def taken_again(self) -> bool:
        """Whether the passes without gradient take the routes of the one with gradient, which then comes first."""
        return self._router is not None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """A block for the student's pass with gradient; its routes are kept."""
        if self._router is None:
            yield
            return
        get_mask = self._router.get_mask

        def record(*args: Any, **kwargs: Any) -> Any:
            self._taken.append(get_mask(*args, **kwargs))
            return self._taken[-1]

        with changed(self._router, get_mask=record):
            yield

    def repeated(self, predict: Predict) -> Predict:
        """The same passes without gradient, each of their rows on the routes that it had in the recorded pass."""
        if self._router is None:
            return predict

        def on_routes(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, prompts: PromptRows) -> Tensor:
            following = iter(self._taken)

            def repeat(x: Tensor, *args: Any, **kwargs: Any) -> Any:
                return _of_rows(next(following), prompts.rows, x.device)

            model_predict = self._model.model_predict

            def routed(*args: Any, **kwargs: Any) -> Any:
                wrapped = self._model.get_trained_component(unwrap_model=False)
                with _without_reducer(wrapped), _routing_without_gradient(self._network):
                    return model_predict(*args, **kwargs)

            with changed(self._router, get_mask=repeat), changed(self._model, model_predict=routed):
                return predict(x_t, t, r, sign, prompts)

        return on_routes


def _of_rows(info: Any, rows: tuple[int, ...], device: torch.device) -> Any:
    """A `MaskInfo`, whose parts have a row for each sample, with these rows."""
    at = row_index(rows, device)
    return type(info)(**{name: part[at] for name, part in vars(info).items()})


@contextmanager
def _routing_without_gradient(network: nn.Module) -> Iterator[None]:
    """Inside this block torch says that gradients are on, which the host asks, and nothing is there that needs one."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with ExitStack() as back, torch.enable_grad():
        for parameter in trained:
            back.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        yield


def _without_reducer(network: nn.Module) -> AbstractContextManager[None]:
    """A block in which DDP does not get its reducer ready anew, as it does for passes while gradients are on.

    The pass with gradient has done so, and with `find_unused_parameters` these would be taken for one without any.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
