"""Text encoders of the families' classes, one or few layers of width `WIDTH`, with random weights."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from testbed.pipelines.tokenizers import GEMMA_TOKENS, LLAMA_TOKENS, QWEN_IDS, QWEN_VOCABULARY, characters
from testbed.tiny_sd3 import build_clip

WIDTH = 32
_END = QWEN_IDS["<|endoftext|>"]
_DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
_QWEN = _DECODER | {
    "vocab_size": QWEN_VOCABULARY,
    "bos_token_id": _END,
    "eos_token_id": _END,
    "pad_token_id": _END,
}
_VISION = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": WIDTH}
_IMAGES = {
    "image_token_id": QWEN_IDS["<|image_pad|>"],
    "video_token_id": QWEN_IDS["<|video_pad|>"],
    "vision_start_token_id": QWEN_IDS["<|vision_start|>"],
    "vision_end_token_id": QWEN_IDS["<|vision_end|>"],
}


def apart[Encoder: PreTrainedModel](encoder: Encoder) -> Encoder:
    """With embeddings so far apart that prompts are too: they are 0.02 in size at the start."""
    with torch.no_grad():
        encoder.get_input_embeddings().weight.normal_()
    return encoder


def clip() -> transformers.CLIPTextModel:
    """CLIP without a projection."""
    return transformers.CLIPTextModel(build_clip().config)


def t5(tokenizer: PreTrainedTokenizerBase, kind: str = "T5") -> PreTrainedModel:
    """T5's encoder. Args: tokenizer: gives the number of words. kind: "T5" or "UMT5"."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=16,
        d_ff=WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return apart(getattr(transformers, f"{kind}EncoderModel")(config))


def gemma2() -> transformers.Gemma2Model:
    """Gemma 2."""
    return apart(
        transformers.Gemma2Model(
            transformers.Gemma2Config(
                **_DECODER | {"max_position_embeddings": 1024},
                vocab_size=len(characters(*GEMMA_TOKENS)),
                num_hidden_layers=2,
                sliding_window=512,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=2,
            )
        )
    )


def t5gemma() -> transformers.T5GemmaModel:
    """T5Gemma, of which the encoder is used."""
    half = _DECODER | {
        "vocab_size": len(characters(*GEMMA_TOKENS)),
        "num_hidden_layers": 2,
        "sliding_window": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return apart(transformers.T5GemmaModel(transformers.T5GemmaConfig(encoder=half, decoder=half)))


def gemma3(layers: int) -> transformers.Gemma3ForConditionalGeneration:
    """Gemma 3 with eyes. Args: layers: of the text part."""
    text = _DECODER | {"vocab_size": len(characters(*GEMMA_TOKENS)), "num_hidden_layers": layers, "sliding_window": 512}
    vision = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = transformers.Gemma3Config(
        text_config=text | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
        vision_config=vision | {"image_size": 28, "patch_size": 14},
    )
    return apart(transformers.Gemma3ForConditionalGeneration(config))


def llama() -> transformers.LlamaForCausalLM:
    """Llama."""
    config = transformers.LlamaConfig(
        **_DECODER, vocab_size=len(characters(*LLAMA_TOKENS)), num_hidden_layers=2, pad_token_id=3
    )
    return apart(transformers.LlamaForCausalLM(config))


def qwen3(layers: int = 3) -> transformers.Qwen3ForCausalLM:
    """Qwen 3. Args: layers: at least as many as the pipeline looks back from the last."""
    config = transformers.Qwen3Config(**_QWEN, num_hidden_layers=layers, tie_word_embeddings=True)
    return apart(transformers.Qwen3ForCausalLM(config))


def qwen25_vl() -> transformers.Qwen2_5_VLForConditionalGeneration:
    """Qwen 2.5 with eyes."""
    text = _QWEN | {"num_hidden_layers": 2, "rope_parameters": _rope(mrope_section=[2, 3, 3])}
    text.pop("head_dim")
    vision = _VISION | {"fullatt_block_indexes": [0], "window_size": 56, "patch_size": 14}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_IMAGES)
    return apart(transformers.Qwen2_5_VLForConditionalGeneration(config))


def qwen3_vl(layers: int, *, generates: bool) -> PreTrainedModel:
    """Qwen 3 with eyes. Args: layers: of the text part. generates: whether with a head for words."""
    rope = _rope(mrope_section=[2, 3, 3], mrope_interleaved=True)
    text = _QWEN | {"num_hidden_layers": layers, "rope_parameters": rope}
    vision = _VISION | {"deepstack_visual_indexes": [0], "patch_size": 14}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **_IMAGES)
    made = transformers.Qwen3VLForConditionalGeneration if generates else transformers.Qwen3VLModel
    return apart(made(config))


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, **more}
