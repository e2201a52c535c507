"""Runs of the real host on epsilon and v models; of SD 1.x the host itself (4.10.1) cannot load a pipeline to train."""

import copy
import json

from tests.host.training.diffusion_pipelines import write_sdxl
from tests.runs.harness import FULL, ROOT, TINY, Host, Run, Runs

SAMPLE = json.loads((ROOT / "sample_configs/sdxl-diff2flow-twinflow.json").read_text(encoding="utf-8"))
DIFFUSION = SAMPLE | {key: value for key, value in TINY.items() if key != "model_flavour"}
ADVERSARIAL = {"twinflow_adversarial_enabled": True}
# Notes what the network is asked in training, and what the few-step scheduler is called with.
WATCH = """
import torch
def training_pass(model, args, kwargs):
    batch = args[0] if args else kwargs["prepared_batch"]
    keys = {"time": "timesteps", "t": "twinflow_flow_time", "r": "twinflow_target_time", "sign": "twinflow_sign"}
    found = {name: batch[key].tolist() for name, key in keys.items()} if "twinflow_flow_time" in batch else {}
    return {"kind": "training_pass", "with_grad": torch.is_grad_enabled(), **found,
            "prompts": batch["encoder_hidden_states"].double().sum(dim=(1, 2)).tolist(),
            "pooled": [float(row.double().sum()) for row in batch["added_cond_kwargs"].get("text_embeds", ())]}
def sampling_step(scheduler, args, kwargs):
    output, time, sample = args[:3]
    return {"kind": "sampling_step", "time": float(time), "prediction_type": scheduler.path.prediction_type,
            "size": float(sample.float().std())}
for module, path, describe in [
    ("simpletuner.helpers.models.sdxl.model", "SDXL._model_predict_single", training_pass),
    ("simpletuner_twinflow.sampling.diffusion_scheduler", "TwinFlowDiffusionScheduler.step", sampling_step),
]:
    wrapt.register_post_import_hook(before(path, describe), module)
"""


def on(host: Host, pipeline: str) -> tuple[Host, dict[str, str]]:
    """The same host on another base model, and the keys that say where its parts are."""
    other = copy.copy(host)
    other.pipeline = host.folder / pipeline
    return other, {"pretrained_vae_model_name_or_path": str(other.pipeline)}


def sdxl_lora(host: Host, runs: Runs) -> Run:
    """The documented SDXL config, everything on."""
    write_sdxl(host.folder / "tiny_sdxl")
    host, paths = on(host, "tiny_sdxl")
    return host.train("sdxl_lora", DIFFUSION | paths | ADVERSARIAL, environment={"OBSERVER_CODE": WATCH})


def sdxl_v_full(host: Host, runs: Runs) -> Run:
    """A v-prediction model with zero terminal SNR, full fine-tune, everything on."""
    write_sdxl(host.folder / "tiny_sdxl_v", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    host, paths = on(host, "tiny_sdxl_v")
    model = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config = DIFFUSION | paths | FULL | ADVERSARIAL | model
    return host.train("sdxl_v_full", config, environment={"OBSERVER_CODE": WATCH})


DIFF2FLOW_RECIPES = {recipe.__name__: recipe for recipe in (sdxl_lora, sdxl_v_full)}
