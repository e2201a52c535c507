"""Writes the tables of docs/scaling.md between its marks: `python docs/generate_scaling.py [FILE]`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from simpletuner_twinflow.host.settings.memory import Training, parts, peak, size
from simpletuner_twinflow.host.settings.network import Network, described
from testbed.activations import ARCHITECTURES

PAGE = Path(__file__).with_name("scaling.md")
BEGIN, END = "<!-- made by docs/generate_scaling.py -->\n", "<!-- end -->\n"
CARD = 80e9  # bytes of an accelerator's memory
OWN = 0.9  # of it, at most, for what is foretold: VAE, text encoders, buffers and fragments take the rest
CARDS = (8, 64)
MODELS = {  # by name of the architecture: family and tokens of one sample with its prompt
    "SANA-1.6B": ("sana", 1024),
    "SD3.5-medium": ("sd3", 4096 + 154),
    "SDXL": ("sdxl", 128 * 128),
    "SD3.5-large": ("sd3", 4096 + 154),
    "FLUX.1": ("flux", 4096 + 512),
    "Wan 14B": ("wan", 21 * 30 * 52),
    "Qwen-Image": ("qwen_image", 4096),
}
COLUMNS = (
    "weights",
    "gradients",
    "optimizer",
    "EMA",
    "the base's first weights",
    "teacher's weights",
    "activations",
)


def table() -> str:
    """The tables."""
    titles = [
        "model",
        "trained",
        *COLUMNS,
        "in all, one card",
        *(f"a card of {cards}, FSDP 2" for cards in CARDS),
        "engine",
    ]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name in MODELS:
        network = _network(name)
        lines += [f"| {' | '.join(row)} |" for row in _rows(name, network)]
    return "\n".join(lines) + "\n"


def _rows(name: str, network: Network) -> Iterator[list[str]]:
    family, tokens = MODELS[name]
    for full in (False, True):
        alone = Training(full=full, optimizer=6, base_copy=2 if full else 0, tokens=tokens)
        found = parts(family, network, alone)
        totals = [peak(found, accumulates=False)]
        for cards in CARDS if network.blocks > 1 else ():  # which modules of a U-Net FSDP gathers was not tried
            shared = Training(full=full, optimizer=6, base_copy=2 if full else 0, tokens=tokens, shards=cards)
            totals.append(peak(parts(family, network, shared), accumulates=False))
        untried = ["not tried"] * (1 + len(CARDS) - len(totals))
        trained = f"all {network.parameters / 1e9:.3g} billion" if full else "LoRA of rank 16"
        yield [
            name,
            trained,
            *(size(found.get(part, 0)) for part in COLUMNS),
            *map(size, totals),
            *untried,
            _engine(totals),
        ]


def _engine(totals: list[float]) -> str:
    """Which engine fits, the simplest first."""
    fits = [total <= OWN * CARD for total in totals]
    if fits[0]:
        return "one card; more by DDP"
    cards = next((cards for cards, good in zip(CARDS, fits[1:], strict=False) if good), None)
    return "none of these" if cards is None else f"FSDP 2 from {cards} cards"


def _network(name: str) -> Network:
    with torch.device("meta"):
        network = ARCHITECTURES[name].build()
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    return described(shapes, dict(network.config))


def page(text: str) -> str:
    """The page with its tables made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
