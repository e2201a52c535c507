"""The weights of a mask image: the host's own loss with them, and what they are for."""

import pytest
import torch

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.training.loss_mask import loss_mask
from simpletuner_twinflow.method.losses import squared_error
from testbed.host_models.flow import host_batch, host_model


def generator():
    return torch.Generator().manual_seed(0)


def pictures(kind, pixels, latents=(3, 2, 4, 4)):
    return {"loss_mask_type": kind, "conditioning_pixel_values": pixels, "latents": torch.zeros(latents)}


def test_without_a_mask_all_counts_alike():
    assert loss_mask({"latents": torch.zeros(1, 2, 4, 4), "loss_mask_type": None}, 1.0, generator()) is None


def test_white_counts_once_black_not_at_all_and_grey_by_half():
    pixels = torch.stack([torch.full((3, 8, 8), value) for value in (1.0, -1.0, 0.0)])
    weights = loss_mask(pictures("mask", pixels), 1.0, generator())
    assert weights.shape == (3, 1, 4, 4)
    assert [float(part.mean()) for part in weights] == [1.0, 0.0, 0.5]


def test_a_segmentation_takes_all_that_is_not_black():
    pixels = torch.full((3, 3, 8, 8), -1.0)
    pixels[0, 1, :, :4] = -0.5
    weights = loss_mask(pictures("segmentation", pixels), 1.0, generator())
    assert weights[0].mean() == 0.5
    assert not weights[1:].any()


def test_a_segmentation_is_applied_to_its_share_of_batches_and_the_same_batch_is_answered_alike():
    pixels = torch.zeros(3, 3, 8, 8)
    taken = [
        loss_mask(pictures("segmentation", pixels), 0.3, torch.Generator().manual_seed(seed)) is not None
        for seed in range(300)
    ]
    assert 60 < sum(taken) < 120
    again = [
        loss_mask(pictures("segmentation", pixels), 0.3, torch.Generator().manual_seed(seed)) is not None
        for seed in range(300)
    ]
    assert taken == again
    assert loss_mask(pictures("mask", pixels), 0.0, generator()) is not None


def test_latents_of_a_film_are_refused():
    with pytest.raises(TwinFlowError, match=r"\(3, 2, 5, 4, 4\).*Remove the mask dataset"):
        loss_mask(pictures("mask", torch.zeros(3, 3, 8, 8), (3, 2, 5, 4, 4)), 1.0, generator())


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
def test_it_is_the_hosts_own_loss(kind, folder, in_folder):
    model = host_model("sd3", folder)
    batch = host_batch(model)
    pixels = torch.randn(4, 3, 64, 64).clamp(-1, 1)
    pixels[..., :32] = -1.0
    batch |= {"loss_mask_type": kind, "conditioning_pixel_values": pixels}
    prediction = torch.randn_like(batch["latents"])
    theirs = model.loss(batch, {"model_prediction": prediction})
    weights = loss_mask(batch, 1.0, generator())
    assert 0 < float(weights.mean()) < 1
    ours = squared_error(prediction, batch["noise"] - batch["latents"], weights).mean()
    torch.testing.assert_close(ours, theirs)
    assert not torch.isclose(ours, squared_error(prediction, batch["noise"] - batch["latents"]).mean())
