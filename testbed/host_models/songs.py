"""Families of music at tiny size."""

from typing import Any

import diffusers
import torch
from diffusers.guiders import ClassifierFreeGuidance

from testbed.host_models.tiny import WORDS, Tiny, data_share
from testbed.pipelines.music import CHANNELS, CODEBOOKS, NETWORK, WIDTH, condition_encoder, vocoder


def music_pipeline(model: Any, scheduler: Any) -> diffusers.ModularPipeline:
    """The host's, of what it needs for hidden states in the place of words; its guider as the host makes it."""
    from simpletuner.helpers.models.minimaxmusic.modular_blocks import MiniMaxMusic3Blocks
    from simpletuner.helpers.models.minimaxmusic.modular_pipeline import MiniMaxMusic3ModularPipeline

    pipeline = MiniMaxMusic3ModularPipeline(MiniMaxMusic3Blocks())
    pipeline.update_components(
        condition_encoder=model.condition_encoder,
        transformer=model.model,
        scheduler=scheduler,
        guider=ClassifierFreeGuidance(guidance_scale=1.7),
        vocoder=vocoder(),
    )
    return pipeline


def with_condition_encoder(model: Any) -> None:
    """Give MiniMax Music's model the part that fits the prompt's hidden states to the sound."""
    torch.manual_seed(3)
    model.condition_encoder = condition_encoder().to(model.config.weight_dtype).eval().requires_grad_(False)


SONGS = {
    "minimaxmusic": Tiny(
        network=NETWORK,
        latents=(CHANNELS, 17),
        text={"prompt_embeds": (1, WORDS, CODEBOOKS * WIDTH)},
        time=data_share,
        direction=-1,
        signed_time=False,
        empty_is_zero="encoder_hidden_states",
        pipeline=music_pipeline,
        complete=with_condition_encoder,
        output={"output_type": "pt", "output": "latent_chunks"},
    ),
}
