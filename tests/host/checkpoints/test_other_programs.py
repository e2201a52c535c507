"""The final adapter's header and ComfyUI workflow; a checkpoint's, and a run without TwinFlow, have neither."""

import json

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from simpletuner_twinflow.host.checkpoints.other_programs import (
    WORKFLOW_FILE,
    add_to_header,
    flow_sigmas,
    header,
    workflow_of,
)
from simpletuner_twinflow.host.checkpoints.other_run import ADAPTER_FILE
from testbed.host_models import diffusion
from testbed.host_models.trainer import host_trainer
from tests.host.conftest import LORA


def saved(trainer, folder):
    """The header of an adapter that the trainer saves in a folder."""
    layers = get_peft_model_state_dict(trainer.model.get_trained_component())
    trainer.model.save_lora_weights(save_directory=str(folder), transformer_lora_layers=layers)
    with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("changes", "sampler", "sigmas"),
    [
        ({"twinflow_target_step_count": 2}, "euler", "1, 0.5, 0"),
        ({"twinflow_target_step_count": 1}, "lcm", "1, 0"),
        ({"twinflow_target_step_count": 2, "twinflow_time_conditioning": "signed_time"}, "lcm", "1, 0.6, 0"),
    ],
)
def test_header_and_workflow_say_how_the_run_validated(changes, sampler, sigmas, make_trainer, tmp_path):
    trainer = make_trainer(
        output_dir=str(tmp_path), validation_prompt="a cat", validation_resolution="64x128", **changes
    )
    said = saved(trainer, tmp_path)
    assert (said["twinflow.sampler"], said["twinflow.sigmas"]) == (sampler, sigmas)
    assert (said["twinflow.steps"], said["twinflow.cfg_scale"]) == (str(changes["twinflow_target_step_count"]), "1")
    assert said["twinflow.weights"] == "ema"
    assert said["modelspec.architecture"] == "sd3-medium/lora"
    assert said["modelspec.usage_hint"].endswith(f"CFG scale 1, sampler {sampler}, sigmas {sigmas}")
    nodes = json.loads((tmp_path / WORKFLOW_FILE).read_text(encoding="utf-8")).values()
    inputs = {node["class_type"]: node["inputs"] for node in nodes}
    assert inputs["ManualSigmas"]["sigmas"] == sigmas
    assert inputs["KSamplerSelect"]["sampler_name"] == sampler
    assert inputs["LoraLoaderModelOnly"]["lora_name"] == ADAPTER_FILE
    assert inputs["CLIPTextEncode"]["text"] == "a cat"
    assert (inputs["EmptySD3LatentImage"]["width"], inputs["EmptySD3LatentImage"]["height"]) == (64, 128)


def test_peft_still_reads_its_own_part_of_the_header(make_trainer, tmp_path):
    said = saved(make_trainer(output_dir=str(tmp_path)), tmp_path)
    assert json.loads(said["lora_adapter_metadata"])["transformer.lora_alpha"] == LORA["lora_rank"]
    assert said["format"] == "pt"


def test_checkpoint_and_run_without_twinflow_have_neither(make_trainer, tmp_path):
    for trainer, folder in (
        (make_trainer(output_dir=str(tmp_path)), tmp_path / "checkpoint-2"),
        (make_trainer(output_dir=str(tmp_path), twinflow_enabled=False), tmp_path),
    ):
        assert not [key for key in saved(trainer, folder) if key.startswith(("twinflow", "modelspec"))]
        assert not (folder / WORKFLOW_FILE).exists()


def test_two_runs_of_one_configuration_say_the_same(make_trainer, tmp_path):
    trainers = [make_trainer(output_dir=str(tmp_path / name)) for name in ("a", "b")]
    said = [header(trainer.model) for trainer in trainers]
    assert said[0] == said[1]
    assert str(tmp_path) not in str(said)
    assert workflow_of(trainers[0].model) == workflow_of(trainers[1].model)


def test_sigmas_of_an_epsilon_model_begin_at_its_own_last_time(folder, in_folder, tmp_path):
    two = {"twinflow_target_step_count": 2}
    trainer = host_trainer(diffusion.host_model("sdxl", folder, **LORA, output_dir=str(tmp_path), **two))
    first, second, last = flow_sigmas(trainer.model)
    alphas = trainer.model.noise_schedule.alphas_cumprod
    assert first == pytest.approx(float(((1 - alphas[-1]) / alphas[-1]) ** 0.5), rel=1e-4)  # ComfyUI's sigma_max
    assert (second, last) == (pytest.approx(0.6 / 0.4, rel=1e-3), 0.0)
    assert header(trainer.model)["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


@pytest.mark.parametrize("lora_format", ["diffusers", "comfyui"])
def test_start_says_why_there_will_be_no_workflow(lora_format, folder, in_folder, tmp_path, caplog):
    caplog.set_level("INFO")
    trainer = host_trainer(
        diffusion.host_model("sdxl", folder, **LORA, output_dir=str(tmp_path), lora_format=lora_format)
    )
    told = 'it does with lora_format "comfyui"' in caplog.text
    layers = get_peft_model_state_dict(trainer.model.get_trained_component())
    trainer.model.save_lora_weights(save_directory=str(tmp_path), unet_lora_layers=layers)
    written = (tmp_path / WORKFLOW_FILE).exists()
    assert (told, written) == ((True, False) if lora_format == "diffusers" else (False, True))


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "twinflow.steps": "9"}])
def test_entries_are_added_to_a_file_whose_tensors_stay(metadata, tmp_path):
    file = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.tensor(2)}
    save_file(tensors, file, metadata=metadata)
    add_to_header(file, {"twinflow.steps": "2", "name": "Größe"})
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0  # so that a reader may map the tensors
    read = load_file(file)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], tensors[key]) and read[key].dtype == tensors[key].dtype for key in tensors)
    written = file.read_bytes()
    length = int.from_bytes(written[:8], "little")
    names = list(json.loads(written[8 : 8 + length])["__metadata__"])
    assert names == sorted(names)  # the same bytes from the same run
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == (metadata or {}) | {"twinflow.steps": "2", "name": "Größe"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
