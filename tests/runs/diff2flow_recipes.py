"""Runs of the real host on epsilon and v models; of SD 1.x the host itself (4.10.1) cannot load a pipeline to train."""

import copy
import json

from tests.host.training.diffusion_pipelines import write_sdxl
from tests.runs.harness import FULL, ROOT, TINY, Host, Runs
from tests.runs.observer.probes.diffusion import note_passes
from tests.runs.run import Run

SAMPLE = json.loads((ROOT / "sample_configs/sdxl-diff2flow-twinflow.json").read_text(encoding="utf-8"))
DIFFUSION = SAMPLE | {key: value for key, value in TINY.items() if key != "model_flavour"}
# Six rows a window, so that each role has one.
ADVERSARIAL = {"twinflow_adversarial_enabled": True, "gradient_accumulation_steps": 6}


def on(host: Host, pipeline: str) -> tuple[Host, dict[str, str]]:
    """The same host on another base model, and the keys that say where its parts are."""
    other = copy.copy(host)
    other.pipeline = host.folder / pipeline
    return other, {"pretrained_vae_model_name_or_path": str(other.pipeline)}


def sdxl_lora(host: Host, runs: Runs) -> Run:
    """The documented SDXL config, everything on."""
    write_sdxl(host.folder / "tiny_sdxl")
    host, paths = on(host, "tiny_sdxl")
    return host.train("sdxl_lora", DIFFUSION | paths | ADVERSARIAL, probe=note_passes)


def sdxl_v_full(host: Host, runs: Runs) -> Run:
    """A v-prediction model with zero terminal SNR, full fine-tune, everything on."""
    write_sdxl(host.folder / "tiny_sdxl_v", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    host, paths = on(host, "tiny_sdxl_v")
    model = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config = DIFFUSION | paths | FULL | ADVERSARIAL | model
    return host.train("sdxl_v_full", config, probe=note_passes)


DIFF2FLOW_RECIPES = {recipe.__name__: recipe for recipe in (sdxl_lora, sdxl_v_full)}
