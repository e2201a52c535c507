"""What a run leaves behind: does it load and draw where neither the plugin nor the host is installed?"""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from simpletuner_twinflow import TwinFlowOptions, TwinFlowScheduler
from simpletuner_twinflow.host.checkpoints.files import TIME_CONDITIONING_FILE
from simpletuner_twinflow.host.settings.conflicts import conflicts
from testbed.stock import run_without_plugin_and_host
from tests.runs.harness import ROOT, SEED, TINY
from tests.runs.run import Run

FULL_RUNS = ("adversarial_full", "export_full_student")
LORA_RUNS = ("export_lora", "export_lora_without_ema")
EXPORTS = (*FULL_RUNS, *LORA_RUNS)
NETWORK, ADAPTER = "diffusion_pytorch_model.safetensors", "pytorch_lora_weights.safetensors"
BUFFER = "pos_embed.pos_embed"  # not trained; the host works it out anew for a checkpoint's EMA, close to the base's
PROMPT, SIZE, VALIDATION_SEED = TINY["validation_prompt"], 64, TINY["seed"]


def exported(run: Run):
    """The folder that the host exports to."""
    return run.check().output / "pipeline" if (run.output / "pipeline").exists() else run.output


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def validation_picture(run: Run) -> np.ndarray:
    """What the host drew at the last step, without the prompt that it writes below."""
    [path] = run.check().output.glob("validation_images/step_4_*.png")
    return pixels(Image.open(path).crop((0, 0, SIZE, SIZE)))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def card(run: Run) -> str:
    return (exported(run) / "README.md").read_text(encoding="utf-8")


# --- classes and weights ------------------------------------------------------------------------------------------


@pytest.mark.host_runs(*FULL_RUNS)
@pytest.mark.parametrize("name", FULL_RUNS)
def test_exported_pipeline_is_complete_and_of_stock_classes(name, runs):
    folder = exported(runs[name])
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    parts = {part: value for part, value in index.items() if isinstance(value, list)}
    missing = {part for part, (library, _) in parts.items() if library is None}
    assert missing == {"image_encoder", "feature_extractor"}  # which no SD3 has
    assert {library for library, _ in parts.values()} == {"diffusers", "transformers", None}
    assert load_file(folder / "transformer" / NETWORK).keys() == stock_keys(folder)
    assert "enable_time_sign_embed" not in (folder / "transformer/config.json").read_text(encoding="utf-8")


def stock_keys(folder) -> set[str]:
    config = SD3Transformer2DModel.load_config(folder / "transformer")
    return SD3Transformer2DModel.from_config(config).state_dict().keys()


@pytest.mark.host_runs(*FULL_RUNS)
@pytest.mark.parametrize(("name", "kept", "other"), [(FULL_RUNS[0], "_ema", ""), (FULL_RUNS[1], "", "_ema")])
def test_exported_pipeline_holds_the_weights_asked_for(name, kept, other, runs):
    """EMA by default, the student where twinflow_export_weights says so."""
    output = runs[name].check().output
    found = load_file(output / "pipeline/transformer" / NETWORK)
    wanted, unwanted = (load_file(output / f"checkpoint-4/transformer{kind}" / NETWORK) for kind in (kept, other))
    assert wanted.keys() > found.keys()  # a checkpoint keeps what only training needs
    base = load_file(ROOT / "demo/base/transformer" / NETWORK)
    assert found.pop(BUFFER).equal(base[BUFFER])
    assert same(found, {key: wanted[key] for key in found})
    assert not same(found, {key: unwanted[key] for key in found})


@pytest.mark.host_runs(*LORA_RUNS)
def test_final_adapter_is_the_change_that_ema_has_made_to_the_untouched_base(runs):
    """For a reader without a header: the base's weight and `B A`. The checkpoint's adapter stands on a changed base."""
    output = runs["export_lora"].check().output
    final, average, student = (
        {key.removeprefix("transformer."): weight for key, weight in load_file(output / file / ADAPTER).items()}
        for file in (".", "checkpoint-4/ema", "checkpoint-4")
    )
    names = sorted(key.removesuffix(".lora_A.weight") for key in average if key.endswith(".lora_A.weight"))
    network = SD3Transformer2DModel.from_pretrained(ROOT / "demo/base", subfolder="transformer")
    base = {name: network.get_submodule(name).weight.detach().clone() for name in names}
    settings = {"r": TINY["lora_rank"], "lora_alpha": 32, "init_lora_weights": "pissa"}
    inject_adapter_in_model(LoraConfig(target_modules=names, **settings), network)
    for weights, is_exported in ((average, True), (student, False)):
        set_peft_model_state_dict(network, weights)
        for name in names:
            layer = network.get_submodule(name)
            trained = (layer.base_layer.weight + layer.get_delta_weight("default")).detach()
            told = base[name] + final[f"{name}.lora_B.weight"] @ final[f"{name}.lora_A.weight"]
            assert torch.allclose(told, trained, rtol=0, atol=2e-6) == is_exported
    assert (output / "checkpoint-4" / TIME_CONDITIONING_FILE).is_file()


@pytest.mark.host_runs(*LORA_RUNS)
def test_final_adapter_holds_the_students_weights_where_there_is_no_ema_and_the_log_says_so_once(runs):
    run = runs["export_lora_without_ema"].check()
    assert same(load_file(run.output / ADAPTER), load_file(run.output / "checkpoint-2" / ADAPTER))
    assert run.log.count('"auto" exports the student\'s weights') == 1
    assert "exports the student" not in runs["export_lora"].log


