"""Passes on some rows of a batch, laid out like the pass on all of them.

Dropout draws one mask for the whole tensor, so two passes on the same random numbers have the same masks only if their
batches have the same rows in the same places. RCGM multiplies the difference between student and teacher by up to 1/D:
masks that disagree would bury its target in noise.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from simpletuner_twinflow.rows import Condition, Predict, index


def has_active_dropout(network: nn.Module) -> bool:
    """Whether a dropout layer of the network, adapters included, would drop anything as it is now."""
    layers = (module for module in network.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    return any(layer.training and layer.p > 0 for layer in layers)


def on_whole_batch(predict: Predict, size: int) -> Predict:
    """The same passes, each on a batch of `size` rows in which every row asked for stands where it belongs.

    The other rows are zeros at time 0, computed and thrown away. A row that is asked for twice takes two passes.

    Args:
        predict: passes on any rows, each of which starts the random numbers anew.
        size: rows of the batch that the graded pass is made on.
    """

    def whole(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, condition: Condition) -> Tensor:
        if condition.rows == tuple(range(size)):
            return predict(x_t, t, r, sign, condition)
        everyone = Condition(tuple(range(size)), condition.unconditional)
        result = torch.empty_like(x_t)
        for positions in _without_repetition(condition.rows):
            asked = index(positions, x_t)
            places = index(tuple(condition.rows[position] for position in positions), x_t)

            def spread(values: Tensor, other: float, asked: Tensor = asked, places: Tensor = places) -> Tensor:
                return values.new_full((size, *values.shape[1:]), other).index_copy(0, places, values[asked])

            found = predict(spread(x_t, 0.0), spread(t, 0.0), spread(r, 0.0), spread(sign, 1.0), everyone)[places]
            result = result.to(found.dtype).index_copy(0, asked, found)
        return result

    return whole


def _without_repetition(rows: Iterable[int]) -> list[tuple[int, ...]]:
    """Positions in `rows`, in groups that name each row once: the first of every row, then the second, and so on."""
    groups: list[dict[int, int]] = []
    for position, row in enumerate(rows):
        group = next((group for group in groups if row not in group), None)
        if group is None:
            groups.append(group := {})
        group[row] = position
    return [tuple(group.values()) for group in groups]
