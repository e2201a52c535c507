"""Writes docs/options.md and docs/zh/options.md from the declarations in `simpletuner_twinflow.options`.

Tests hold them together. docs/zh/options.json has the page's texts, and each help in Chinese beside the English one
that was translated: where the declaration has changed since, the page is not written.

python docs/generate_options.py
"""

import json
import sys
from pathlib import Path

from simpletuner_twinflow.options import PREFIX, TwinFlowOptions

PAGE = Path(__file__).with_name("options.md")
CHINESE, TRANSLATED = PAGE.with_name("zh") / "options.md", PAGE.with_name("zh") / "options.json"
HEADING = """# Options

[中文](zh/options.md)

Every key of the plugin. Put them into an ordinary SimpleTuner config (JSON, TOML, env, command line or web UI); a
`config.env` names them in capitals, as it names SimpleTuner's own (`TWINFLOW_ENABLED=true`).
This page is generated from `simpletuner_twinflow/options.py` by `docs/generate_options.py`.

A *row* is a sample of the batch, and has one role in a step: `near` rows learn the velocity at their time, `any_step`
rows a jump between two times, `one_step` rows a jump to the data, `sampler_step` rows a step of the sampler (from two
target steps on), and `twin` rows, of the adversarial branch, the velocity of the model's own one-step samples, on
negative time. The formulas: [method.md](method.md).

| key | default | allowed | what it does |
|---|---|---|---|
"""
OURS = """
Keys marked with * are the plugin's own; the others are the ones that SimpleTuner documents for TwinFlow. What each was
measured to be worth: [benchmarks.md](benchmarks.md).

## What is refused, what is overridden

- A wrong value, a misspelt key, or a key of SimpleTuner's or of a dataset that TwinFlow cannot honour ends the run
  before anything is loaded: all problems of the configuration at once, a line each, with the key, the value found, what
  is allowed and the way out. `simpletuner train` refuses within seconds, before it imports anything.
- Keys of the plugin without `twinflow_enabled` are refused, since the run would train without TwinFlow. With
  `"twinflow_enabled": false` all of them are idle, right or wrong.
- What TwinFlow overrides (the validation's guidance, steps and scheduler) or cannot make sense of (an `ema_decay` not
  within 0 to 1, an `ema_update_interval` above 1) is said once when the run starts.
"""


def render() -> str:
    """The page as Markdown."""
    rows = []
    for name in TwinFlowOptions.names():
        info, default = TwinFlowOptions.info(name), _default(name, "unset")
        mark = "" if info.documented else " *"
        allowed, help = TwinFlowOptions.allowed(name), TwinFlowOptions.help(name)
        rows.append(f"| `{PREFIX}{name}`{mark} | {default} | {allowed} | {help} |\n")
    return HEADING + "".join(rows) + OURS


def stale(translated: dict[str, dict]) -> list[str]:
    """Options whose help is not the one that was translated."""
    return [name for name in TwinFlowOptions.names() if translated["help"][name]["of"] != TwinFlowOptions.help(name)]


def render_chinese() -> str:
    """The Chinese page as Markdown."""
    translated = json.loads(TRANSLATED.read_text(encoding="utf-8"))
    if names := stale(translated):
        sys.exit(f"The help of {', '.join(names)} has changed: translate it anew in {TRANSLATED}.")
    rows = []
    for name in TwinFlowOptions.names():
        info, default = TwinFlowOptions.info(name), _default(name, translated["unset"])
        mark = "" if info.documented else " *"
        allowed = _allowed_in_chinese(name, translated["allowed"])
        rows.append(f"| `{PREFIX}{name}`{mark} | {default} | {allowed} | {translated['help'][name]['zh']} |\n")
    before, after = ("\n".join([*translated[part], ""]) for part in ("before", "after"))
    return before + "".join(rows) + after


def _default(name: str, unset: str) -> str:
    """The default as code, or the word for there being none."""
    text = TwinFlowOptions.default_text(name)
    return unset if text == "unset" else f"`{text}`"


def _allowed_in_chinese(name: str, translated: dict[str, str]) -> str:
    """What is allowed: made of the declaration's numbers, but for what it says in words itself."""
    text, info = TwinFlowOptions.allowed(name), TwinFlowOptions.info(name)
    if info.allowed or info.note:
        return translated[text]
    whole = text.startswith("a whole number from ")
    text = text.removeprefix("a whole number from ").replace(" or ", " 或 ").replace(" to ", " 到 ")
    return text + " 的整数" * whole


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    CHINESE.write_text(render_chinese(), encoding="utf-8")
    print(f"wrote {PAGE} and {CHINESE}")
