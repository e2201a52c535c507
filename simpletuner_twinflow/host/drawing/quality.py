"""Few-step quality while training: samples of student, EMA and base against the data, in the model's own latents.

What is measured: the squared MMD of random features between samples and the training latents of the same prompts, in
units of its standard error, and the diversity within a prompt. What it cannot tell: whether a picture is pretty, and
differences that a random network does not see; figures of runs with other data or another number of samples are not
comparable.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from simpletuner_twinflow.host.drawing.fields import distances
from simpletuner_twinflow.host.drawing.latents import (
    KeptRows,
    drawing_mode,
    few_step_samples,
    many_step_samples,
    moved,
    prompts_of,
)
from simpletuner_twinflow.host.drawing.records import Records, end_earlier
from simpletuner_twinflow.host.drawing.sheets import SampleSheet, chosen_rows
from simpletuner_twinflow.host.seams import MODELS, Seam, Touch, set_on, uses, wrap
from simpletuner_twinflow.host.settings.budget import BASE_STEPS, FIELD_ROWS, ONE_PICTURE, Budget
from simpletuner_twinflow.host.settings.conflict_rows import MOVES_BASE
from simpletuner_twinflow.host.settings.data_config import is_one_picture
from simpletuner_twinflow.host.training.frozen_base import FrozenBase
from simpletuner_twinflow.host.training.logging import STEP_MARK
from simpletuner_twinflow.host.training.lycoris import lycoris_of, returns_to_base
from simpletuner_twinflow.host.training.replicas import Replica
from simpletuner_twinflow.host.training.sharded import is_fsdp2
from simpletuner_twinflow.host.training.trainer import distiller_of
from simpletuner_twinflow.method.teacher import RngState, replay_rng, teacher_weights
from simpletuner_twinflow.options import TwinFlowOptions
from simpletuner_twinflow.quality.features import Scale, random_features
from simpletuner_twinflow.quality.measures import Diversity, discrepancy, frechet_distance

logger = logging.getLogger("simpletuner_twinflow")

Values = dict[str, float]


@uses(
    Seam("Trainer.init_trackers", ("self",)),
    Seam("Trainer._trackers_initialized", touch=Touch.read),
    Seam("Trainer._get_trainable_parameters", ("self",), Touch.read),
    Seam("Accelerator.log", ("values", "step"), Touch.on_run, "accelerate.accelerator"),
    Seam("ModelFoundation.decode_latents_to_pixels", ("latents",), Touch.read, MODELS),
    Seam("ModelFoundation.get_vae", ("self",), Touch.read, MODELS),
    Seam("ModelFoundation.unload_vae", ("self",), Touch.read, MODELS),
    Seam(
        "record_validation_media",
        ("config", "media_path", "media_type", "label", "index"),
        Touch.read,
        "simpletuner.helpers.training.local_metrics",
    ),
    lost="the quality of few-step samples is not measured while training",
)
def attach_to_logging(module: ModuleType) -> None:
    """Measure at the steps that are due, where the host logs them."""

    def init_trackers(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        already = getattr(trainer, "_trackers_initialized", False)
        wrapped(*args, **kwargs)
        distiller = distiller_of(trainer)
        if distiller is None or already:
            return
        measure, accelerator = _measure_of(trainer, distiller.options), trainer.accelerator
        if measure is None:
            if accelerator.is_main_process:
                end_earlier(trainer)
            return
        if accelerator.is_main_process and is_one_picture(trainer.config.data_backend_config):
            logger.warning(ONE_PICTURE)
        distiller.show_batches(measure.rows.add)
        log, last = accelerator.log, int(trainer.config.max_train_steps)
        records = Records(trainer) if accelerator.is_main_process else None
        beside_main = distiller.replica.rank == 0  # the processes with which the main one makes its passes

        def log_with_quality(values: dict, step: int | None = None, **more: Any) -> None:
            log(values, step=step, **more)
            if STEP_MARK in values and step is not None and (step % measure.interval == 0 or step == last):
                try:
                    log_quality(step, **more)
                except Exception:  # the host drops what a tracker raises, so it is said here
                    logger.exception("TwinFlow could not measure the quality of few-step samples at step %s.", step)
                    raise

        def log_quality(step: int, **more: Any) -> None:
            found = measure.values()
            if not found and step == last and records is not None:
                logger.warning(
                    "TwinFlow did not measure the quality of few-step samples: the run trained on fewer rows than "
                    "twinflow_quality_samples %s.",
                    measure.budget.samples,
                )
            fields, sheet = (measure.fields(), measure.sheet()) if found and beside_main else ({}, None)
            if found and records is not None:
                logger.info(as_text(found, measure.budget.samples, step))
                logged = {f"twinflow/quality/{name}": value for name, value in found.items()}
                logged |= {f"twinflow/fields/{name}": value for name, value in fields.items()}
                log(logged, step=step, **more)
                records.add(found, measure.budget.samples, step, sheet=sheet is not None)
                if sheet is not None:
                    records.add_sheet(sheet, step)

        set_on(accelerator, "log", log_with_quality)

    wrap(module, "Trainer.init_trackers", init_trackers)


def _measure_of(trainer: Any, options: TwinFlowOptions) -> "QualityMeasure | None":
    """None of a run that measures nothing."""
    if options.quality_samples == 0:
        return None
    if is_fsdp2(trainer.accelerator):
        logger.warning("TwinFlow measures no quality of few-step samples under FSDP: not all ranks would draw.")
        return None
    measure = QualityMeasure(trainer)
    if trainer.accelerator.is_main_process:
        logger.info(measure.described())
    return measure if measure.interval else None


class QualityMeasure:
    """The measure of one run. Args: trainer: the host's, all loaded; the first steps are yet to come."""

    def __init__(self, trainer: Any) -> None:
        distiller = trainer.distiller
        self._trainer, self._accelerator = trainer, trainer.accelerator
        self._model, self._options = distiller.family_model, distiller.options
        if self._model.family.sings:  # of which there is no picture; the run has said so
            self._options = self._options.changed(quality_sheet=0)
        self._replica: Replica = distiller.replica
        self._seed = int(trainer.config.seed or 0) + 1_000_003 * self._replica.rank
        self.rows = KeptRows(math.ceil(self._options.quality_samples / self._replica.ranks))
        self.budget = Budget(
            self._options,
            trainer.config,
            rows=self.rows.wanted,
            own_steps=bool(distiller.sampler_steps),
            processes=self._replica.ranks,
        )
        self.counts = self.budget.counts
        self.interval = self.budget.interval()
        self._base = _base_of(trainer) if self.budget.allows_base() else None
        sheet = self._options.quality_sheet
        self._sheet = SampleSheet(self._model, sheet, self._seed) if sheet else None
        self._said_of_base: Values | None = None
        self._aim: Tensor | None = None

    def described(self) -> str:
        """What is measured and what it costs, as a line."""
        return self.budget.described(base=self._base is not None)

    def values(self) -> Values:
        """The measures by name, on the main process; none where too few rows were seen. All ranks call it."""
        lacking = torch.tensor(float(not self.rows.complete), device=self._accelerator.device)
        if float(self._accelerator.reduce(lacking, reduction="sum")) > 0:
            return {}
        with self._drawing():
            latents = [batch["latents"] for batch in self.rows.batches]
            scale, prompts = self._scale(latents), self._gathered(_numbers(prompts_of(self.rows.batches)))
            real = self._features(latents, scale)
            diversity = Diversity(real, prompts)
            if self._said_of_base is None:
                self._said_of_base = self._of_base(scale, real, diversity)
            found = dict(self._said_of_base)
            for who, weights in self._trained_weights():
                with weights:
                    for count in self.counts:
                        samples = self._features(self._drawn(partial(few_step_samples, self._model, count)), scale)
                        found |= self._compared(f"{who}_{count}", samples, real, diversity)
        return found

    def fields(self) -> Values:
        """How far the networks' velocities are apart on this process's rows. All processes of its group call it."""
        ema, base = self._trainer.ema_model, self._base
        parameters = self._trainer._get_trainable_parameters
        with self._drawing():
            return distances(
                self._model,
                [moved(part, self._accelerator.device) for part in chosen_rows(self.rows.batches, FIELD_ROWS)],
                self._seed,
                teacher=None if ema is None else lambda: teacher_weights(parameters(), ema.shadow_params),
                base=None if base is None else lambda: base.lend()(),
                empty_prompt=self._options.scale > 1,
            )

    def sheet(self) -> Image.Image | None:
        """The contact sheet of the EMA's samples, or the student's where there is no EMA; None if none is wanted.

        All processes of a group call it, and no others need to. Needs the rows that `values` needs.
        """
        if self._sheet is None:
            return None
        base = None
        if self._base is not None:
            first = self._base
            base = (lambda: first.lend()()), BASE_STEPS, self._options.scale
        with self._drawing():
            _, weights = next(self._trained_weights())
            return self._sheet.picture(self.rows, weights, base, self._accelerator.device)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Inside this block the network draws, and training's random numbers and modes are as before after it."""
        network = self._model.model.get_trained_component(unwrap_model=True)
        with replay_rng(RngState.capture(self._accelerator.device)), drawing_mode(network), torch.no_grad():
            yield

    def _of_base(self, scale: Scale, real: Tensor, diversity: Diversity) -> Values:
        """The base's own samples, at the guidance that is trained in: what can be reached, and where it began."""
        if self._base is None:
            return {}
        found: Values = {}
        with self._base.lend()():
            for count in (BASE_STEPS, self._options.target_step_count):
                draw = partial(many_step_samples, self._model, count, self._options.scale)
                samples = self._features(self._drawn(draw), scale)
                found |= self._compared(f"base_{count}", samples, real, diversity)
                if count == BASE_STEPS and self._options.scale > 1:
                    self._aim = samples
        return found

    def _compared(self, name: str, samples: Tensor, real: Tensor, diversity: Diversity) -> Values:
        far = discrepancy(samples, real)
        found = {f"{name}/mmd": far.value, f"{name}/mmd_in_errors": far.ratio}
        if (share := diversity.of(samples)) is not None:
            found[f"{name}/diversity"] = share
        if (frechet := frechet_distance(samples, real)) is not None:
            found[f"{name}/frechet"] = frechet
        if self._aim is not None:
            found[f"{name}/mmd_to_guided_base_in_errors"] = discrepancy(samples, self._aim).ratio
        return found

    def _trained_weights(self) -> Iterator[tuple[str, AbstractContextManager[None]]]:
        if (ema := self._trainer.ema_model) is not None:
            yield "ema", teacher_weights(self._trainer._get_trainable_parameters(), ema.shadow_params)
        yield "student", nullcontext()

    def _drawn(self, draw: Callable[[dict[str, Any], int], Tensor]) -> list[Tensor]:
        """Samples for the prompts of each kept batch: the same noise at each measure and of all weights."""
        device = self._accelerator.device
        return [draw(moved(batch, device), self._seed + number) for number, batch in enumerate(self.rows.batches)]

    def _features(self, latents: list[Tensor], scale: Scale) -> Tensor:
        """Features of all ranks' latents, made batch by batch, since sizes may differ."""
        device = self._accelerator.device
        return self._gathered(torch.cat([random_features(scale(batch.to(device))) for batch in latents]))

    def _gathered(self, rows: Tensor) -> Tensor:
        return self._replica.one_of_each(self._accelerator.gather(rows.to(self._accelerator.device))).cpu()

    def _scale(self, latents: list[Tensor]) -> Scale:
        """Of the data of all ranks, each of which has as many rows."""
        scales = [Scale.of(batch) for batch in latents]
        rows = torch.tensor([float(len(batch)) for batch in latents])
        mean = torch.stack([scale.mean.flatten() for scale in scales])
        square = torch.stack([scale.std.flatten().square() for scale in scales]) + mean.square()
        moments = torch.stack([(rows @ mean), (rows @ square)]) / rows.sum()
        mean, square = self._accelerator.reduce(moments.to(self._accelerator.device), reduction="mean")
        shape = scales[0].mean.shape
        return Scale(mean.view(shape), (square - mean.square()).clamp(min=1e-12).sqrt().view(shape))


