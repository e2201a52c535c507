"""Draws docs/images/time_axis.svg, where each role asks the network: `python docs/generate_time_axis.py`."""

import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.sampling.schedule import SamplerSettings, trained_times

PICTURE = Path(__file__).with_name("images") / "time_axis.svg"
STEPS = (1, 2, 4)  # of the samplers that are drawn
LEFT, UNIT, WIDTH = 168, 240, 900  # pixels: of t = -1, of one unit of time, of the picture
INK, MUTED, JUMP, VELOCITY, TWIN = "#1e293b", "#526070", "#1d4ed8", "#15803d", "#c2410c"
STYLE = (
    "text { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; font-size: 13px; }"
    " .small { font-size: 11.5px; }"
)


def render() -> str:
    """The picture."""
    step_times = SamplerSettings().step_times
    jumps = sorted({*trained_times(step_times, 1, own_steps=False).jumps}, reverse=True)
    steps = trained_times(step_times, STEPS[-1], own_steps=True).steps
    drawn, y = [], 92.0
    for name, note, term, detail, lines, colour in (
        (Role.near, "r = t", "real velocity", "any t: the velocity there", [[(0.3, 0.3), (0.72, 0.72)]], VELOCITY),
        (Role.any_step, "r below t", "rcgm", "any t, any r below it", [[(0.92, 0.38)], [(0.55, 0.12)]], JUMP),
        (Role.one_step, "K = 1: r = 0", "rcgm", "times of 1, 2 and 4 steps", [[(t, 0.0)] for t in jumps], JUMP),
        (Role.sampler_step, "K = 2, 4, …", "rcgm", "one of the sampler's steps", [list(steps)], JUMP),
        (Role.twin, "sign −1, r = t", "adversarial", "velocity of own samples", [[(-0.3, -0.3), (-0.8, -0.8)]], TWIN),
        ("rectify", "of one_step rows", "rectify", "the two velocities compared", [[(-0.5, -0.5), (0.5, 0.5)]], TWIN),
    ):
        rows, y = _rows(y, lines, colour, span=_span(name), joined=name == "rectify")
        drawn += [_words(y - 18 - 5.5 * (len(lines) - 1), name, note, term, detail), *rows]
    y += 14
    drawn += [_text(16, y, "Drawing, in K steps", weight=600), _line(16, WIDTH - 16, y + 8, "#cbd5e1", 1)]
    y += 18
    for count in STEPS:
        times = (*step_times(count), 0.0)
        rows, y = _rows(y, [list(pairwise(times))], INK)
        drawn += [_words(y - 18, f"K = {count}", "", f"t = {', '.join(f'{time:.3g}' for time in times)}", ""), *rows]
    return _page(y, drawn)


