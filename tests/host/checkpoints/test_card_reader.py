"""Code of the card for families that are read by other lines; `make families` runs it."""

import ast
import re

import pytest
from simpletuner.helpers.models.anima.scheduler import AnimaFlowMatchEulerDiscreteScheduler

from simpletuner_twinflow.host.checkpoints.card_reader import NEEDS_HOST, reader_of
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from testbed.host_models.flow import host_model

HOSTS = ("zlab_i1", "anima", "flux3_image klein")


@pytest.fixture(autouse=True)
def each_in_folder(in_folder):
    """The host looks for files that a config names in the working directory."""


def reader(family, folder, steps=4, **changes):
    model = host_model(family, folder, twinflow_target_step_count=steps, **changes)
    model.twinflow_model = family_model_for(model)
    return model, reader_of(model, "the/base", "bfloat16", "the/adapter", 64 * 64)


@pytest.mark.parametrize("family", [*HOSTS, "ideogram"])
def test_lines_are_code_that_makes_a_pipeline(family, folder):
    _, found = reader(family, folder)
    tree = ast.parse("\n".join((*found.imports, *found.loading, *found.adapter)))
    made = {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for name in node.targets
        if hasattr(name, "id")
    }
    assert "pipeline" in made
    assert "the/base" in "".join(found.loading)
    assert (found.note is not None and NEEDS_HOST in found.note) == (family in HOSTS)
    assert any("simpletuner" in line for line in found.imports) == (family in HOSTS)


def test_most_families_are_read_by_the_usual_lines(folder):
    assert reader("sd3", folder)[1] is None


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_scheduler_of_animas_code_has_the_sigmas_that_are_trained(steps, folder):
    model, found = reader("anima", folder, steps)
    [code] = re.findall(r"scheduler=(Anima\w+\(.*?\)),$", "\n".join(found.loading), re.MULTILINE)
    made = eval(code, {"AnimaFlowMatchEulerDiscreteScheduler": AnimaFlowMatchEulerDiscreteScheduler})
    made.set_timesteps(steps)
    assert made.sigmas[:-1].tolist() == pytest.approx(model.twinflow_model.step_times, abs=1e-5)
    assert made.get_sampling_config() == model.twinflow_model.scheduler().get_sampling_config()


def test_adapter_of_ideogram_is_renamed_for_diffusers_and_comes_from_the_hub_where_it_was_pushed(folder):
    _, found = reader("ideogram", folder)
    assert "'the/adapter/pytorch_lora_weights.safetensors'" in found.adapter[0]
    assert 'replace("transformer.", "diffusion_model.", 1)' in "".join(found.adapter)
    assert "guidance_schedule=None" in found.arguments
    assert ", dtype=torch." in found.loading[0]
    model, _ = reader("ideogram", folder)
    model.config.push_to_hub = True
    pushed = reader_of(model, "the/base", "bfloat16", "the/adapter", 64 * 64)
    assert "hf_hub_download('the/adapter', 'pytorch_lora_weights.safetensors')" in pushed.adapter[0]
