"""Runs with a mask for each picture, and with a regularisation set beside the pictures."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from testbed.digits import write_digits
from testbed.trainer import datasets, without_twinflow
from tests.runs.harness import SEED, TINY, Host, Runs
from tests.runs.observer.probes.held import note_held_batches, note_routes
from tests.runs.run import Run

ROWS = {"train_batch_size": 4, "gradient_accumulation_steps": 2, "validation_disable": True, "max_train_steps": 2}
EVERYTHING = SEED | TINY | ROWS | {"twinflow_adversarial_enabled": True}
ROBUST = {"twinflow_loss": "barron"}


class Masked(NamedTuple):
    """The same run under masks of one colour each; the last two with the robust loss."""

    plain_black: Run
    black: Run
    white: Run
    without: Run


def masked(host: Host, runs: Runs) -> Masked:
    """Each picture has a mask of its name."""
    [pictures, _] = datasets(host.images)

    def train(name: str, config: dict, colour: str | None) -> Run:
        folder = host.folder / f"masks_{colour}"
        masks = {
            "id": "masks",
            "type": "local",
            "dataset_type": "conditioning",
            "conditioning_type": "mask",
            "instance_data_dir": str(folder),
            "cache_dir_vae": "cache/vae-masks",
        }
        if colour is None:
            return host.train(f"masked_{name}", config, images=[pictures])
        _write_masks(host.images, folder, colour)
        masks |= {key: pictures[key] for key in pictures if key not in masks and key != "caption_strategy"}
        return host.train(f"masked_{name}", config, images=[pictures | {"conditioning_data": "masks"}, masks])

    return Masked(
        plain_black=train("plain", without_twinflow(EVERYTHING), "black"),
        black=train("black", EVERYTHING, "black"),
        white=train("white", EVERYTHING | ROBUST, "white"),
        without=train("without", EVERYTHING | ROBUST, None),
    )


def _write_masks(pictures: Path, folder: Path, colour: str) -> None:
    folder.mkdir(exist_ok=True)
    for path in pictures.glob("*.png"):
        with Image.open(path) as picture:
            Image.new("RGB", picture.size, colour).save(folder / path.name)


def regularised(host: Host, runs: Runs) -> dict[str, Run]:
    """A second set of pictures is for regularisation; a LoRA and a full fine-tune, guidance on."""
    [pictures, _] = datasets(host.images)
    kept = host.folder / "kept_digits"
    write_digits(kept, limit=32)
    more = {"id": "kept", "instance_data_dir": str(kept), "cache_dir_vae": "cache/vae-kept"}
    sets = [pictures, pictures | more | {"is_regularisation_data": True}]
    config = EVERYTHING | {"gradient_accumulation_steps": 4}
    full = {"model_type": "full"}
    return {
        "lora": host.train("regularised_lora", config, images=sets, probe=note_held_batches),
        "full": host.train("regularised_full", config | full, images=sets, probe=note_held_batches),
    }


def tread(host: Host, runs: Runs) -> Run:
    """Half of the tokens are left out of the middle one of three layers, by SimpleTuner's key."""
    routes = {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": 1}]}
    return host.train("tread", EVERYTHING | {"tread_config": routes}, probe=note_routes)


DATA_RECIPES = {"masked": masked, "regularised": regularised, "tread": tread}