def _page(y: float, drawn: Iterable[str]) -> str:
    marks = "".join(
        f'<line x1="{_x(t):g}" x2="{_x(t):g}" y1="58" y2="{y:g}" stroke="#94a3b8" '
        f'stroke-width="{2 if t == 0 else 0.6}"/>'
        f"{_text(_x(t), 52, _number(t), anchor='middle')}"
        for t in (-1, -0.5, 0, 0.5, 1)
    )
    heads = (
        _text(_x(-0.5), 20, "negative time: the twin", TWIN, "middle", 600)
        + _text(_x(0.5), 20, "the path: from noise to data", JUMP, "middle", 600)
        + "".join(
            _text(_x(t), 37, word, MUTED, "middle", small=True)
            for t, word in ((-1, "noise"), (0, "data"), (1, "noise"))
        )
        + _text(16, 52, "role")
        + _text(_x(1) + 22, 52, "term")
    )
    legend = (
        f'<circle cx="24" cy="{y + 24:g}" r="4" fill="{INK}"/>{_arrow(28, 66, y + 24, INK)}'
        + _text(74, y + 28, "asked at t for the way to r", small=True)
        + _ring(244, y + 24, INK)
        + _text(254, y + 28, "asked at t for the velocity there, r = t", small=True)
        + _line(490, 518, y + 24, "#94a3b8", 5, "0.45")
        + _text(525, y + 28, "any t of the span is sampled; the marks are examples", small=True)
    )
    bands = "".join(
        f'<rect x="{_x(at):g}" y="58" width="{UNIT}" height="{y - 58:g}" fill="{colour}"/>'
        for at, colour in ((-1, "#fff3ea"), (0, "#eef4ff"))
    )
    heads_of_arrows = "".join(
        f'<marker id="a{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        f'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0.5 8 4 0 7.5z" fill="{colour}"/></marker>'
        for colour in (INK, JUMP)
    )
    body = "\n".join((bands, marks, heads, *drawn, legend))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 44:g}" width="{WIDTH}" height="{y + 44:g}" '
        'role="img" aria-label="The time axis: where each role asks the network, and the steps of the sampler">\n'
        f"<style>{STYLE}</style>\n<defs>{heads_of_arrows}</defs>\n"
        f'<rect width="{WIDTH}" height="{y + 44:g}" rx="10" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _rows(
    y: float,
    lines: list[list[tuple[float, float]]],
    colour: str,
    *,
    span: tuple[float, float] | None = None,
    joined: bool = False,
) -> tuple[list[str], float]:
    """The marks of lines of (t, r), and where the next begins."""
    drawn = []
    for place, pairs in enumerate(lines):
        at = y + 11 * place
        if span and not joined:
            drawn.append(_line(_x(span[0]), _x(span[1]), at, "#94a3b8", 5, "0.45"))
        if joined:
            drawn.append(_line(_x(pairs[0][0]), _x(pairs[1][0]), at, colour, 1, dashes="4 3"))
        for t, r in pairs:
            drawn.append(_ring(_x(t), at, colour) if t == r else _arrow(_x(t) - 4, _x(r) + (5 if r else 1), at, colour))
            if t != r:
                drawn.append(f'<circle cx="{_x(t):g}" cy="{at:g}" r="4" fill="{colour}"/>')
    return drawn, y + 11 * (len(lines) - 1) + (42 if span or len(lines) > 1 or colour == JUMP else 30)


def _span(name: str) -> tuple[float, float] | None:
    return {Role.near: (0.0, 1.0), Role.any_step: (0.0, 1.0), Role.twin: (-1.0, 0.0), "rectify": (-1.0, 1.0)}.get(name)


def _words(y: float, name: str, note: str, term: str, detail: str) -> str:
    """Left and right of a row whose marks are around y - 24."""
    y -= 20 if note else 8
    right = _x(1) + 22
    return (
        _text(16, y, name, weight=600)
        + (_text(16, y + 16, note, MUTED, small=True) if note else "")
        + _text(right, y, term)
        + (_text(right, y + 16, detail, MUTED, small=True) if detail else "")
    )


def _x(t: float) -> float:
    return round(LEFT + UNIT * (t + 1), 1)


def _number(t: float) -> str:
    return f"{t:g}".replace("-", "−")


def _text(
    x: float, y: float, words: str, colour: str = INK, anchor: str = "", weight: int = 0, *, small: bool = False
) -> str:
    more = (f' text-anchor="{anchor}"' if anchor else "") + (f' font-weight="{weight}"' if weight else "")
    more += ' class="small"' if small else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{more}>{words}</text>'


def _line(x1: float, x2: float, y: float, colour: str, width: float, opacity: str = "1", dashes: str = "") -> str:
    more = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:g}" x2="{x2:g}" y1="{y:g}" y2="{y:g}" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-opacity="{opacity}"{more}/>'
    )


def _arrow(x1: float, x2: float, y: float, colour: str) -> str:
    return (
        f'<line x1="{x1:g}" x2="{x2:g}" y1="{y:g}" y2="{y:g}" stroke="{colour}" stroke-width="1.8" '
        f'marker-end="url(#a{colour[1:]})"/>'
    )


def _ring(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="#ffffff" stroke="{colour}" stroke-width="2.2"/>'


if __name__ == "__main__":
    PICTURE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE}\n")
