"""The whole path through the installed host: config file, parser, trainer process, validation, checkpoint, log."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from simpletuner_twinflow import TwinFlowOptions
from simpletuner_twinflow.host.checkpoints.saving import read_time_conditioning
from simpletuner_twinflow.host.training.wandb_chart import CHART_KEY, COLUMNS, TITLE
from tests.runs.harness import ROOT, SEED, Run

DEFAULT_TERMS = {"twinflow/rcgm", "twinflow/real_velocity"}
ALL_TERMS = DEFAULT_TERMS | {"twinflow/adversarial", "twinflow/rectify"}


def terms(values: dict) -> dict[str, float]:
    return {key: value for key, value in values.items() if key.startswith("twinflow/") and key != CHART_KEY}


def assert_every_step_logs(run: Run, names: set[str], steps: int) -> None:
    logs = run.check().step_logs()
    assert len(logs) == steps
    for values in logs:
        assert set(terms(values)) == names
        assert all(isinstance(value, float) and math.isfinite(value) for value in terms(values).values())


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.host_runs("seed_lora")
def test_documented_config_trains_with_its_default_losses(runs):
    first, _ = runs["seed_lora"]
    assert_every_step_logs(first, DEFAULT_TERMS, steps=4)


@pytest.mark.host_runs("full")
def test_full_fine_tune_trains_silently_without_a_tracker(runs):
    logs = runs["full"].check().step_logs()
    assert len(logs) == 4
    assert all(math.isfinite(values["train_loss"]) and not terms(values) for values in logs)


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_adversarial_run_logs_all_four_losses_at_every_step(name, runs):
    """With batch 1 and accumulation 4 that means: the four roles were drawn over the window."""
    assert_every_step_logs(runs[name], ALL_TERMS, steps=4)


@pytest.mark.host_runs("adversarial_lora")
def test_optimised_loss_is_the_mean_over_rows_of_twinflows_terms_alone(runs):
    """Four rows a window, one role each; rectify rides on the one-step row, and rcgm is a mean over two rows."""
    for values in runs["adversarial_lora"].step_logs():
        found = terms(values)
        total = 2 * found["twinflow/rcgm"] + found["twinflow/real_velocity"]
        total += found["twinflow/adversarial"] + found["twinflow/rectify"]
        assert values["train_loss"] == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_hosts_own_twinflow_does_not_run_beside_ours(name, runs):
    assert runs[name].check().of("host_twinflow") == []
    for values in runs[name].step_logs():
        assert not [key for key in values if key.startswith("aux_loss/") or "traj" in key.replace(CHART_KEY, "")]


@pytest.mark.host_runs("hosts_own")
def test_implementation_host_hands_the_run_back_to_the_host(runs):
    run = runs["hosts_own"].check()
    assert run.of("host_twinflow")
    for values in run.step_logs():
        assert not terms(values)
        assert "aux_loss/twinflow_rectify" in values


# --- data ---------------------------------------------------------------------------------------------------------


@pytest.mark.host_runs("slow_scan")
def test_scan_of_a_large_image_set_loses_nothing_and_lets_the_run_end(runs):
    """The plain host finds no image here, and its process waits at exit for a queue that nobody reads."""
    run = runs["slow_scan"].check()
    assert "Total number of images: 700" in run.log
    assert len(run.step_logs()) == 1


# --- failures -----------------------------------------------------------------------------------------------------


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


# --- conditioning -------------------------------------------------------------------------------------------------


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_target_time_and_time_sign_are_trained(name, runs):
    output = runs[name].check().output / "checkpoint-4"
    file = "transformer/diffusion_pytorch_model.safetensors"
    found = load_file(output / file) if name == "adversarial_full" else read_time_conditioning(output)[0]
    assert found["twinflow_target_time.linear_2.weight"].abs().max() > 0
    assert found["twinflow_negative_time.weight"].abs().max() > 0


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_network_tells_target_times_and_signs_apart_once_it_has_been_trained(name, runs):
    """Both start from zero, as the pre-trained network, which knows neither."""
    first, *_, last = (step["apart"] for step in runs[name].check().of("step"))
    assert first == {"sign": 0.0, "target_time": 0.0, "repeated": 0.0}
    assert last["sign"] > 1e-5
    assert last["target_time"] > 1e-5
    assert last["repeated"] == 0.0


# --- one step, asked again ----------------------------------------------------------------------------------------


@pytest.fixture
def steps(runs) -> list[dict]:
    """What the probe saw of each training step: four micro-batches a window, one row each."""
    found = runs["adversarial_lora"].check().of("step")
    assert len(found) == 4 * 4
    return found


@pytest.mark.host_runs("adversarial_lora")
@pytest.mark.parametrize(
    "law", ["stream_moved", "stream_is_the_students", "loss_is_repeatable", "weights_are_back", "batch_is_untouched"]
)
def test_step_leaves_the_random_stream_the_weights_and_the_batch_as_the_students_pass_alone_would(law, steps):
    """`stream_moved` because the adapter has dropout: a stream that stands still would prove nothing."""
    assert all(step[law] for step in steps)


@pytest.mark.host_runs("adversarial_lora")
def test_loss_is_float32(steps):
    assert {step["loss_dtype"] for step in steps} == {"torch.float32"}


@pytest.mark.host_runs("adversarial_lora")
def test_each_window_deals_each_role_once(steps):
    for window in range(0, 16, 4):
        roles = sorted(role for step in steps[window : window + 4] for role in step["roles"])
        assert roles == ["any_step", "near", "one_step", "twin"]


@pytest.mark.host_runs("adversarial_lora")
def test_one_graded_pass_a_row_and_as_many_others_as_its_role_needs(steps):
    """Guidance takes two, a rollout of order 2 two, rectify's two fields two rows of one pass."""
    rows_without_gradient = {"one_step": 2 + 2 + 2, "any_step": 2 + 2, "near": 2, "twin": 0}
    for step in steps:
        [role] = step["roles"]
        assert sum(call["rows"] for call in step["calls"] if call["with_grad"]) == 1
        assert sum(call["rows"] for call in step["calls"] if not call["with_grad"]) == rows_without_gradient[role]


