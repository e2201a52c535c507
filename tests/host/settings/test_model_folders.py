"""Folders of models that a configuration names."""

import inspect

import pytest
from diffusers import ModelMixin
from diffusers.loaders.single_file_utils import load_single_file_checkpoint
from simpletuner.helpers.models.common import ModelFoundation
from simpletuner.helpers.models.registry import ModelRegistry

from simpletuner_twinflow._hooks import DISTRIBUTION
from simpletuner_twinflow._startup import HOST
from simpletuner_twinflow.host.doctor import PACKAGES, as_text
from simpletuner_twinflow.host.settings.examined import examined
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES, FAMILIES
from simpletuner_twinflow.host.settings.model_folders import (
    FROM_FOLDERS,
    OWN_FILES,
    TRANSFORMER_KEY,
    UNET_FAMILIES,
    UNET_KEY,
    model_folders,
)
from tests.host.settings.configs import SEED
from tests.host.settings.test_examined import examples

KEY = "pretrained_model_name_or_path"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/base").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", ["model", "~/model", "./models/other", "a/b/c", "/no/such/model"])
def test_a_folder_that_is_not_here_and_no_repository_is_what_a_run_would_end_at(name, here):
    [line], at_hub = model_folders({KEY: name})
    assert not at_hub
    assert line.startswith(f'{KEY} is "{name}": no such folder here')
    assert (f"looked in {here}" in line) == (name != "/no/such/model")
    assert ("does not expand ~" in line) == name.startswith("~")


def test_what_may_be_a_repository_is_said_to_be_looked_for_there(here):
    nowhere, [line] = model_folders({KEY: "models/other"})
    assert not nowhere
    assert f'{KEY} is "models/other": no such folder here (looked in {here})' in line
    assert "SimpleTuner will look for it on the model hub." in line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["models/base", "models", "", "None", "a/b/c/one.safetensors", None])
def test_nothing_is_said_of_what_is_here_or_not_set(name):
    assert model_folders({KEY: name}) == ([], [])


@pytest.mark.usefixtures("here")
def test_report_has_both():
    report = examined(SEED | {KEY: "model", "pretrained_vae_model_name_or_path": "some/vae"})
    assert [line.split()[0] for line in report["missing"]] == [KEY]
    assert [line.split()[0] for line in report["hub"]] == ["pretrained_vae_model_name_or_path"]
    versions = dict.fromkeys((*PACKAGES, HOST, DISTRIBUTION, "python"))
    assert report["hub"][0] in as_text({"versions": versions, "seams": {}, "notes": []} | report)


@pytest.mark.usefixtures("here")
def test_names_of_the_hosts_own_examples_are_not_refused():
    for config in examples().values():
        assert model_folders({key.lstrip("-"): value for key, value in config.items()})[0] == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("family", "read"), [("sd3", TRANSFORMER_KEY), ("sdxl", UNET_KEY)])
def test_a_key_that_the_family_does_not_read_is_not_looked_up(family, read):
    keys = (TRANSFORMER_KEY, UNET_KEY, "controlnet_model_name_or_path")
    nowhere, at_hub = model_folders({"model_family": family} | dict.fromkeys(keys, "/old/network"))
    assert not at_hub
    assert [line.split()[0] for line in nowhere] == [read]


def test_families_of_a_unet_are_the_hosts():
    hosts = ModelRegistry.model_families()
    trained = hosts.keys() & (FAMILIES | DIFFUSION_FAMILIES).keys()
    assert {name for name in trained if hosts[name].MODEL_TYPE.value == "unet"} == set(UNET_FAMILIES)


@pytest.mark.usefixtures("here")
def test_name_that_is_too_long_for_a_file_is_a_problem_as_another():
    [line], _ = model_folders({KEY: "/" + "a" * 5000})
    assert "no such folder here" in line