def _base_of(trainer: Any) -> FrozenBase | None:
    """The frozen base, where it takes no memory that the run does not spend anyway."""
    distiller, config = trainer.distiller, trainer.config
    if distiller.base is not None or config.model_type != "lora" or config.lora_init_type in MOVES_BASE:
        return distiller.base
    if (lycoris := lycoris_of(trainer.model)) is not None and not returns_to_base(lycoris):
        return None
    base = FrozenBase(trainer, distiller.options)
    return None if base.kept() else base


def as_text(found: Values, samples: int, step: int) -> str:
    """The measures as a line of the log."""
    said = []
    for name in dict.fromkeys(name.split("/")[0] for name in found):
        diversity, aim = found.get(f"{name}/diversity"), found.get(f"{name}/mmd_to_guided_base_in_errors")
        beside = [] if diversity is None else [f"{diversity:.2f}"]
        beside += [] if aim is None else [f"to the guided base {aim:.1f}"]
        in_brackets = f" ({'; '.join(beside)})" if beside else ""
        said.append(f"{name.replace('_', ' in ')} {found[f'{name}/mmd_in_errors']:.1f}{in_brackets}")
    return (
        f"TwinFlow quality at step {step}, {samples} samples against the data, MMD in standard errors (diversity, data "
        f"1) by steps: {', '.join(said)}."
    )


def _numbers(texts: list[str]) -> Tensor:
    """A number for each text, the same for the same text in every process."""
    digests = (hashlib.blake2b(text.encode(), digest_size=7).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, "big") for digest in digests])
