"""The numbers of tensors that are kept, against what autograd saves in networks of published shapes."""

import pytest
import torch

from simpletuner_twinflow.host.settings.activations import KEPT, kept_of
from testbed.activations import ARCHITECTURES, KINDS, widths_kept

NAMES = {
    "SD3.5-medium": "sd3 dual",
    "SD3.5-large": "sd3",
    "FLUX.1": "flux",
    "Qwen-Image": "qwen_image",
    "SANA-1.6B": "sana",
    "Wan 14B": "wan",
    "PixArt": "pixart",
    "SDXL": "sdxl",
}


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize(("place", "dtype"), [(0, torch.bfloat16), (1, torch.float32)])
def test_counted(name, place, dtype):
    said = KEPT[NAMES[name]]
    for kind, numbers in zip(KINDS, (said.full, said.lora), strict=True):
        assert widths_kept(ARCHITECTURES[name], kind, dtype) == pytest.approx(numbers[place], abs=0.06), kind


def test_each_is_counted():
    assert {*NAMES.values()} == KEPT.keys()
    assert {(name, kept.side) for name, kept in KEPT.items() if kept.side != 8} == {("flux", 16), ("sana", 32)}


def test_a_second_attention_is_told_of_sd3_alone():
    assert kept_of("sd3", dual=True) == KEPT["sd3 dual"]
    assert kept_of("sd3") == KEPT["sd3"]
    assert kept_of("flux", dual=True) == KEPT["flux"]
    assert kept_of("unknown") is None
