"""Families of music at tiny size."""

from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.guiders import ClassifierFreeGuidance

from testbed.host_models.tiny import WORDS, Tiny, data_share, thousandths
from testbed.pipelines.ace_step import NETWORK as ACE_STEP
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


def ace_step_pipeline(model: Any, scheduler: Any) -> Any:
    """The host's, with what it would load at its call; a decoder that gives latents back. It has no use for ours."""
    from simpletuner.helpers.models.ace_step.pipeline import ACEStepPipeline

    class Decoder(torch.nn.Module):
        def decode(self, latents: torch.Tensor, sr: int) -> tuple[int, torch.Tensor]:
            return sr, latents

    pipeline = ACEStepPipeline(checkpoint_dir=".", dtype=str(model.config.weight_dtype).removeprefix("torch."))
    pipeline.to = lambda dtype: pipeline
    pipeline.ace_step_transformer, pipeline.music_dcae, pipeline.loaded = model.model, Decoder(), True
    return pipeline


def small_lyrics_encoder() -> None:
    """Make the encoder of the lyrics, whose size is fixed, a small one, and without dropout.

    Also let the host's model be made without TwinFlow, whatever the version of py3langid.
    """
    from py3langid.langid import LanguageIdentifier
    from simpletuner.helpers.models.ace_step import transformer
    from simpletuner.helpers.models.ace_step.lyrics_utils.lyric_encoder import ConformerEncoder

    if not hasattr(LanguageIdentifier, "from_pickled_model"):
        LanguageIdentifier.from_pickled_model = LanguageIdentifier.from_model_file
    transformer.LyricEncoder = partial(
        ConformerEncoder,
        output_size=16,
        attention_heads=2,
        linear_units=16,
        num_blocks=6,  # the pipeline reaches for the last two by their places
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
    )


def encodes_nothing_as_zeros(model: Any) -> None:
    """Have ACE-Step's network encode no prompt as zeros, by which the tests tell it; it would add its biases."""
    network = model.model
    encode = network.encode

    def marked(
        encoder_text_hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, mask = encode(encoder_text_hidden_states, *args, **kwargs)
        known = encoder_text_hidden_states.flatten(1).any(dim=1)
        return hidden * known.reshape(-1, 1, 1), mask

    network.encode = marked


SONGS = {
    "ace_step": Tiny(
        network=ACE_STEP | {"text_embedding_dim": 16, "lyric_hidden_size": 16, "max_width": 32},
        latents=(8, 16, 6),
        text={"prompt_embeds": (1, WORDS, 16), "attention_masks": "mask"},
        time=thousandths,
        flavour="base",
        config={"model_type": "lora"},
        empty_is_zero=("encoder_text_hidden_states", "encoder_hidden_states"),
        predicts="decode",
        shrink=small_lyrics_encoder,
        complete=encodes_nothing_as_zeros,
        pipeline=ace_step_pipeline,
        output={},
        latents_of=lambda drawn: drawn.audios[0].unsqueeze(0),
        state={"is_validation": True},  # without the host's own dropout of prompts
        call={"audio_duration": 0.5},
    ),
    "minimaxmusic": Tiny(
        network=NETWORK,
        latents=(CHANNELS, 17),
        text={"prompt_embeds": (1, WORDS, CODEBOOKS * WIDTH)},
        time=data_share,
        direction=-1,
        config={"model_type": "lora"},
        signed_time=False,
        empty_is_zero=("encoder_hidden_states",),
        pipeline=music_pipeline,
        complete=with_condition_encoder,
        output={"output_type": "pt", "output": "latent_chunks"},
    ),
}
