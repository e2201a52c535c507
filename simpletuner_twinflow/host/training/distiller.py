"""TwinFlow as one of the host's distillers; `DistillationBase` documents when the trainer calls which method."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from simpletuner.helpers.distillation.common import DistillationBase
from torch import Tensor, nn

from simpletuner_twinflow.host.seams import changed
from simpletuner_twinflow.host.settings.data_config import has_regularisation
from simpletuner_twinflow.host.training.ace_step import song_weights
from simpletuner_twinflow.host.training.auxiliary import auxiliary_loss
from simpletuner_twinflow.host.training.batches import on_latents_device
from simpletuner_twinflow.host.training.compiled import is_compiled
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.first_frame import frame_weights
from simpletuner_twinflow.host.training.frozen_base import Block, FrozenBase
from simpletuner_twinflow.host.training.given_frames import GIVEN, with_given_frames
from simpletuner_twinflow.host.training.loss_mask import loss_mask, probability_of
from simpletuner_twinflow.host.training.meter import WindowMeter
from simpletuner_twinflow.host.training.replicas import Replica
from simpletuner_twinflow.host.training.sharded import is_fsdp2
from simpletuner_twinflow.host.training.token_routes import TokenRoutes
from simpletuner_twinflow.method.objective import Predict, compute_losses, prepare_role_batch
from simpletuner_twinflow.method.regularisation import regularisation_losses
from simpletuner_twinflow.method.roles import Role, RoleSampler
from simpletuner_twinflow.method.sharding import reshard
from simpletuner_twinflow.method.teacher import RngState, lent_weights, replay_rng
from simpletuner_twinflow.options import TwinFlowOptions

# Batch keys: the objective's rows; the seed of their random numbers, their micro-batch and its window.
ROWS, STREAM = "twinflow_rows", "twinflow_stream"


class TwinFlowDistiller(DistillationBase):
    """The state of one TwinFlow run, owned by its trainer.

    Args: trainer: the host's, nothing trained or loaded from a checkpoint yet; options: of this run, settled;
    family_model: of its model, time conditioning attached.
    """

    def __init__(self, trainer: Any, options: TwinFlowOptions, family_model: FamilyModel) -> None:
        super().__init__(teacher_model=trainer.model)
        self.trainer, self.options, self.family_model = trainer, options, family_model
        self.step_times, self.sampler_steps = family_model.trained_times
        frozen = options.scale > 1 and options.guidance_reference == "base"
        self.base = FrozenBase(trainer, options) if frozen else None
        # As in the host, an adapter is held at its base there, and a full fine-tune at the data.
        held = trainer.config.model_type == "lora" and has_regularisation(trainer.config.data_backend_config)
        self._parent = (self.base or FrozenBase(trainer, options)) if held else None
        self.meter = WindowMeter()
        self._seen_batch: Callable[[dict], None] | None = None
        self._seed = int(trainer.config.seed if trainer.config.seed is not None else torch.initial_seed())
        self.replica = Replica.of(trainer.accelerator)
        shares = options.roles(own_steps=family_model.steps_are_conditioned)
        # Each pass of a sharded network is one that all ranks make together, whatever the roles of their rows.
        self._elsewhere = (
            frozenset(role for role in shares if shares[role] > 0) if is_fsdp2(trainer.accelerator) else ()
        )
        self._role_sampler = RoleSampler(shares, seed=self._seed, rank=self.replica.rank, ranks=self.replica.ranks)
        self._window, self._micro_batch = -1, 0
        self._paused = False

    def show_batches(self, seen: Callable[[dict], None]) -> None:
        """Have `seen` called with each host batch that is trained on, before its rows get their roles."""
        self._seen_batch = seen

    def get_scheduler(self, scheduler_name: str | None = None) -> SchedulerMixin:
        """The few-step sampler of this run, for validation."""
        return self.family_model.scheduler()

    def supports_special_scheduler_validation(self) -> bool:
        """Whether validation replaces a pipeline's own scheduler too."""
        return True

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside this block batches are not prepared, and passes are at r = t.

        There the network predicts the velocity, with which the host's evaluation loss compares.
        """
        model, predict = self.trainer.model, self.trainer.model.model_predict

        def model_predict(prepared_batch: dict, *args: Any, **kwargs: Any) -> dict:
            return predict(self.family_model.at_own_times(prepared_batch), *args, **kwargs)

        self._paused = True
        try:
            with changed(model, model_predict=model_predict):
                yield
        finally:
            self._paused = False

    def prepare_batch(self, batch: dict, model: Any, state: dict) -> dict:
        """A copy of the host's batch with a role for each row, and the samples, noise and times of these roles."""
        if self._paused:
            return batch
        held = is_regularisation(batch)
        if self._seen_batch is not None and not held:
            self._seen_batch(batch)
        window, config = int(state["global_step"]), self.trainer.config
        self._micro_batch = self._micro_batch + 1 if window == self._window else 0
        self._window = window
        stream = _stream_seed(self._seed, self.replica.rank, window, self._micro_batch)
        batch = on_latents_device(batch)
        if self.family_model.family.gives_frames:
            batch = with_given_frames(model, batch, stream + 3)
        x, z, t = batch["latents"].float(), batch["noise"].float(), self.family_model.sigma(batch)
        window_rows = config.train_batch_size * config.gradient_accumulation_steps
        roles = (Role.near,) * x.shape[0]
        if not held:
            roles = self._role_sampler.sample(x.shape[0], window=window, window_rows=window_rows)
        student, generator = self.family_model.predict_with(batch), _generator(stream, x.device)
        with replay_rng(RngState.capture(x.device)):
            rows = prepare_role_batch(
                x,
                z,
                t,
                roles,
                self.options,
                student=student,
                generator=generator,
                step_times=self.step_times,
                sampler_steps=self.sampler_steps,
                elsewhere=self._elsewhere,
            )
        dtype = batch["latents"].dtype
        noise = rows.z.to(dtype)
        samples = {"latents": rows.x.to(dtype), "noise": noise, "input_noise": noise}
        prepared = self.family_model.at(batch, rows.x_t, rows.t, rows.r, rows.sign)
        # Another one for each batch of a step, and for a rank's batches from step to step, whose data may stay its own.
        turn = window + self._micro_batch * self.replica.ranks + self.replica.rank
        return prepared | samples | {ROWS: rows, STREAM: (stream, self._micro_batch, turn)}

    def training_loss(self, prepared_batch: dict) -> tuple[Tensor, Tensor, dict[str, Any] | None]:
        """The loss of a prepared batch, repeated calls give the same.

        Returns: the scalar to minimise; the sum of TwinFlow's terms in it; the logs of the host's auxiliary losses,
        which are the rest of it, if there are any.
        """
        rows, (stream, micro_batch, turn) = prepared_batch[ROWS], prepared_batch[STREAM]
        device = rows.x_t.device
        student_rng = RngState.capture(device)
        # Unwrapped once: the host looks through all modules for it.
        network = self.trainer.model.get_trained_component(unwrap_model=True)
        routes = TokenRoutes(self.trainer.model, network)
        graded = cache(partial(self._graded, routes, prepared_batch))
        if routes.taken_again or is_compiled(self.trainer.accelerator):
            graded()  # compiled first for its own number of rows, which it has in each step
        passes = self.family_model.predict_with(prepared_batch)
        student, teacher = replay_rng(student_rng)(passes), routes.repeated(self._teacher(passes, student_rng, network))
        generator = _generator(stream + 1, device)
        mask = self._mask(prepared_batch, stream + 2)
        if is_regularisation(prepared_batch):
            parent = None if self._parent is None else _lent(passes, student_rng, partial(self._parent.lend, network))
            losses = regularisation_losses(rows, lambda: graded()[1], self.options, parent, weights=mask)
        else:
            base = None if self.base is None else _lent(passes, student_rng, partial(self.base.lend, network))
            # Of sharded weights each rank makes as many passes as the others, whatever its prompts.
            guides = self.options.guides("velocity") and not self._elsewhere
            losses = compute_losses(
                rows,
                lambda: graded()[1],
                self.options,
                student,
                teacher,
                generator=generator,
                base=base,
                weights=mask,
                turn=turn,
                elsewhere=self._elsewhere,
                unprompted=self.family_model.unprompted(prepared_batch) if guides else (),
                together=partial(self.family_model.takes_both, prepared_batch) if guides and self.base else None,
            )
        self.meter.add(micro_batch, losses.terms | losses.watched, rows)
        whole, logs = auxiliary_loss(self.trainer.model, graded()[0], prepared_batch, rows, losses.total)
        return whole, losses.total, logs

    def _graded(self, routes: TokenRoutes, prepared_batch: dict) -> tuple[dict, Tensor]:
        """The student's pass with gradient: what the host returns, and the velocity."""
        with routes.recorded():
            output = self.trainer.model_predict(prepared_batch=dict(prepared_batch))
        return output, self.family_model.velocity(output, prepared_batch)

    def _mask(self, batch: Mapping[str, Any], stream: int) -> Tensor | None:
        """The weights that the host's own loss gives the parts of a batch's samples, see `loss_mask`."""
        if (given := batch.get(GIVEN)) is not None:
            return given["weights"]
        if (weights := frame_weights(batch)) is not None:
            return weights
        if self.family_model.family.masks_loss:
            return song_weights(batch)
        return loss_mask(batch, probability_of(self.trainer.config), _generator(stream, "cpu"))

    def on_save_checkpoint(self, step: int, ckpt_dir: str) -> None:
        """Save what the host does not."""
        self.trainer.twinflow_save(Path(ckpt_dir))  # host/checkpoints/saving.py

    def _teacher(self, passes: Predict, rng: RngState, network: nn.Module) -> Predict:
        """The same passes with EMA weights; with the student's where the run has no EMA."""
        ema = self.trainer.ema_model
        if ema is None:
            return replay_rng(rng)(passes)

        def lend() -> Block:
            reshard(network)
            parameters = list(self.trainer._get_trainable_parameters())
            shadows = [
                shadow.to(device=parameter.device, dtype=parameter.dtype, non_blocking=True)
                for shadow, parameter in zip(ema.shadow_params, parameters, strict=True)
            ]
            return partial(lent_weights, network, parameters, shadows)

        return _lent(passes, rng, lend)


def _lent(passes: Predict, rng: RngState, lend: Callable[[], Block]) -> Predict:
    """These passes with other weights, made for the first pass that needs them, and with the student's random numbers.

    Args: lend: gives the block in which the network has them.
    """
    once = cache(lend)

    def predict(*args: Any) -> Tensor:
        with once()(), replay_rng(rng):
            return passes(*args)

    return predict


def is_regularisation(batch: Mapping[str, Any]) -> bool:
    """Whether a host batch is of a regularisation set; a batch is of one dataset."""
    return bool(batch.get("is_regularisation_data"))


def _stream_seed(*numbers: int) -> int:
    """A seed made of whole numbers; unlike `hash`, the same in every process."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _generator(seed: int, device: torch.device | str) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)
