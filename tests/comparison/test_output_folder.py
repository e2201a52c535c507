"""Configuration and validation pictures of an output folder."""

import json

from simpletuner_twinflow.comparison.output_folder import is_output, output_dir_of, read_config, validation_pictures
from tests.comparison.folders import PLAIN, first, write_picture, write_run


def test_the_fullest_configuration_is_read(tmp_path):
    output = write_run(tmp_path / "output", [first(1, 1)])
    assert read_config(output) == ({}, "", None)
    (output / "training_metrics.json").write_text('{"config": {"seed": 1}}', encoding="utf-8")
    assert read_config(output)[:2] == ({"seed": 1}, "tracker's summary")
    (tmp_path / "config.toml").write_text('"--output_dir" = "output"\n"--seed" = 2\n', encoding="utf-8")
    assert read_config(output)[:2] == ({"output_dir": "output", "seed": 2}, "config file")
    (output / "pipeline").mkdir()
    (output / "pipeline/simpletuner_config.json").write_text(json.dumps(PLAIN), encoding="utf-8")
    assert read_config(output)[:2] == (PLAIN, "exported configuration")
    (output / "pipeline/simpletuner_config.json").write_text("{", encoding="utf-8")
    assert read_config(output)[1] == "config file"


def test_what_a_twinflow_run_recorded_of_itself_is_added_to_any_configuration(tmp_path):
    output = write_run(tmp_path / "output", [first(1, 1)])
    (output / "twinflow").mkdir()
    (output / "twinflow/run.json").write_text('{"twinflow/passes_per_row": 5.5, "seed": 0}', encoding="utf-8")
    assert read_config(output) == ({"twinflow/passes_per_row": 5.5, "seed": 0}, "", None)
    (output / "training_metrics.json").write_text('{"config": {"seed": 1}}', encoding="utf-8")
    assert read_config(output)[0] == {"twinflow/passes_per_row": 5.5, "seed": 1}
    (output / "simpletuner_config.json").write_text("[" * 200_000, encoding="utf-8")  # broken
    assert read_config(output)[0] == {"twinflow/passes_per_row": 5.5, "seed": 1}
    (tmp_path / "config.json").write_text('{"output_dir": "output", "seed": 2}', encoding="utf-8")
    assert read_config(output)[0] == {"twinflow/passes_per_row": 5.5, "output_dir": "output", "seed": 2}
    (output / "simpletuner_config.json").write_text('{"seed": 3}', encoding="utf-8")
    assert read_config(output)[0] == {"twinflow/passes_per_row": 5.5, "seed": 3}


def test_a_config_file_of_another_run_is_not_taken(tmp_path):
    output = write_run(tmp_path / "output", [first(1, 1)])
    (tmp_path / "config.json").write_text('{"output_dir": "elsewhere"}', encoding="utf-8")
    assert read_config(output) == ({}, "", None)
    assert output_dir_of(tmp_path) is None


def test_validation_pictures_are_read_from_names_and_from_the_trackers_list(tmp_path):
    pictures = tmp_path / "validation_images"
    for name in ("step_100_a_b_0_64x64.png", "step_100_a_b_1_64x64.png", "other.png", "step_7_日本_0_64x64.png"):
        write_picture(pictures / name)
    listed = write_picture(pictures / "step_5_c_0_64x64.png")
    write_picture(tmp_path.parent / "outside.png")
    fields = {"type": "image", "step": 5, "label": "c/d", "index": 0, "resolution": "64x64"}
    paths = (f"validation_images/{listed.name}", "../outside.png", "missing.png")
    lines = "".join(json.dumps(fields | {"path": path}) + "\n" for path in paths)
    (tmp_path / "validation_media.jsonl").write_text(lines, encoding="utf-8")
    found = sorted((one.label, one.step) for one in validation_pictures(tmp_path))
    assert found == sorted([("c/d - 64x64", 5), ("a_b - 64x64", 100), ("a_b - 64x64 (2)", 100), ("日本 - 64x64", 7)])
    assert is_output(tmp_path)
    assert not is_output(pictures)


def test_a_contact_sheet_in_the_trackers_list_is_no_validation_picture(tmp_path):
    write_picture(tmp_path / "twinflow/contact_sheet-5.png")
    line = {"type": "image", "step": 5, "label": "TwinFlow, step 5", "path": "twinflow/contact_sheet-5.png"}
    (tmp_path / "validation_media.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert [*validation_pictures(tmp_path)] == []


def test_a_run_begun_anew_has_no_validation_picture_of_the_earlier_one_at_its_first_step_and_after_it(tmp_path):
    lines = []
    for step in (1, 2, 4, 2):  # 4 is the earlier run's alone
        path = write_picture(tmp_path / f"validation_images/step_{step}_a_0_64x64.png")
        fields = {"type": "image", "step": step, "label": "a", "index": 0, "resolution": "64x64"}
        lines.append(json.dumps(fields | {"path": str(path.relative_to(tmp_path))}) + "\n")
    (tmp_path / "validation_media.jsonl").write_text("".join(lines), encoding="utf-8")
    assert [one.step for one in validation_pictures(tmp_path)] == [1, 2]
