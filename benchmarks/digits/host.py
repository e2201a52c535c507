"""The host's own TwinFlow, called as it is installed: its batch preparation, its loss and its auxiliary loss."""

from types import SimpleNamespace

import torch
from diffusers.training_utils import EMAModel
from simpletuner.helpers.models.common import ImageModelFoundation  # noqa: TID251 - it is what is measured here
from simpletuner.helpers.models.prediction import PredictionTypes  # noqa: TID251
from torch import Tensor

from benchmarks.digits.network import TwinNet
from benchmarks.digits.recipes import STUDENT_COST, Recipe, Step
from simpletuner_twinflow.method.objective import ObjectiveSettings

SIDE = 8


class DigitsModel(ImageModelFoundation):
    """The digits' network as one of the host's model families; whatever is not here is the host's."""

    NAME = "digits"
    PREDICTION_TYPE = PredictionTypes.FLOW_MATCHING

    def __init__(self, net: TwinNet, shadows: list[Tensor], objective: ObjectiveSettings) -> None:
        super().__init__(_config(objective), SimpleNamespace(device=torch.device("cpu")))
        self.model = net
        self.ema_model = EMAModel(net.parameters())
        self.ema_model.shadow_params = shadows
        self.cost = 0

    def setup_model_flavour(self) -> None:
        """There is no checkpoint to choose."""

    def setup_training_noise_schedule(self) -> None:
        """There is no scheduler to load: times are uniform and not shifted."""

    def model_predict(self, prepared_batch: dict, custom_timesteps: list | None = None) -> dict:
        """One pass of the network; the host gives no family a target time, but does give the sign."""
        x = prepared_batch["noisy_latents"]
        t = prepared_batch["timesteps"] / 1000
        sign = prepared_batch.get("twinflow_time_sign", torch.ones_like(t))
        self.cost += len(x) * (STUDENT_COST if torch.is_grad_enabled() else 1)
        velocity = self.model(x.flatten(1), t, t, sign, prepared_batch["labels"])
        return {"model_prediction": velocity.view_as(x)}

    # The host's class is abstract in the following three, which belong to text encoders and pipelines. A benchmark that
    # hands over labels calls none of them; if the host ever did, it should be seen.

    def _encode_prompts(self, prompts: list, is_negative_prompt: bool = False) -> dict:
        raise NotImplementedError("Digits have labels, no prompts.")

    def convert_text_embed_for_pipeline(self, text_embedding: dict) -> dict:
        """Never asked for: there is no pipeline."""
        raise NotImplementedError("Digits have labels, no prompts.")

    def convert_negative_text_embed_for_pipeline(self, text_embedding: dict) -> dict:
        """Never asked for: there is no pipeline."""
        raise NotImplementedError("Digits have labels, no prompts.")


def host_recipe(net: TwinNet, shadows: list[Tensor], objective: ObjectiveSettings) -> Recipe:
    """The steps that the host's trainer takes from a batch to the loss, which is flow matching plus TwinFlow.

    Args:
        net: the network being trained.
        shadows: averages of its parameters, in their order.
        objective: what the host has keys for is taken from it.
    """
    model = DigitsModel(net, shadows, objective)

    def step(x: Tensor, y: Tensor, number: int) -> Step:
        model.cost = 0
        batch = {"prompt_embeds": None, "latent_batch": x.view(-1, 1, SIDE, SIDE), "labels": y}
        prepared = model.prepare_batch(batch, {"global_step": number})
        output = model.model_predict(prepared)
        loss, _ = model.loss_with_logs(prepared, output)
        loss, _ = model.auxiliary_loss(prepared_batch=prepared, model_output=output, loss=loss)
        return Step(loss, model.cost)

    return step


def _config(objective: ObjectiveSettings) -> SimpleNamespace:
    return SimpleNamespace(
        weight_dtype=torch.float32,
        flow_matching=True,
        flow_schedule_shift=None,
        flow_schedule_auto_shift=False,
        flow_use_uniform_schedule=True,
        flow_use_beta_schedule=False,
        flux_fast_schedule=False,
        input_perturbation=0.0,
        controlnet=False,
        use_ema=True,
        twinflow_enabled=True,
        twinflow_implementation="host",
        twinflow_estimate_order=objective.estimate_order,
        twinflow_enhanced_ratio=objective.enhanced_ratio,
        twinflow_delta_t=objective.delta_t,
        twinflow_target_clamp=objective.target_clamp,
        twinflow_adversarial_enabled=objective.adversarial_enabled,
        twinflow_adversarial_weight=objective.adversarial_weight,
        twinflow_rectify_weight=objective.rectify_weight,
    )
