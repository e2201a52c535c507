"""Runs whose order by quality is known: a base, plain training, TwinFlow half-way and at its end."""

import copy
import os
import shutil
from typing import Any

import diffusers
import torch

from simpletuner_twinflow.comparison.quality_files import read_history
from testbed.digits import write_digits
from testbed.pipelines import awaken, diffusion
from testbed.trainer import demo_config
from tests.runs.harness import ROOT, Host, Runs
from tests.runs.observer.probes.quality import note_damage
from tests.runs.run import Run

SEEDS = range(1, 1 + int(os.environ.get("QUALITY_SEEDS", "1")))  # three take five minutes more
ROWS = 64
PLAIN = {"twinflow_role_shares": {"near": 1.0}}  # plain flow matching, by a run that measures itself
UNTOUCHED = PLAIN | {"max_train_steps": ROWS // 16, "learning_rate": 1e-9}
MEASURED = {
    "report_to": "simpletuner",
    "validation_disable": True,
    "twinflow_target_step_count": 1,
    "twinflow_quality_samples": ROWS,
    "twinflow_quality_sheet": 0,
}
SD1X = MEASURED | {
    "model_family": "sd1x",
    "diff2flow_enabled": True,
    "twinflow_allow_diff2flow": True,
    "learning_rate": 2e-3,
    "caption_dropout_probability": 0.1,
}
KNOWING_STEPS = 300
SD3_ALONE = ("model_flavour", "tokenizer_max_length", "flow_schedule_shift")
DAMAGED = 300  # rows, as many as there are samples

Measures = dict[str, float]  # by "base", "plain", "half" and "trained"


def sd3_in_order(host: Host, runs: Runs) -> dict[int, Measures]:
    """By seed, 40 steps on the tiny SD3 with the digits."""
    host = _with_digits(host, "sd3")
    return {seed: _in_order(host, f"order_sd3_{seed}", MEASURED | {"seed": seed}, 40) for seed in SEEDS}


def sd1x_in_order(host: Host, runs: Runs) -> dict[int, Measures]:
    """By seed, 80 steps on an epsilon model of Stable Diffusion 1's kind, which first learns the digits."""
    host = _with_digits(host, "sd1x")
    host.pipeline = host.folder / "sd1x"
    _small_sd1x().save_pretrained(host.pipeline)
    steps = {"max_train_steps": KNOWING_STEPS, "checkpointing_steps": KNOWING_STEPS}
    first = host.train("order_sd1x_base", _config(SD1X | PLAIN | steps | {"twinflow_quality_samples": 0})).check()
    knowing = diffusers.StableDiffusionPipeline.from_pretrained(host.pipeline)
    averaged = diffusers.UNet2DConditionModel.from_pretrained(first.output / "pipeline/unet")
    knowing.register_modules(unet=averaged)
    host.pipeline = host.folder / "sd1x_knowing"
    knowing.save_pretrained(host.pipeline)
    return {seed: _in_order(host, f"order_sd1x_{seed}", SD1X | {"seed": seed}, 80) for seed in SEEDS}


def damaged_samples(host: Host, runs: Runs) -> Run:
    """The measure is asked for other real rows in place of samples, as they are and made worse on purpose."""
    config = MEASURED | {"max_train_steps": 2, "twinflow_quality_samples": 2 * DAMAGED, "train_batch_size": DAMAGED}
    config |= {"twinflow_quality_interval": 2}
    return _with_digits(host, "damaged").train("damaged_samples", _config(config), probe=note_damage)


def _with_digits(host: Host, name: str) -> Host:
    """The same host with all of the digits, in a folder of this recipe's: two recipes are made at a time."""
    other = copy.copy(host)
    other.images = host.folder / f"digits_{name}"
    write_digits(other.images)
    return other


def _config(changes: dict[str, Any]) -> dict[str, Any]:
    """The demo's without guidance, which draws in one step."""
    config = demo_config(**changes)
    return config if config["model_family"] == "sd3" else {k: v for k, v in config.items() if k not in SD3_ALONE}


def _in_order(host: Host, name: str, config: dict[str, Any], steps: int) -> Measures:
    def measured(kind: str, **changes: Any) -> list[float]:
        last = changes["max_train_steps"]
        given = {"twinflow_quality_interval": last, "checkpointing_steps": last} | changes
        if kind != "base":  # the pictures and prompts are encoded once
            shutil.copytree(host.folder / f"{name}_base/cache", host.folder / f"{name}_{kind}/cache")
        run = host.train(f"{name}_{kind}", _config(config | given)).check()
        return [line["values"]["ema_1/mmd_in_errors"] for line in read_history(run.output, []).measures.values()]

    (base,), (plain,) = measured("base", **UNTOUCHED), measured("plain", **PLAIN, max_train_steps=steps)
    half, trained = measured("trained", max_train_steps=steps, twinflow_quality_interval=steps // 2)
    return {"base": base, "plain": plain, "half": half, "trained": trained}


def _small_sd1x() -> diffusers.DiffusionPipeline:
    """A U-Net of a million parameters on the latents of the demo's auto-encoder, which has one channel."""
    pipeline = diffusion.sd1x()
    torch.manual_seed(0)
    wide = {"in_channels": 1, "out_channels": 1, "block_out_channels": (32, 64), "norm_num_groups": 8}
    network = diffusers.UNet2DConditionModel.from_config(pipeline.unet.config, **wide)
    awaken(network)
    vae = diffusers.AutoencoderKL.from_pretrained(ROOT / "demo/base/vae")
    pipeline.register_modules(unet=network, vae=vae)
    return pipeline


QUALITY_RECIPES = {recipe.__name__: recipe for recipe in (sd3_in_order, sd1x_in_order, damaged_samples)}