@pytest.mark.parametrize("family", FROM_FOLDERS)
def test_what_is_said_to_hold_no_model_the_hosts_loader_refuses(family, here):
    host = ModelRegistry.model_families()[family]
    network = host.MODEL_CLASS
    assert host.load_model is ModelFoundation.load_model
    assert host.setup_model_flavour is ModelFoundation.setup_model_flavour  # no flavour with a network elsewhere
    assert inspect.unwrap(network.from_pretrained.__func__) is inspect.unwrap(ModelMixin.from_pretrained.__func__)
    assert {"unet": "unet", "transformer": "transformer"}[host.MODEL_TYPE.value] == host.MODEL_SUBFOLDER
    (here / "model.ckpt").write_bytes(bytes(range(256)))
    (here / "part/text_encoder").mkdir(parents=True)  # a download that was cut off
    (here / "part/text_encoder/config.json").write_text("{}")
    for name, words in (("models/base", "holds no network"), ("part", "holds no network"), ("model.ckpt", "a file")):
        [line], _ = model_folders({"model_family": family, KEY: name})
        assert line.startswith(f'{KEY} is "{name}": ')
        assert words in line
        with pytest.raises(OSError, match=r"no file named config\.json|is not a valid JSON file"):
            network.from_pretrained(name, subfolder=host.MODEL_SUBFOLDER, use_safetensors=True)


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({"model_family": "sd3"}, ["transformer/config.json"]),
        ({"model_family": "sd1x"}, ["unet/config.json"]),
        ({"model_family": "sd3", KEY: "some/base", TRANSFORMER_KEY: "models/base"}, ["config.json"]),
        ({"model_family": "anima"}, ["split_files/x.safetensors"]),
        (
            {"model_family": "sd3", TRANSFORMER_KEY: "models/base", "pretrained_transformer_subfolder": "a/b"},
            ["a/b/config.json"],
        ),
        (
            {"model_family": "sdxl", UNET_KEY: "models/base", "pretrained_unet_subfolder": "a/b"},
            ["a/b/config.json"],
        ),
        ({"model_family": "sdxl", UNET_KEY: "some/unet"}, []),  # the base's other parts are not looked up
        ({"model_family": "sdxl", UNET_KEY: "one.safetensors"}, []),
        ({"model_family": "wan", TRANSFORMER_KEY: "one.safetensors"}, []),  # whose loader is its own
    ],
)
def test_folder_that_a_network_may_be_loaded_from_is_none_without_a_model(config, files, here):
    (here / "one.safetensors").touch()
    for file in files:
        (here / "models/base" / file).parent.mkdir(parents=True, exist_ok=True)
        (here / "models/base" / file).touch()
    assert model_folders({KEY: "models/base"} | config)[0] == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["one.safetensors", "/models/One.SAFETENSORS", "a/b/one.safetensors", "~/one.gguf"])
def test_one_file_that_is_not_here_is_a_problem_and_diffusers_refuses_it(name):
    [line], at_hub = model_folders({"model_family": "sdxl", KEY: name})
    assert not at_hub
    assert line.startswith(f'{KEY} is "{name}": no such file here')
    with pytest.raises(ValueError, match="set it to a valid URL"):
        load_single_file_checkpoint(name)


@pytest.mark.usefixtures("here")
def test_one_file_at_an_address_or_of_a_loader_of_its_own_is_no_problem():
    for family, name in (("sdxl", "https://huggingface.co/a/b/one.safetensors"), ("krea2", "one.safetensors")):
        assert model_folders({"model_family": family, KEY: name}) == ([], [])


@pytest.mark.parametrize("name", ["One.SAFETENSORS", "one.gguf"])
def test_one_file_that_the_host_loads_is_no_problem(name, here):
    (here / name).touch()
    assert model_folders({"model_family": "sd1x", KEY: name})[0] == []


@pytest.mark.parametrize("family", sorted({*FROM_FOLDERS} - {*UNET_FAMILIES, *OWN_FILES}))
def test_one_file_is_a_problem_of_the_families_whose_network_diffusers_cannot_load_from_one(family, here):
    (here / "one.safetensors").touch()
    for name in ("one.safetensors", "https://huggingface.co/a/b/one.gguf"):
        [line], _ = model_folders({"model_family": family, KEY: name})
        assert f"a file, and SimpleTuner loads no network of {family} from one" in line
    with pytest.raises((ValueError, AttributeError), match=r"only compatible with|from_single_file"):
        ModelRegistry.model_families()[family].MODEL_CLASS.from_single_file("one.safetensors")


def test_network_of_its_own_is_looked_up_in_the_bases_place(here):
    (here / "empty").mkdir()
    [line], _ = model_folders({"model_family": "flux", KEY: "models/base", TRANSFORMER_KEY: str(here / "empty")})
    assert line.startswith(f"{TRANSFORMER_KEY} is ")