@pytest.mark.host_runs("adversarial_lora")
def test_guidance_asks_the_teacher_with_the_prompt_and_with_the_empty_prompt(steps):
    for step in steps:
        if step["roles"] == ["near"]:
            student, prompted, unprompted = step["calls"]
            assert prompted["prompt"] == student["prompt"] != unprompted["prompt"]
            assert prompted["pooled"] == student["pooled"] != unprompted["pooled"]
            assert prompted["timesteps"] == unprompted["timesteps"] == student["timesteps"]


@pytest.mark.host_runs("adversarial_lora")
def test_all_passes_of_the_loss_draw_the_same_dropout(steps):
    for step in steps:
        assert len({call["stream"] for call in step["calls"]}) == 1


@pytest.mark.host_runs("adversarial_lora")
def test_loss_changes_with_guidance_on_all_but_twin_rows(steps):
    for step in steps:
        assert (step["loss"] == step["loss_without_guidance"]) == (step["roles"] == ["twin"])


@pytest.mark.host_runs("adversarial_lora")
def test_teacher_passes_run_on_ema_weights_and_rectifys_fields_on_the_students(steps):
    # In the first two windows EMA and student are the same weights still: the host starts with a decay of 0.
    for step in steps[8:]:
        [role], (student, *others) = step["roles"], step["calls"]
        fields = others[-1:] if role == "one_step" else []  # both in one pass
        teacher = others[: len(others) - len(fields)]
        assert all(call["weights"] == student["weights"] for call in fields)
        assert all(call["weights"] != student["weights"] for call in teacher)
        assert len({call["weights"] for call in teacher}) <= 1


@pytest.mark.host_runs("adversarial_lora")
def test_network_is_asked_with_the_times_of_the_rows_role(steps):
    sampler_times = {0.999, 0.6}  # of two steps
    for step in steps:
        [role], student = step["roles"], step["calls"][0]
        t, r, sign = student["timesteps"][0] / 1000, student["target_time"][0], student["sign"][0]
        assert sign == (-1 if role == "twin" else 1)
        if role == "one_step":
            assert r == 0
            assert any(t == pytest.approx(time, abs=1e-4) for time in sampler_times)
        elif role == "any_step":
            assert 0 <= r <= t
        else:
            assert r == pytest.approx(t, abs=1e-5)


# --- validation ---------------------------------------------------------------------------------------------------


