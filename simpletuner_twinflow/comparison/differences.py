"""The keys in which the configurations of runs differ."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from simpletuner_twinflow.comparison.run import Run

NOT_SET, NOT_USED, HIDDEN = "not set", "not used", "(not shown)"
BOOKKEEPING = {"accelerator_project_config", "total_steps_remaining_at_start"}  # the host's, not the user's
SECRET_KEY = re.compile(r"token(?!izer)|secret|passw|credential|webhook|api_?key|access_?key|auth|cookie", re.I)
COUNTS_TOKENS = re.compile(r"(max|min|num|n)_\w*tokens?|tokens?_(count|length|dropout)", re.I)
SECRET_VALUE = re.compile(r"\b(hf|sk|ghp|github_pat|xox[abp])[_-]\w{16,}|://[^/\s:@]+:[^/\s@]+@|\bAKIA\w{12,}")
LONGEST = 200  # characters of a value that are shown


class Difference(NamedTuple):
    """A key, and a text for each run."""

    key: str
    values: list[str]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """The keys that are not the same in all runs that recorded any, TwinFlow's first.

    A key that one run lacks counts only if what wrote the configurations is the same, and so would have written it:
    else only runs that have the key are held against each other. Secrets are hidden: they are said to differ at most.
    """
    recorded = [run for run in runs if run.config]
    same_kind = len({run.config_kind for run in recorded}) == 1
    found = []
    for key in sorted({key for run in recorded for key in run.config} - BOOKKEEPING, key=_order):
        have = [run.config[key] for run in recorded if key in run.config]
        spelt = {_spelt(value, same_kind) for value in have}
        lacking = same_kind and len(have) < len(recorded) and spelt != {_spelt(None)}
        if len(spelt) > 1 or lacking:
            found.append(Difference(key, [_cell(run, key) for run in runs]))
    return found


def shown(key: str, value: Any) -> str:
    """A value as text that gives no secret away, at most LONGEST characters long."""
    if _is_secret(key):
        return HIDDEN if value not in (None, "", False) else str(value)
    text = value if isinstance(value, str) else json.dumps(_clean(value), ensure_ascii=False, default=str)
    if SECRET_VALUE.search(text):
        return HIDDEN
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _cell(run: Run, key: str) -> str:
    if not run.config:
        return "no configuration"
    if run.mode == "plain" and key.startswith("twinflow") and key != "twinflow_enabled":
        return NOT_USED  # the defaults are recorded all the same
    return shown(key, run.config[key]) if key in run.config else NOT_SET


def _is_secret(key: str) -> bool:
    return bool(SECRET_KEY.search(key)) and not COUNTS_TOKENS.search(key)


def _clean(value: Any) -> Any:
    """The same without what secret keys in it hold."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(str(key)) else _clean(one) for key, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value


def _spelt(value: Any, same_kind: bool = True) -> str:
    """The same for the same value, however it is spelt: 3e-4 as a number or as text, and an enum in either case."""
    try:
        return repr(value) if isinstance(value, bool) else repr(float(value))
    except (TypeError, ValueError):
        text = json.dumps(value, sort_keys=True, default=str)
        return text if same_kind else text.casefold()


def _order(key: str) -> tuple[bool, str]:
    return not key.startswith("twinflow"), key
