"""Ideogram 4 at tiny size: neither its network nor its pipeline is made as diffusers' classes are."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from testbed.pipelines import ideogram


def write(folder: Path) -> None:
    """Write a random network's files in a folder, and make the host's classes tiny in this process."""
    from simpletuner.helpers.models.ideogram.transformer import Ideogram4Config, Ideogram4Transformer

    ideogram.shrink()
    network, generator = Ideogram4Transformer(Ideogram4Config()), torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    file = folder / "transformer" / ideogram.WEIGHTS
    file.parent.mkdir(parents=True)
    save_file(network.state_dict(), file)
    names = ", ".join(f'"{name}": "{ideogram.WEIGHTS}"' for name in network.state_dict())
    file.with_name(f"{ideogram.WEIGHTS}.index.json").write_text(f'{{"weight_map": {{{names}}}}}', encoding="utf-8")


def pipeline(model: Any, _scheduler: Any) -> Any:
    """The host's pipeline around a model's network, with an auto-encoder and no text encoder."""
    from simpletuner.helpers.models.ideogram.autoencoder import AutoEncoder, AutoEncoderParams
    from simpletuner.helpers.models.ideogram.pipeline import Ideogram4Pipeline, Ideogram4PipelineConfig

    return Ideogram4Pipeline(
        conditional_transformer=model.model,
        unconditional_transformer=None,
        text_encoder=None,
        text_tokenizer=None,
        autoencoder=AutoEncoder(AutoEncoderParams()).eval(),
        config=Ideogram4PipelineConfig(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
