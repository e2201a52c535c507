"""A complete Stable Diffusion 3 pipeline folder of demo size, with random weights; `train_base` trains it.

The text encoders stay random: the captions only have to be told apart. Whole words are single tokens, so a caption
takes seven of CLIP's 77 tokens at most (the host always pads to 77) and five of T5's, for which `T5_TOKENS` is enough.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from testbed.shapes import KINDS

LATENT_SIZE = 8
T5_TOKENS = 8
"""Length of the T5 half of the prompt: the host's `tokenizer_max_length`, the pipeline's `max_sequence_length`."""

_WORDS = ["a", "handwritten", "digit", *KINDS]
_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WIDTH = 32
_TEXT_WIDTH = 2 * _CLIP_WIDTH


def build_pipeline(seed: int = 0, channels: int = 1) -> StableDiffusion3Pipeline:
    """Builds the pipeline in float32 from `seed`; needs no file and no network except a temporary folder.

    Args: channels: of the latents. SD3 has 16; what the pictures do not need would be noise, and most of the work.
    """
    torch.manual_seed(seed)
    return StableDiffusion3Pipeline(
        transformer=build_transformer(channels),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=build_vae(channels),
        text_encoder=build_clip(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=build_clip(),
        tokenizer_2=build_clip_tokenizer(),
        text_encoder_3=build_t5(),
        tokenizer_3=build_t5_tokenizer(),
    )


def build_transformer(channels: int) -> SD3Transformer2DModel:
    """The network to be trained: three blocks of width 128, and 4 image tokens for grey pictures, 16 for others."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=4 if channels == 1 else 2,
        in_channels=channels,
        out_channels=channels,
        num_layers=3,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=_TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=_TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE,
    )


def build_vae(channels: int) -> AutoencoderKL:
    """An auto-encoder of SD3's shape but for the channels: factor 8, no quantisation convolutions."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 16, 32, 32],
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build_clip() -> CLIPTextModelWithProjection:
    """A two-layer CLIP text encoder; its token embeddings are made large so that every word shows in the output."""
    vocabulary, _ = _clip_vocabulary()
    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=_CLIP_WIDTH,
            intermediate_size=2 * _CLIP_WIDTH,
            projection_dim=_CLIP_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            initializer_factor=2.0,
            bos_token_id=vocabulary[_CLIP_START],
            eos_token_id=vocabulary[_CLIP_END],
            pad_token_id=vocabulary[_CLIP_END],
        )
    )
    with torch.no_grad():
        encoder.get_input_embeddings().weight.normal_(0, 1)
    return encoder


def build_t5() -> T5EncoderModel:
    """A one-layer T5 encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(_t5_pieces()),
            d_model=_TEXT_WIDTH,
            d_kv=16,
            d_ff=_TEXT_WIDTH,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def build_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level tokenizer over single characters and the caption words."""
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        model_max_length=77,
        bos_token=_CLIP_START,
        eos_token=_CLIP_END,
        unk_token=_CLIP_END,
        pad_token=_CLIP_END,
    )


def build_t5_tokenizer() -> T5TokenizerFast:
    """A unigram tokenizer over single characters and the caption words."""
    tokenizer = Tokenizer(models.Unigram(_t5_pieces(), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=77,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_ids=0,
    )


def clear_paths(folder: Path) -> None:
    """Removes `_name_or_path`, a trace of the machine it was made on, from every JSON file of a pipeline folder."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(content, indent=2) + "\n")


def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The 256 bytes, alone and at the end of a word, and the merges that lead to the caption words."""
    characters = list(_byte_characters())
    tokens = characters + [character + "</w>" for character in characters]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            if merge not in merges:
                merges.append(merge)
                tokens.append("".join(merge))
            pieces[:2] = ["".join(merge)]
    tokens += [_CLIP_START, _CLIP_END]
    return {token: index for index, token in enumerate(tokens)}, merges


def _byte_characters() -> str:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(map(chr, printable)) + "".join(chr(256 + index) for index in range(len(others)))


def _t5_pieces() -> list[tuple[str, float]]:
    """Pieces of the unigram tokenizer with their log-probabilities; words win over their letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
    words = [(f"▁{word}", -1.0) for word in [*_WORDS, *map(str, range(10))]]
    return special + words + [(chr(code), -3.0) for code in range(33, 127)]
