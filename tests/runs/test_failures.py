"""Runs that meet what fails or is missing: slow queues, a chart, a loss, an evaluation, a seam, a refused value."""

import pytest

from tests.runs.run import Run
from tests.runs.terms import ALL_TERMS, assert_every_step_logs


@pytest.mark.host_runs("slow_scan")
def test_scan_of_a_large_image_set_loses_nothing_and_lets_the_run_end(runs):
    """The plain host finds no image here, and its process waits at exit for a queue that nobody reads."""
    run = runs["slow_scan"].check()
    assert "Total number of images: 700" in run.log
    assert len(run.step_logs()) == 1


@pytest.mark.host_runs("failing_chart")
def test_chart_that_cannot_be_drawn_takes_no_values_along(runs):
    assert_every_step_logs(runs["failing_chart"], ALL_TERMS, steps=2)


@pytest.mark.host_runs("not_finite")
def test_loss_that_is_not_finite_names_the_term(runs):
    run = runs["not_finite"]
    assert run.code != 0
    assert "simpletuner-twinflow: twinflow/rcgm is nan." in run.log


@pytest.mark.host_runs("evaluated")
def test_evaluation_loss_asks_the_network_for_the_velocity(runs):
    """At r = t; a pass without target time would be one at r = 0."""
    passes = runs["evaluated"].check().of("evaluation")
    assert len(passes) >= 3
    for event in passes:
        assert event["twinflow_target_time"] == pytest.approx([time / 1000 for time in event["timesteps"]], abs=1e-6)
        assert set(event["twinflow_sign"]) == {1.0}
    assert len({event["timesteps"][0] for event in passes}) == 3


@pytest.mark.host_runs("disabled")
def test_switched_off_plugin_leaves_the_documented_config_to_fail_as_in_the_bare_host(runs):
    switched_off, bare = runs["disabled"]
    assert switched_off.code == bare.code != 0

    def complaint(run: Run) -> list[str]:
        return [line for line in run.log.splitlines() if "unrecognized arguments" in line]

    assert len(complaint(bare)) == 1
    assert "--twinflow_delta_t" in complaint(bare)[0]
    assert complaint(switched_off) == complaint(bare)


@pytest.mark.host_runs("refused")
def test_refused_run_ends_with_one_line_before_any_model_loads(runs):
    run = runs["refused"]
    assert run.code != 0
    lines = [line for line in run.log.splitlines() if "twinflow_delta_t is 2.0" in line]
    assert len(lines) == 1
    assert "0.0001 to 0.5" in lines[0]
    assert run.of("load_model") == []


@pytest.mark.host_runs("seam_missing")
def test_missing_seam_ends_a_twinflow_run_at_start_up_by_name(runs):
    from importlib.metadata import version

    on, _ = runs["seam_missing"]
    assert on.code != 0
    [line] = [line for line in on.log.splitlines() if "simpletuner-twinflow: " in line]
    for words in (version("simpletuner"), "Evaluation.execute_eval lacks the parameter prepare_batch", "<4.11,>=4.9.3"):
        assert words in line
    assert on.of("load_model") == []


@pytest.mark.host_runs("seam_missing")
def test_missing_seam_leaves_other_runs_alone_with_one_warning(runs):
    _, off = runs["seam_missing"]
    assert off.check().log.count("TwinFlow is not available with SimpleTuner") == 1
    assert (off.output / "pytorch_lora_weights.safetensors").is_file()
