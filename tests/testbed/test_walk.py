"""The walk fails where a step does, and shows what was said."""

import pytest

from testbed import walk


def test_a_step_says_what_it_must(tmp_path):
    taken = walk.gone(walk.Step("Say", "echo one; echo two", "two", says="one"), tmp_path, 60)
    assert taken.said == "two"


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (walk.Step("Ends", "exit 3"), "exit 3"),
        (walk.Step("Ends well, but must not", "true", code=1), "exit 0"),
        (walk.Step("Says another thing", "echo one", says="two"), "'two' expected"),
        (walk.Step("Stays", "sleep 60"), "15 minutes"),
    ],
    ids=lambda value: getattr(value, "title", ""),
)
def test_a_step_that_does_not_come_to_what_it_must_fails(tmp_path, step, word):
    with pytest.raises(walk.WalkError, match=word):
        walk.gone(step, tmp_path, 1)


def test_of_progress_the_last_is_shown_and_no_path(tmp_path):
    progress = "Steps: 1%|\rEpoch 1, Steps: 50%|\nEpoch 1, Steps: 100%|\n"
    text = f"{progress}other\n\x1b[31mTwinFlow\x1b[0m in {tmp_path}/output\n    goes on\nends\n"
    assert (
        walk.shortened(text, r"Steps: +\d|TwinFlow", tmp_path)
        == "Epoch 1, Steps: 100%|\nTwinFlow in output\n    goes on"
    )


def test_progress_lines_that_are_wrapped_are_one_line_each(tmp_path):
    terms = " step_loss=0.5" * walk.WIDTH
    said = walk.shortened(f"Steps: 1%{terms}\nSteps: 2%{terms}\n", r"Steps: +\d", tmp_path)
    assert "1%" not in said
    assert said.startswith("Steps: 2%")


def test_the_steps_are_those_of_the_page():
    text = walk.ROOT.joinpath("docs/first-run.md").read_text(encoding="utf-8")
    commands = [step.command for step in walk.steps()]
    assert [command for command in commands if command in text] == [
        *commands[:5],
        commands[7],
        commands[8],
        commands[10],
    ]


def test_the_page_shows_seconds_and_an_exit_code():
    taken = walk.Taken(walk.Step("Doctor", "doctor slip.json", "x", code=1), 12.4, "1 problem")
    text = walk.render([taken], ["torch 1"], None)
    assert "| Doctor | 12 |" in text
    assert "```text\n1 problem\n```\n\nExit code 1." in text
    assert "not at its end" in text
    assert "**1 min 5 s in all**" in walk.render([taken], [], 65.9)