@pytest.mark.host_runs("seed_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["seed_lora", "adversarial_full"])
def test_validation_calls_our_scheduler_target_step_count_times_at_guidance_zero(name, runs):
    found = runs[name]
    run = (found[0] if isinstance(found, tuple) else found).check()
    pipelines, steps = run.of("pipeline"), run.of("scheduler")
    assert len(pipelines) == 2 * 2  # at steps 2 and 4, with the student's weights and with EMA's
    assert {(call["steps"], call["guidance"]) for call in pipelines} == {(SEED["twinflow_target_step_count"], 0.0)}
    assert len(steps) == len(pipelines) * SEED["twinflow_target_step_count"]
    assert {step["class"] for step in steps} == {"simpletuner_twinflow.sampling.flow_scheduler.TwinFlowScheduler"}
    assert list(run.output.glob("validation_images/step_2_*.png"))


@pytest.mark.host_runs("adversarial_lora")
def test_base_model_benchmark_keeps_the_ordinary_sampler(runs):
    events = runs["adversarial_lora"].check().events
    begin = next(i for i, event in enumerate(events) if event == {"kind": "validation", "type": "base_model"})
    end = next(i for i, event in enumerate(events) if event["kind"] == "validation" and i > begin)
    benchmark = events[begin + 1 : end]
    calls = [event for event in benchmark if event["kind"] == "pipeline"]
    assert {(call["steps"], call["guidance"]) for call in calls} == {(5, 3.0)}  # the config's own settings
    assert {event["class"] for event in benchmark if event["kind"] == "scheduler"} == {
        "diffusers.schedulers.scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler"
    }


def test_documented_import_path_gives_our_scheduler():
    from simpletuner.helpers.training.custom_schedule import TwinFlowScheduler

    from simpletuner_twinflow import TwinFlowScheduler as ours

    assert TwinFlowScheduler is ours


def test_documented_export_snippet_draws_an_image():
    from simpletuner.helpers.training.custom_schedule import TwinFlowScheduler

    pipe = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")
    pipe.scheduler = TwinFlowScheduler(num_train_timesteps=1000, prediction_type="flow_matching", shift=1.0)
    pipe.scheduler.set_timesteps(num_inference_steps=2, device=pipe.device)
    size = {"height": 64, "width": 64}  # a tiny pipeline's; the snippet leaves it to the model
    result = pipe(prompt="A cinematic portrait, 35mm", guidance_scale=0.0, num_inference_steps=2, **size).images
    assert result[0].size == (64, 64)


# --- checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.host_runs("seed_lora")
def test_run_resumes_from_its_checkpoint_and_goes_on(runs):
    first, resumed = runs["seed_lora"]
    assert (first.check().output / "checkpoint-4").is_dir()
    assert_every_step_logs(resumed, DEFAULT_TERMS, steps=2)
    assert [event["step"] for event in resumed.of("log") if "train_loss" in event["values"]] == [5, 6]
    assert (resumed.output / "checkpoint-6").is_dir()


@pytest.mark.host_runs("seed_lora")
def test_resumed_run_starts_from_the_trained_conditioning(runs):
    first, resumed = runs["seed_lora"]
    name = "twinflow_target_time.linear_1.weight"  # random at the start of a run that does not resume
    before = read_time_conditioning(first.output / "checkpoint-4")[0][name]
    after = read_time_conditioning(resumed.output / "checkpoint-6")[0][name]
    assert (after - before).abs().max() < 0.01


@pytest.mark.host_runs("adversarial_lora")
@pytest.mark.parametrize("file", [".", "checkpoint-4", "checkpoint-4/ema"])
def test_adapter_files_load_in_a_stock_pipeline_and_change_its_pictures(file, runs):
    folder = runs["adversarial_lora"].check().output / file
    assert all("lora" in key for key in load_file(folder / "pytorch_lora_weights.safetensors"))
    pipe = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")

    def draw() -> torch.Tensor:
        how = {"height": 64, "width": 64, "guidance_scale": 0.0, "num_inference_steps": 2, "output_type": "pt"}
        return pipe("a handwritten digit 3", generator=torch.Generator().manual_seed(0), **how).images

    before = draw()
    pipe.load_lora_weights(folder)
    assert not torch.equal(draw(), before)


# --- logging ------------------------------------------------------------------------------------------------------


def wandb_records(run: Run) -> list[dict]:
    """The records of the run's offline W&B file, by wandb's own reader."""
    [folder] = run.folder.glob("wandb/offline-run-*")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", folder]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.host_runs("adversarial_lora")
def test_wandb_file_holds_every_term_at_every_step(runs):
    items = [
        record["history"]["item"]
        for record in wandb_records(runs["adversarial_lora"].check())
        if record["type"] == "history"
    ]
    for step in range(1, 5):
        merged = {key: value for item in items if item["_step"] == step for key, value in item.items()}
        assert merged.keys() >= ALL_TERMS
        assert all(math.isfinite(merged[name]) for name in ALL_TERMS)


@pytest.mark.host_runs("adversarial_lora")
def test_wandb_file_holds_the_trajectory_chart(runs):
    run = runs["adversarial_lora"].check()
    text = json.dumps(wandb_records(run))
    assert TITLE in text
    assert "experimental/theory unverified" in TITLE
    [table] = run.folder.glob("wandb/offline-run-*/files/media/table/twinflow/trajectory_table*.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["columns"] == list(COLUMNS)
    assert len(content["data"]) == 4  # the rows of the first step's window: batch 1, accumulation 4
    assert {row[COLUMNS.index("role")] for row in content["data"]} == {"one_step", "near", "any_step", "twin"}
    for _, role, sigma, target_time, sign in content["data"]:
        assert 0 <= target_time <= sigma <= 1
        assert sign == (-1 if role == "twin" else 1)


@pytest.mark.host_runs("adversarial_lora")
def test_recorded_configs_show_the_keys_as_the_user_set_them(runs):
    run = runs["adversarial_lora"].check()
    recorded = {}
    for record in wandb_records(run):
        if record["type"] == "config":
            recorded |= record["config"].get("update", record["config"])
    published = json.loads((run.output / "simpletuner_config.json").read_text(encoding="utf-8"))
    wanted = {key: value for key, value in SEED.items() if key.startswith("twinflow_")}
    wanted |= {"twinflow_adversarial_enabled": True, "twinflow_implementation": "paper"}
    for found in (recorded, published):
        assert {key: found.get(key) for key in wanted} == wanted
        assert found.keys() >= set(TwinFlowOptions.keys())


# --- off ----------------------------------------------------------------------------------------------------------


@pytest.mark.host_runs("off_with_plugin", "off_without_plugin")
def test_run_without_the_flag_is_bit_identical_to_one_without_the_plugin(runs):
    with_plugin, without = runs["off_with_plugin"].check(), runs["off_without_plugin"].check()
    for name in ("train_loss", "optimization_loss", "learning_rate", "grad_absmax"):
        values = [[step[name] for step in run.step_logs()] for run in (with_plugin, without)]
        assert len(values[0]) == 20
        assert values[0] == values[1], name
    timing = ("step", "iteration", "second", "time", "_per_")
    keys = [
        {key for key in run.step_logs()[0] if not any(word in key for word in timing)} for run in (with_plugin, without)
    ]
    assert keys[0] == keys[1]


@pytest.mark.host_runs("off_with_plugin", "off_without_plugin")
@pytest.mark.parametrize("file", ["checkpoint-20/pytorch_lora_weights.safetensors", "pytorch_lora_weights.safetensors"])
def test_weights_without_the_flag_have_the_same_keys_and_bits(file, runs):
    one, other = (load_file(runs[name].check().output / file) for name in ("off_with_plugin", "off_without_plugin"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.host_runs("off_with_plugin", "off_without_plugin")
def test_random_number_streams_without_the_flag_end_in_the_same_state(runs):
    states = [
        torch.load(runs[name].check().output / "checkpoint-20/random_states_0.pkl", weights_only=False)
        for name in ("off_with_plugin", "off_without_plugin")
    ]
    assert torch.equal(states[0]["torch_manual_seed"], states[1]["torch_manual_seed"])
    assert repr(states[0]["random_state"]) == repr(states[1]["random_state"])
    assert repr(states[0]["numpy_random_seed"]) == repr(states[1]["numpy_random_seed"])


# --- refusals -----------------------------------------------------------------------------------------------------


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
    for words in (version("simpletuner"), "Evaluation.execute_eval lacks the parameter prepare_batch", "<4.11,>=4.10"):
        assert words in line
    assert on.of("load_model") == []


@pytest.mark.host_runs("seam_missing")
def test_missing_seam_leaves_other_runs_alone_with_one_warning(runs):
    _, off = runs["seam_missing"]
    assert off.check().log.count("TwinFlow is not available with SimpleTuner") == 1
    assert (off.output / "pytorch_lora_weights.safetensors").is_file()
