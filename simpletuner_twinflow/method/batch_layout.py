"""Passes on some rows of a batch, laid out like the pass on all of them.

For networks whose output for a sample depends on its place in the batch: student and teacher are compared, so a sample
must have the same place in both passes.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from simpletuner_twinflow.method.batch import Predict, PromptRows, index


def on_whole_batch(predict: Predict, size: int) -> Predict:
    """The same passes on batches of `size` rows, each row in its own place and zeros at time 0 in the others.

    A row that is asked for twice takes two passes.

    Args:
        predict: passes on any rows, each of which restarts the random numbers.
        size: rows of the batch of the student's pass.
    """

    def whole(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, prompts: PromptRows) -> Tensor:
        if prompts.rows == tuple(range(size)):
            return predict(x_t, t, r, sign, prompts)
        everyone = PromptRows(tuple(range(size)), prompts.unconditional)
        result = torch.empty_like(x_t)
        for positions in _without_repetition(prompts.rows):
            asked = index(positions, x_t)
            places = index(tuple(prompts.rows[position] for position in positions), x_t)

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
