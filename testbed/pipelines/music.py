"""MiniMax Music 3, complete and tiny, with random weights."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from testbed.pipelines.tokenizers import music_tokenizer

CHANNELS, WIDTH, CODEBOOKS = 8, 16, 3
SAMPLING_RATE, HOP = 44_100, 512  # of the sound, and its samples a latent
VOCABULARY = 151_675 + 16_384  # the host and diffusers have the numbers of its tokens of sound written in
AUDIO_VAE = "audio_vae"  # the folder of the encoder that SimpleTuner publishes, beside the pipeline's own parts
NETWORK: dict[str, Any] = {
    "in_channels": CHANNELS,
    "condition_dim": WIDTH,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ff_inner_dim": 32,
    "rotary_dim": 8,
    "fourier_embedding_dim": 16,
}
RATES = (8, 8, 4, 2)


def minimaxmusic() -> Any:
    """Its language model writes the music's tokens, whose hidden states the flow turns into latents of sound."""
    language_model = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=4096,
        )
    )
    depth_decoder = diffusers.MiniMaxMusic3RVQDepthDecoder(
        hidden_size=WIDTH,
        num_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        audio_vocab_size=64,
        num_codebooks=CODEBOOKS,
    )
    with torch.no_grad():  # so sure of each token that the same words make the same tokens, whatever is drawn
        for head in (language_model.lm_head, *depth_decoder.audio_heads):
            head.weight *= 10_000
    pipeline = diffusers.MiniMaxMusic3Blocks().init_pipeline()
    pipeline.update_components(
        tokenizer=music_tokenizer(),
        language_model=language_model,
        rvq_depth_decoder=depth_decoder,
        condition_encoder=condition_encoder(),
        transformer=diffusers.MiniMaxMusic3Transformer1DModel(**NETWORK),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, invert_sigmas=True),
        vocoder=vocoder(),
    )
    return pipeline


def condition_encoder() -> diffusers.MiniMaxMusic3ConditionEncoder:
    """Fits the language model's hidden states to the latents."""
    return diffusers.MiniMaxMusic3ConditionEncoder(
        condition_hidden_dim=WIDTH, num_condition_layers=CODEBOOKS, out_dim=WIDTH, output_hop_length=HOP
    )


def vocoder() -> diffusers.MiniMaxMusic3Vocoder:
    """Makes sound of latents."""
    with warnings.catch_warnings():  # torch's, of the way in which diffusers normalises its weights
        warnings.simplefilter("ignore", FutureWarning)
        return diffusers.MiniMaxMusic3Vocoder(
            latent_channels=CHANNELS, decoder_input_dim=16, decoder_hidden_dim=32, upsampling_ratios=RATES
        )


def write_encoder(folder: Path) -> None:
    """Write the auto-encoder that training encodes sound with. Args: folder: of the pipeline."""
    from simpletuner.helpers.models.minimaxmusic.vocoder import MiniMaxMusic3DAV

    torch.manual_seed(0)
    MiniMaxMusic3DAV(
        latent_channels=CHANNELS,
        channel_latent_channels=CHANNELS // 2,
        encoder_dim=2,
        encoder_rates=RATES[::-1],
        encoder_latent_dim=16,
        decoder_input_dim=16,
        decoder_hidden_dim=32,
        upsampling_ratios=RATES,
    ).save_pretrained(folder / AUDIO_VAE)
