"""Between the objective's tensors and a host model: the family's batches, times and direction."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.host.run import options_of
from simpletuner_twinflow.host.settings.assistants import ASSISTANT
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES, FAMILIES
from simpletuner_twinflow.host.training.ace_step import VELOCITY, predict_velocity
from simpletuner_twinflow.host.training.anima import AnimaTwinFlowScheduler
from simpletuner_twinflow.host.training.batches import (
    DESTINATIONS,
    refuse_untrained,
    second_half,
    select_rows,
    unconditional,
    without_condition,
    without_words,
)
from simpletuner_twinflow.host.training.compiled import uncompiled
from simpletuner_twinflow.host.training.first_frame import with_first_frame
from simpletuner_twinflow.host.training.lycoris import lycoris_of, train_beside
from simpletuner_twinflow.host.training.time_conditioning import SIGN, TARGET_TIME, TIME_CONDITIONING, attach, hidden
from simpletuner_twinflow.method.batch import ONE_STEP
from simpletuner_twinflow.method.batch_layout import on_whole_batch
from simpletuner_twinflow.method.flow import interpolate, per_sample
from simpletuner_twinflow.method.objective import PromptRows
from simpletuner_twinflow.method.time_conditioning import TimeConditioning
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.pipelines import EVEN_SIGMAS
from simpletuner_twinflow.sampling.schedule import JUMPS, TrainedTimes, trained_times
from simpletuner_twinflow.sampling.stock import inverted_scheduler, stock_scheduler, stock_scheduler_of_spaced_sigmas


class FamilyModel:
    """`predict` callables made of a `ModelFoundation`'s `model_predict`, and host batches of the objective's rows."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family = (FAMILIES | DIFFUSION_FAMILIES)[model.config.model_family]
        options = options_of(model.config)
        self.time_conditioning_mode, self.target_step_count = options.time_conditioning, options.target_step_count
        self.text_destinations = {**DESTINATIONS, **self.family.text_destinations}
        self.time_conditioning: TimeConditioning | None = None
        self._reference_timesteps: Tensor | None = None

    def attach_time_conditioning(self) -> None:
        """Attach the modules of the time conditioning, if any, to the network that the host has loaded and frozen.

        Raises:
            TwinFlowConfigError: The network has a frozen adapter that is off in sampling.
        """
        if self.model.assistant_lora_loaded:
            raise TwinFlowConfigError(ASSISTANT.format(path=self.model.config.assistant_lora_path))
        if self.family.predicts_data:
            predict_velocity(self.model)
        if self.time_conditioning_mode == "training_only":
            times = self.step_times if self.steps_are_conditioned else ONE_STEP
            self.time_conditioning = attach(self.model, self.family, self.sigma, times)

    def time_conditioning_modules(self) -> dict[str, nn.Module]:
        """The network's modules that only training needs, by name."""
        if self.time_conditioning is None:
            return {}
        network = self.model.get_trained_component(unwrap_model=True)
        return {name: uncompiled(network.get_submodule(name)) for name in TIME_CONDITIONING}

    def time_conditioning_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of these modules, by their names in the network."""
        return {
            f"{name}.{key}": parameter
            for name, module in self.time_conditioning_modules().items()
            for key, parameter in module.named_parameters()
        }

    def time_conditioning_hidden(self) -> AbstractContextManager[None]:
        """A block in which the network does not have these modules, so that PEFT cannot adapt or save them."""
        network = self.model.get_trained_component(unwrap_model=True)
        return hidden(network, self.time_conditioning_modules())

    def train_time_conditioning(self) -> None:
        """Train these modules beside an adapter; PEFT, which freezes all but its own weights, must come before."""
        modules = self.time_conditioning_modules()
        for module in modules.values():
            module.requires_grad_(True)
        if (lycoris := lycoris_of(self.model)) is not None:
            train_beside(lycoris, modules)

    def sigma(self, batch: Mapping[str, Any]) -> Tensor:
        """The time of each row of a host batch, 1 at noise, (B,) float32."""
        sigmas = batch["sigmas"].reshape(batch["sigmas"].shape[0], -1)[:, 0].float()
        return 1 - sigmas if self._sigmas_are_of_data else sigmas

    @property
    def _sigmas_are_of_data(self) -> bool:
        """Whether the sigmas in the host's batches are shares of the data."""
        return self.family.invert_sigmas == "batch" or self.family.trained_backwards

    def velocity(self, output: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The average velocity, data to noise, of a family's output on this batch; float32."""
        if self.family.predicts_data:  # at sigma 1: see `ace_step.predict_velocity`
            return batch["noisy_latents"].float() - output["model_prediction"].float()
        return self.model.prediction_to_noiseward_flow(output["model_prediction"]).float()

    def at(self, batch: Mapping[str, Any], x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor) -> dict[str, Any]:
        """A copy of the host batch for the velocity at (x_t, t, r); negative time at sign < 0.

        Raises:
            TwinFlowError: The batch holds what TwinFlow would leave out of its losses.
        """
        refuse_untrained(batch, beside_silence=self.family.beside_silence, sings=self.family.sings)
        sigmas = per_sample(1 - t if self._sigmas_are_of_data else t, like=x_t)
        if batch["sigmas"].ndim == x_t.ndim and batch["sigmas"].shape[1:] == x_t.shape[1:]:
            sigmas = sigmas.expand_as(x_t)
        # One signed time is the published LoRA recipe: TwinFlow's `twinflow_lora.py` calls the network at t - r / 2.
        time = sign * (t - r / 2) if self.time_conditioning_mode == "signed_time" else t
        changes: dict[str, Any] = {
            "noisy_latents": with_first_frame(batch, x_t.to(batch["noisy_latents"].dtype)),
            "sigmas": sigmas,
            "timesteps": self._timesteps(time, batch),
        }
        if self.family.beside_silence:
            changes |= self._silence(batch, t, changes["timesteps"])
        if self.family.predicts_data:
            changes[VELOCITY] = True
        return dict(batch) | changes | self._time_keys(r, sign)

    def _silence(self, batch: Mapping[str, Any], t: Tensor, timesteps: Tensor) -> dict[str, Any]:
        """The batch keys of the sound that goes beside the video, at its times: the host's silence and its noise."""
        silence, noise = batch["audio_latents"], batch["audio_noise"]  # (B, channels, length, mel bins)
        noised = interpolate(silence, noise, t).x_t.to(batch["audio_noisy_latents"].dtype)
        return {"audio_noisy_latents": noised, "audio_timesteps": timesteps}

    def at_own_times(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the host batch for the velocity at r = t and the batch's own times."""
        refuse_untrained(batch, beside_silence=self.family.beside_silence, sings=self.family.sings)
        t = self.sigma(batch)
        there = dict(batch) | self._time_keys(t, torch.ones_like(t))
        if self.time_conditioning_mode == "signed_time":
            there["timesteps"] = self._timesteps(t / 2, batch)
            if self.family.beside_silence:
                there["audio_timesteps"] = there["timesteps"]
        elif self.family.trained_backwards:
            there["timesteps"] = self._timesteps(t, batch)
        return there

    def _time_keys(self, r: Tensor, sign: Tensor) -> dict[str, Any]:
        """The batch keys that the modules of the time conditioning read; r and sign (B,)."""
        return {} if self.time_conditioning is None else {TARGET_TIME: r, SIGN: sign}

    def without_prompts(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the host batch with the empty prompt for each row's, as the family's guidance has it."""
        if keys := self.family.zeros_without_prompt:
            return without_condition(batch, keys)
        return without_words(batch) if self.family.reads_words else unconditional(batch, self.text_destinations)

    def unprompted(self, batch: Mapping[str, Any]) -> tuple[int, ...]:
        """The rows whose caption is empty, as where the host has dropped it: there is nothing for guidance to do."""
        if self.family.zeros_without_prompt:
            return ()
        return tuple(row for row, prompt in enumerate(batch.get("prompts") or ()) if prompt == "")

    def _half_without_prompts(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the host batch with the empty prompt for those of the second half of its rows.

        Raises:
            TwinFlowError: `takes_both` would be false.
        """
        if (both := second_half(batch, self.without_prompts(batch))) is None:
            raise TwinFlowError("The empty prompt's embedding does not fit beside the prompts' in one batch.")
        return both

    def takes_both(self, batch: Mapping[str, Any]) -> bool:
        """Whether the network can be asked for a batch's prompts and the empty one in a single pass."""
        if self.family.whole_batch:
            return False
        twice = select_rows(batch, (0, 0))
        return second_half(twice, self.without_prompts(twice)) is not None

    def predict_with(self, batch: Mapping[str, Any]) -> Callable[[Tensor, Tensor, Tensor, Tensor, PromptRows], Tensor]:
        """The objective's `predict` on this host batch, for passes without gradient."""

        @torch.no_grad()
        def predict(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, prompts: PromptRows) -> Tensor:
            rows = select_rows(batch, prompts.rows)
            if prompts.unconditional:
                rows = self.without_prompts(rows)
            if prompts.half_unconditional:
                rows = self._half_without_prompts(rows)
            there = self.at(rows, x_t, t, r, sign)
            return self.velocity(self.model.model_predict(prepared_batch=dict(there)), there)

        return on_whole_batch(predict, len(batch["latents"])) if self.family.whole_batch else predict

    @property
    def step_times(self) -> tuple[float, ...]:
        """The K times at which the sampler calls the network, falling."""
        return self.scheduler().step_times(self.target_step_count)

    @property
    def trained_times(self) -> TrainedTimes:
        """The jumps to the data and the sampler's own steps that this run trains."""
        return trained_times(self.scheduler().step_times, self.target_step_count, own_steps=self.steps_are_conditioned)

    @property
    def steps_are_conditioned(self) -> bool:
        """Whether the network learns each of the sampler's steps as such, from its time to the next.

        Otherwise it learns jumps to the data alone, and the sampler noises their ends anew.
        """
        return self.target_step_count > 1 and self.time_conditioning_mode == "training_only"

    def scheduler(self) -> SchedulerMixin:
        """The few-step sampler for this run's model, at times that the run's dtype can hold."""
        kind = AnimaTwinFlowScheduler if self.family.chooses_sampler else TwinFlowScheduler
        return kind(**self.sampling_times)

    @property
    def sampling_times(self) -> dict[str, Any]:
        """The sampler's settings for the network's times, where they are not the default."""
        times: dict[str, Any] = {}
        if not self.steps_are_conditioned:
            times |= JUMPS
        elif self.family.stepped_by == "even":
            times["sigma_min"] = 0.0
        if self.family.invert_sigmas != "no":
            times |= {"invert_sigmas": True, "num_train_timesteps": 1}
        if self.model.config.weight_dtype != torch.float32 and not self.family.ignores_time:
            times["time_dtype"] = str(self.model.config.weight_dtype).removeprefix("torch.")
            if self.family.time_unit == 1:
                times["time_unit"] = 1
        return times

    def stock_scheduler(self, steps: int) -> SchedulerMixin | None:
        """The stock diffusers scheduler closest to it, for this many steps; None where none is close, or asked for."""
        pipeline, family = self.model.PIPELINE_CLASSES[self.model.DEFAULT_PIPELINE_TYPE].__name__, self.family
        fresh_noise = not self.steps_are_conditioned
        if family.makes_scheduler or family.stepped_by == "even" or family.chooses_sampler:
            return None
        if family.stepped_by == "call":
            return stock_scheduler_of_spaced_sigmas()
        if family.invert_sigmas != "no":
            return None if pipeline not in EVEN_SIGMAS or (fresh_noise and steps > 1) else inverted_scheduler()
        return stock_scheduler(steps, even_sigmas=pipeline in EVEN_SIGMAS, fresh_noise=fresh_noise)

    def _timesteps(self, t: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The family's own timesteps of the times t."""
        if self.family.invert_sigmas == "network":
            return 1 - t
        if self.family.asked_in_shares:
            return t
        if self.family.trained_backwards:
            return 1000 * t
        if self._reference_timesteps is None:
            # The host tells its [0, 1] from its [0, 1000] families by a batch's largest timestep. The ratio to sigma is
            # the same in any batch; it is read once and kept on the CPU, since reading the device waits for it.
            ratio = batch["timesteps"].float().reshape(-1).max() / batch["sigmas"].float().max()
            self._reference_timesteps = ratio.round().reshape(1).cpu()
        return self.model.flow_matching_timesteps_from_sigmas(t, reference_timesteps=self._reference_timesteps)
