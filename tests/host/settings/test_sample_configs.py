"""The configs to start from: the host reads them, a run with them would start, and the page on them names each."""

import json
import re

import pytest

from simpletuner_twinflow.host.settings.examined import examined
from tests.host.settings.configs import SAMPLES, load

CONFIGS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(SAMPLES.glob("*.json"))}
RECIPES = [name for name in CONFIGS if name != "cpu-demo.json"]  # which names the demo's own files
PAGE = (SAMPLES.parent / "docs/recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("configuration_folder")
def test_start_takes_the_config_and_the_doctor_has_nothing_against_it(name, tmp_path):
    data = tmp_path / "data.json"  # the one thing that is the user's
    data.write_text("[]", encoding="utf-8")
    config = {key: value for key, value in CONFIGS[name].items() if value is not None}
    config["data_backend_config"] = str(data)
    report = examined(config)
    assert report["problems"] == []
    assert report["overridden"] == []
    loaded = load(config, data_backend_config=str(data))
    assert {key: getattr(loaded, key) for key in config if key.startswith("twinflow_")} == {
        key: value for key, value in config.items() if key.startswith("twinflow_")
    }
    assert loaded.validation_num_inference_steps == config["twinflow_target_step_count"]


@pytest.mark.parametrize("name", RECIPES)
def test_page_of_recipes_has_the_numbers_of_the_config(name):
    [row] = re.findall(rf"^\| \[`?{re.escape(name)}`?\]\(.*$", PAGE, re.MULTILINE)
    config = CONFIGS[name]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == [
        config["model_type"] + (f", rank {config['lora_rank']}" if "lora_rank" in config else ""),
        str(config["twinflow_target_step_count"]),
        f"{config['learning_rate']:g}",
    ]