@pytest.mark.host_runs(*LORA_RUNS)
@pytest.mark.parametrize("name", LORA_RUNS)
def test_final_adapters_header_says_nothing_but_its_rank(name, runs):
    with safe_open(runs[name].check().output / ADAPTER, "pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
        ranks = {file.get_slice(key).get_shape()[0] for key in file.keys() if "lora_A" in key}  # noqa: SIM118
    assert {header["transformer.r"], header["transformer.lora_alpha"]} == ranks
    assert header["transformer.lora_dropout"] == 0.0
    assert header["transformer.init_lora_weights"] is True


def test_ema_weights_asked_for_without_ema_are_refused_at_start_up():
    config = SEED | {"use_ema": False, "twinflow_require_ema": False, "twinflow_export_weights": "ema"}
    [problem] = conflicts(config, TwinFlowOptions.from_mapping(config))
    assert re.search(r'twinflow_export_weights is "ema".*use_ema.*"auto"', problem)
    config["twinflow_export_weights"] = "auto"
    assert [*conflicts(config, TwinFlowOptions.from_mapping(config))] == []


# --- pictures -----------------------------------------------------------------------------------------------------


def draw(pipeline: StableDiffusion3Pipeline, steps: int) -> np.ndarray:
    how = {"height": SIZE, "width": SIZE, "guidance_scale": 0.0, "max_sequence_length": TINY["tokenizer_max_length"]}
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    return pixels(pipeline(PROMPT, num_inference_steps=steps, generator=generator, **how).images[0])


def distance(one: np.ndarray, other: np.ndarray) -> int:
    """The largest, of 255 levels."""
    return np.abs(one - other).max()


@pytest.mark.host_runs(*EXPORTS)
def test_exported_pipeline_draws_the_validations_picture(runs):
    """Student, one step, as it is loaded and by our scheduler."""
    run = runs["export_full_student"]
    pipeline = StableDiffusion3Pipeline.from_pretrained(exported(run))
    assert distance(draw(pipeline, steps=1), validation_picture(run)) <= 1
    pipeline.scheduler = TwinFlowScheduler()
    assert distance(draw(pipeline, steps=1), validation_picture(run)) <= 1


@pytest.mark.host_runs(*EXPORTS)
def test_exported_adapter_draws_the_validations_picture(runs):
    """EMA, two steps, alpha four times the rank, an initialisation that has changed the base's weights."""
    run = runs["export_lora"]
    folder = run.check().output
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    pipeline = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base", scheduler=scheduler)
    base = draw(pipeline, steps=2)
    pipeline.load_lora_weights(folder)
    stock = {steps: draw(pipeline, steps) for steps in (1, 2)}
    assert distance(stock[2], validation_picture(run)) <= 1
    assert distance(base, validation_picture(run)) > 8
    pipeline.scheduler = TwinFlowScheduler()
    assert distance(draw(pipeline, steps=2), validation_picture(run)) <= 1
    assert distance(draw(pipeline, steps=1), stock[1]) <= 1 < distance(stock[1], stock[2])


@pytest.mark.host_runs(*EXPORTS)
@pytest.mark.parametrize("name", EXPORTS)
def test_exported_scheduler_is_stock_and_keeps_to_the_trained_levels(name, runs):
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(exported(runs[name]), subfolder="scheduler")
    assert type(scheduler) is FlowMatchEulerDiscreteScheduler
    steps = 1 if name == "export_full_student" else SEED["twinflow_target_step_count"]
    assert scheduler.config.stochastic_sampling == (steps == 1)
    for asked in {1, steps}:
        scheduler.set_timesteps(asked)
        assert scheduler.sigmas[:-1].tolist() == pytest.approx(TwinFlowScheduler().step_times(asked), abs=1e-5)


# --- model card ---------------------------------------------------------------------------------------------------


@pytest.mark.host_runs(*EXPORTS)
@pytest.mark.parametrize("name", EXPORTS)
def test_model_card_states_what_it_is(name, runs):
    text = card(runs[name])
    steps = 1 if name == "export_full_student" else SEED["twinflow_target_step_count"]
    weights = "EMA" if name in ("adversarial_full", "export_lora") else "student"
    for words in (
        "- TwinFlow: few-step model",
        f"- Target steps: `{steps}`",
        "- Guidance scale: `0`",
        f"- Weights: {weights}",
        f"- Steps: `{steps}`",
        "- CFG: `0.0`",
        "- Sampler: `TwinFlowScheduler`",
    ):
        assert words in text


@pytest.mark.host_runs(*EXPORTS)
@pytest.mark.parametrize("name", EXPORTS)
def test_model_cards_code_runs_without_plugin_and_host_and_loads_without_a_notice(name, runs):
    run = runs[name].check()
    code = re.findall(r"```python\n(.*?)```", card(run), re.DOTALL)[0]
    picture = run.folder / "output.png"
    picture.unlink(missing_ok=True)
    result = run_without_plugin_and_host(code, run.folder)
    assert result.returncode == 0, result.stderr[-3000:]
    for notice in ("deprecated", "not used when", "not expected", "newly initialized", "unexpected key", "missing key"):
        assert notice not in result.stderr.lower()
    drawn = pixels(Image.open(picture))
    assert drawn.shape == (SIZE, SIZE, 3)
    assert drawn.std() > 10
    if name in ("export_full_student", "export_lora"):  # which validate the weights that they export
        assert distance(drawn, validation_picture(run)) <= 1
