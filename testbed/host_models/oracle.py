"""A network that knows the answer: the host's own, whose output is replaced by the exact average velocity."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from testbed.host_models.tiny import Tiny, cached_text


def install(network: torch.nn.Module, tiny: Tiny, *, prompted: float, unprompted: float, drawn: bool = False) -> None:
    """Make `network` exact for data that is one number in every element: under a prompt `prompted`, else `unprompted`.

    From x_t = (1 - t) c + t z follows z - c = (x_t - c) / t at every target time, in whatever order a family lays the
    elements out. The host's network runs too, so its input is what it takes and the output is of its shape.

    Args: drawn: whether a pipeline asks it, which gives some networks another time than training does.
    """
    real = getattr(network, tiny.predicts)
    time = tiny.drawn_time if drawn and tiny.drawn_time else tiny.time

    @wraps(real)
    def forward(*args: Any, **kwargs: Any) -> Any:
        output, given = real(*args, **kwargs), named(real, args, kwargs)
        point = unprompted if is_empty_prompt(tiny, given) else prompted
        if tiny.reads_words:  # a pipeline may ask with and without the prompt in one pass
            known = (given["input_ids"] > 1).any(dim=1)
            point = torch.where(known, prompted, unprompted).reshape(-1, 1, 1, 1)
        t = torch.atleast_1d(time(given[tiny.timestep].float()))

        def exact(x: Tensor, like: Tensor, t: Tensor) -> Tensor:
            if x.shape[0] == 1 < t.shape[0]:  # the samples' tokens in one sequence
                return exact(x[0], like[0], t.repeat_interleave(x.shape[1] // t.shape[0])).unsqueeze(0)
            if x.ndim == 3 and x.shape[1] < like.shape[1]:  # the output begins with the prompt's tokens
                return torch.cat([like[:, : -x.shape[1]], exact(x, like[:, -x.shape[1] :], t)], dim=1)
            x = x[tuple(slice(size) for size in like.shape)]  # what is concatenated to the sample comes after it
            assert x.shape == like.shape
            return tiny.direction * (x - point) / t.reshape(*t.shape, *[1] * (x.ndim - t.ndim))

        return replaced(output, given[tiny.hidden], t, exact)

    setattr(network, tiny.predicts, forward)


def replaced(output: Any, x: Any, t: Tensor, exact: Callable[[Any, Tensor, Tensor], Tensor]) -> Any:
    """The output with its prediction replaced; a list has an entry a sample."""
    if isinstance(output, Tensor):
        return exact(x, output, t)
    if isinstance(output, list):
        return [exact(x[row], output[row], t[row : row + 1]) for row in range(len(output))]
    if isinstance(output, tuple):
        return replaced(output[0], x, t, exact), *output[1:]
    output.sample = replaced(output.sample, x, t, exact)
    return output


def named(forward: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """What a network was given, by the names in its signature."""
    return dict(inspect.signature(forward).bind(*args, **kwargs).arguments)


def is_empty_prompt(tiny: Tiny, given: dict[str, Any]) -> bool:
    """Whether a network was given the empty prompt, of which every embedding must agree."""
    if tiny.reads_words:
        return not (given["input_ids"] > 1).any()
    if tiny.given is not None:
        empty = tiny.given(cached_text(tiny.text, "")).to(given["encoder_hidden_states"].dtype)
        return torch.allclose(given["encoder_hidden_states"], empty, rtol=1e-3, atol=1e-4)
    if tiny.empty_is_zero:
        return not next(given[name] for name in tiny.empty_is_zero if name in given).any()
    found = list(tensors({name: value for name, value in given.items() if name not in (tiny.hidden, tiny.timestep)}))
    empty = {
        name: any((tensor.float() == next(iter(tensors(value))).flatten()[0]).any() for tensor in found)
        for name, value in cached_text(tiny.text, "").items()
        if not isinstance(tiny.text[name], str)
    }
    assert len(set(empty.values())) == 1, f"some embeddings are the empty prompt's, others are not: {empty}"
    return all(empty.values())


def tensors(value: Any) -> Iterator[Tensor]:
    """All floating tensors in nested lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif is_dataclass(value):
        yield from tensors(vars(value))
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
