"""The contact sheet of a measure of quality: a few training prompts drawn in 1, 2, 4 and 8 steps, beside the data."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from simpletuner_twinflow.host.drawing.latents import KeptRows, few_step_samples, many_step_samples, moved, prompts_of
from simpletuner_twinflow.host.settings.budget import SHEET_STEPS
from simpletuner_twinflow.host.training.batches import select_rows
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.quality.contact_sheet import contact_sheet

SIDE = 192  # pixels, at most, of a cell's longer side
Draw = Callable[[dict[str, Any], int], Tensor]


class SampleSheet:
    """Draws the sheets of one run: the same prompts and, in a row, the same noise each time."""

    def __init__(self, model: FamilyModel, rows: int, seed: int) -> None:
        """Args: rows: prompts on the sheet; seed: of the start noise."""
        self._model, self._rows, self._seed = model, rows, seed
        self._parts: list[dict[str, Any]] = []
        self._beside: list[tuple[str, list[Image.Image]]] = []

    def picture(
        self,
        kept: KeptRows,
        weights: AbstractContextManager[None],
        base: tuple[Callable[[], AbstractContextManager[None]], int, float] | None,
        device: torch.device,
    ) -> Image.Image:
        """A row for each prompt, a column for each number of steps, then the base's samples and the data.

        Args:
            kept: complete; the first row of each of its prompts is drawn, and more of them if prompts are few.
            weights: with which the few steps are drawn.
            base: lends its weights, at the first sheet only; its number of Euler steps; its guidance scale. None leaves
                it out.
            device: of the network.
        """
        model = self._model.model
        was_loaded = getattr(model, "vae", None) is not None
        if not self._parts:
            self._parts = chosen_rows(kept.batches, self._rows)
        if not self._beside:
            if base is not None:
                lent, steps, scale = base
                title = f"base, {steps} steps" + (f", guidance {scale:g}" if scale != 1 else "")
                with lent():
                    self._beside.append(
                        (title, self._drawn(partial(many_step_samples, self._model, steps, scale), device))
                    )
            self._beside.append(("data", self._pictures([part["latents"] for part in self._parts])))
        with weights:
            few = [
                (
                    f"{steps} step{'s' if steps > 1 else ''}",
                    self._drawn(partial(few_step_samples, self._model, steps), device),
                )
                for steps in SHEET_STEPS
            ]
        if not was_loaded:
            model.unload_vae()
        columns = [*few, *self._beside]
        rows = list(zip(*(pictures for _, pictures in columns), strict=True))
        prompts = [prompt or "(empty prompt)" for prompt in prompts_of(self._parts)]
        return contact_sheet(rows, prompts, [title for title, _ in columns])

    def _drawn(self, draw: Draw, device: torch.device) -> list[Image.Image]:
        return self._pictures(
            [draw(moved(part, device), self._seed + number) for number, part in enumerate(self._parts)]
        )

    def _pictures(self, latents: Sequence[Tensor]) -> list[Image.Image]:
        return [picture(self._model.model, sample) for batch in latents for sample in batch.split(1)]


def chosen_rows(batches: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """The parts of these batches with `count` rows: a row of every prompt, then further ones."""
    prompts, seen = prompts_of(batches), set[str]()
    first, others = list[tuple[int, int]](), list[tuple[int, int]]()
    places = [(number, row) for number, batch in enumerate(batches) for row in range(len(batch["latents"]))]
    for place, prompt in zip(places, prompts, strict=True):
        (others if prompt in seen or not prompt else first).append(place)
        seen.add(prompt)
    wanted = sorted([*first, *others][:count])
    return [
        select_rows(batch, rows)
        for number, batch in enumerate(batches)
        if (rows := tuple(row for which, row in wanted if which == number))
    ]


@torch.no_grad()
def picture(model: Any, latents: Tensor) -> Image.Image:
    """One sample's latents, (1, ...), decoded by a `ModelFoundation` as a thumbnail; of a video its middle frame."""
    config = model.get_vae().config
    if (shift := getattr(config, "shift_factor", None)) and getattr(config, "latents_mean", None) is None:
        # The host's decoding leaves the shift out, which its encoding applies.
        latents = latents + shift * (getattr(config, "scaling_factor", None) or 1.0)
    frames = model.decode_latents_to_pixels(latents)[0]
    pixels = frames[len(frames) // 2].float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu()
    image = Image.fromarray(pixels[..., :3].contiguous().numpy())
    if max(image.size) * 2 <= SIDE:
        larger = SIDE // max(image.size)
        return image.resize((image.width * larger, image.height * larger), Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    return image
