"""Between the objective's tensors and one of the host's model families: the family's batch, times and direction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simpletuner_twinflow.conditioning import TargetTimeEmbedding, TimeConditioning
from simpletuner_twinflow.flow import per_sample
from simpletuner_twinflow.host.families import FAMILIES, Family
from simpletuner_twinflow.objective import Condition

TARGET_TIME = "twinflow_target_time"  # batch key and name of the attached module
TIME_SIGN = "twinflow_time_sign"  # the host's own batch key
CONDITIONING = (TARGET_TIME, "time_sign_embed")  # the network's modules that only training needs
UNCONDITIONAL = {  # the host's keys of the empty prompt -> the keys of the prompt they stand in for
    "negative_encoder_hidden_states": ("encoder_hidden_states", "prompt_embeds"),
    "negative_encoder_attention_mask": ("encoder_attention_mask",),
    "negative_add_text_embeds": ("add_text_embeds",),
}


class FamilyAdapter:
    """Makes `predict` callables of the host's `model_predict`, and host batches of the objective's rows."""

    def __init__(self, model: Any) -> None:
        """Args: model: the host's `ModelFoundation` of this run."""
        self.model = model
        self.family = FAMILIES[model.config.model_family]
        self.conditioning: TimeConditioning | None = None
        self._reference_timesteps: Tensor | None = None

    def attach_conditioning(self) -> None:
        """Attach the target-time module; must run after the host has loaded and frozen its components."""
        network = self.model.get_trained_component(unwrap_model=True)
        add_target_time(network, self.family)
        time_embedding = network.get_submodule(self.family.time_embedding)
        self.conditioning = TimeConditioning(time_embedding, network, TARGET_TIME)
        # Positive time is the pre-trained network: its row of the sign embedding stays zero and gets no gradient.
        network.time_sign_embed.padding_idx = 0

        predict = self.model.model_predict

        def model_predict(prepared_batch: dict, *args: Any, **kwargs: Any) -> dict:
            if TARGET_TIME not in prepared_batch:
                return predict(prepared_batch, *args, **kwargs)
            with self.conditioning.times(self.sigma(prepared_batch), prepared_batch[TARGET_TIME]):
                return predict(prepared_batch, *args, **kwargs)

        self.model.model_predict = model_predict

    def conditioning_modules(self) -> dict[str, nn.Module]:
        """The network's modules that only training needs, by name."""
        network = self.model.get_trained_component(unwrap_model=True)
        return {name: getattr(network, name) for name in CONDITIONING}

    def train_conditioning(self) -> None:
        """Train the conditioning beside an adapter; PEFT, which freezes all but its own weights, must be through."""
        for module in self.conditioning_modules().values():
            module.requires_grad_(True)

    def sigma(self, batch: Mapping[str, Any]) -> Tensor:
        """The time of each row of a host batch, (B,) float32."""
        return batch["sigmas"].reshape(batch["sigmas"].shape[0], -1)[:, 0].float()

    def velocity(self, output: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The average velocity, noise-ward and in float32, that a family's output on this batch stands for."""
        return self.model.prediction_to_noiseward_flow(output["model_prediction"]).float()

    def at(self, batch: Mapping[str, Any], x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor) -> dict[str, Any]:
        """A copy of the host batch that asks the network for the velocity at (x_t, t, r); negative time at sign < 0."""
        sigmas = per_sample(t, like=x_t)
        if batch["sigmas"].ndim == x_t.ndim and batch["sigmas"].shape[1:] == x_t.shape[1:]:
            sigmas = sigmas.expand_as(x_t)
        return dict(batch) | {
            "noisy_latents": x_t.to(batch["noisy_latents"].dtype),
            "sigmas": sigmas,
            "timesteps": self._timesteps(t, batch),
            TIME_SIGN: sign,
            TARGET_TIME: r,
        }

    def predict_with(self, batch: Mapping[str, Any]) -> Callable[[Tensor, Tensor, Tensor, Tensor, Condition], Tensor]:
        """The objective's `predict` on this host batch, for passes without gradient."""

        @torch.no_grad()
        def predict(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, condition: Condition) -> Tensor:
            rows = select_rows(batch, condition.rows)
            if condition.unconditional:
                rows = unconditional(rows)
            there = self.at(rows, x_t, t, r, sign)
            return self.velocity(self.model.model_predict(prepared_batch=dict(there)), there)

        return predict

    def _timesteps(self, t: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The family's own timesteps of the times t; the family is asked, never `1000 t` assumed."""
        if self._reference_timesteps is None:
            # The host tells its [0, 1] from its [0, 1000] families by a batch's largest timestep. Their ratio to sigma
            # says so for any batch; read once and kept on the CPU, since asking the device would wait for it.
            ratio = batch["timesteps"].float().reshape(-1).max() / batch["sigmas"].float().max()
            self._reference_timesteps = ratio.round().reshape(1).cpu()
        return self.model.flow_matching_timesteps_from_sigmas(t, reference_timesteps=self._reference_timesteps)


def adapter_for(model: Any) -> FamilyAdapter:
    """The adapter that this run's model needs. Args: model: the host's `ModelFoundation`."""
    return FamilyAdapter(model)


class ConditionedClass:
    """A network class whose `from_config` gives the network with its target-time module.

    The host saves a full model's EMA by filling a network made from its configuration, parameter by parameter.
    """

    def __init__(self, network_class: type, family: Family) -> None:
        self._network_class, self._family = network_class, family

    def from_config(self, config: Any) -> nn.Module:
        """As the network class's own."""
        network = self._network_class.from_config(config)
        add_target_time(network, self._family)
        return network


def add_target_time(network: nn.Module, family: Family) -> None:
    """Add the target-time module to a network, on its device and in its dtype."""
    reference = next(network.parameters())
    width = network.get_submodule(family.time_embedding).linear_2.out_features
    network.add_module(TARGET_TIME, TargetTimeEmbedding(width).to(device=reference.device, dtype=reference.dtype))


def unconditional(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the host batch in which the empty prompt stands for the prompt, in every tensor that conditions.

    Raises:
        KeyError: The batch has no embedding of the empty prompt.
    """
    swapped = dict(batch)
    if batch.get("negative_encoder_hidden_states") is None:
        raise KeyError("negative_encoder_hidden_states: the host's batch has no embedding of the empty prompt")
    for negative, positives in UNCONDITIONAL.items():
        if (value := batch.get(negative)) is not None:
            swapped |= {key: value for key in positives if batch.get(key) is not None}
    if batch.get("negative_add_text_embeds") is not None and "text_embeds" in batch.get("added_cond_kwargs", {}):
        swapped["added_cond_kwargs"] = batch["added_cond_kwargs"] | {"text_embeds": batch["negative_add_text_embeds"]}
    return swapped


def select_rows(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The host batch with these rows only, in this order; repeated rows are repeated."""
    size = batch["latents"].shape[0]
    if tuple(rows) == tuple(range(size)):
        return dict(batch)
    return {key: _select(value, rows, size) for key, value in batch.items()}


def _select(value: Any, rows: Sequence[int], size: int) -> Any:
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape[0] != size:
            return value
        return value[torch.tensor(rows, device=value.device)]
    if isinstance(value, dict):
        return {key: _select(item, rows, size) for key, item in value.items()}
    if type(value) in (list, tuple) and len(value) == size:
        return type(value)(value[row] for row in rows)
    return value
