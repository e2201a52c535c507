"""Tokenizers of the families' classes whose words are single bytes or characters, so that they need no file."""

import transformers
from transformers import GemmaTokenizerFast, LlamaTokenizerFast, Qwen2Tokenizer, Qwen3VLProcessor

from testbed.tiny_sd3 import _byte_characters

QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MUSIC_TOKENS = (
    *("<|caption_start|>", "<|caption_end|>", "<|lyrics_start|>", "<|lyrics_end|>"),
    *("<|audio_start|>", "<|audio_end|>"),
)
QWEN_IDS = {name: 256 + place for place, name in enumerate(QWEN_TOKENS)}  # after the 256 bytes
QWEN_VOCABULARY = 256 + len(QWEN_TOKENS)
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
LLAMA_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
# The layout of a chat that the Qwen families' pipelines cut the prompt out of.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{{ c['text'] if 'text' in c else '<|image_pad|>' }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer(length: int = 1024) -> Qwen2Tokenizer:
    """Bytes, and the special tokens of a chat. Args: length: the most tokens of a prompt."""
    vocabulary = {token: place for place, token in enumerate([*_byte_characters(), *QWEN_TOKENS])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], model_max_length=length, additional_special_tokens=list(QWEN_TOKENS[1:])
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def music_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and the special tokens around a caption and its lyrics."""
    vocabulary = {token: place for place, token in enumerate([*_byte_characters(), *QWEN_TOKENS, *MUSIC_TOKENS])}
    special = [*QWEN_TOKENS[1:], *MUSIC_TOKENS]
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024, additional_special_tokens=special)


def qwen_processor() -> Qwen3VLProcessor:
    """The tokenizer with what would read images."""
    return Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=qwen_tokenizer(),
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=CHAT,
    )


def gemma_tokenizer() -> GemmaTokenizerFast:
    """Bytes and printable characters."""
    return GemmaTokenizerFast(vocab=characters(*GEMMA_TOKENS), merges=[], model_max_length=1024)


def llama_tokenizer(length: int = 256) -> LlamaTokenizerFast:
    """Bytes and printable characters. Args: length: the most tokens of a prompt."""
    return LlamaTokenizerFast(
        vocab=characters(*LLAMA_TOKENS), merges=[], pad_token="<pad>", eos_token="</s>", model_max_length=length
    )


def characters(*special: str) -> dict[str, int]:
    """A vocabulary in SentencePiece's manner: these tokens, the 256 bytes, a word's start and printable ASCII."""
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    return {token: place for place, token in enumerate(tokens)}
