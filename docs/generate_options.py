"""Writes docs/options.md from the declarations in `simpletuner_twinflow.options`; a test holds the two together.

python docs/generate_options.py
"""

from pathlib import Path

from simpletuner_twinflow.options import PREFIX, TwinFlowOptions

PAGE = Path(__file__).with_name("options.md")
HEADING = """# Options

Every key of the plugin. Put them into an ordinary SimpleTuner config (JSON, TOML, env, command line or web UI); a
`config.env` names them in capitals, as it names SimpleTuner's own (`TWINFLOW_ENABLED=true`).
This page is generated from `simpletuner_twinflow/options.py` by `docs/generate_options.py`.

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
        info, default = TwinFlowOptions.info(name), TwinFlowOptions.default_text(name)
        mark = "" if info.documented else " *"
        allowed, help = TwinFlowOptions.allowed(name), TwinFlowOptions.help(name)
        rows.append(f"| `{PREFIX}{name}`{mark} | `{default}` | {allowed} | {help} |\n")
    return HEADING + "".join(rows) + OURS


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
