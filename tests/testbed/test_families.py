"""The passage of a family through the trainer fails where it must."""

import gzip
import io
import json

import pytest
import torch

from testbed.families import STAGES, TERMS, Passage, StageError, prompt
from testbed.families import _check_losses as check_losses
from testbed.pipelines import BUILDERS
from testbed.recipes import FAMILIES, IN_CI


def log(folder, **values):
    lines = [{"step": step, "metrics": dict.fromkeys(TERMS, 0.5) | {"train_loss": 1.0} | values} for step in (1, 2)]
    (folder / "training_metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def test_losses_must_be_finite_and_of_every_step(tmp_path):
    log(tmp_path)
    check_losses(tmp_path, steps=2)
    with pytest.raises(StageError, match="not of 1 to 3"):
        check_losses(tmp_path, steps=3)
    log(tmp_path, **{"twinflow/rcgm": float("nan")})
    with pytest.raises(StageError, match="twinflow/rcgm is nan"):
        check_losses(tmp_path, steps=2)


@pytest.mark.parametrize(("rows", "error"), [(6, 0.0), (4, 0.0), (5, 0.0), (6, 0.1)])
def test_prompt_of_the_card_must_be_that_of_training_with_or_without_its_padding(rows, error, tmp_path):
    passage = Passage("sana", tmp_path, server=None)
    folder = passage.folder("twinflow")
    (folder / "cache/text").mkdir(parents=True)
    embeds, mask = torch.randn(1, 6, 3), torch.tensor([[1, 1, 1, 1, 0, 0]])
    cached = io.BytesIO()
    torch.save({"prompt_embeds": embeds, "attention_mask": mask}, cached)
    (folder / "cache/text/one.pt").write_bytes(gzip.compress(cached.getvalue()))
    torch.save([embeds[:, :rows] + error], folder / "condition.pt")
    if rows != 5 and not error:
        prompt(passage)
    else:
        with pytest.raises(StageError, match="trained with"):
            prompt(passage)


def test_stage_that_needs_a_failed_one_is_not_reached(tmp_path, monkeypatch):
    passage = Passage("sd3", tmp_path, server=None)

    def fail(passage):
        raise StageError("why")

    monkeypatch.setitem(STAGES, "TwinFlow", fail)
    assert passage.go("TwinFlow") == "FAILED: why"
    assert passage.go("resume") == "not reached"
    assert passage.failed


def test_every_recipe_has_a_pipeline():
    assert FAMILIES.keys() == BUILDERS.keys()
    assert FAMILIES.keys() >= set(IN_CI)
