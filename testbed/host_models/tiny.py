"""What a family at tiny size is described by: its network, and what its text encoders' cache would hold.

`time` and `direction` state the family's convention independently of the plugin and of the host: what the network is
given for the time t (t = 1 is noise), and whether it returns z - x (+1) or x - z (-1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.guiders import ClassifierFreeGuidance
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from testbed.pipelines import ltx2
from testbed.pipelines.cosmos3 import cosmos3

WORDS = 5  # tokens of a prompt


@dataclass(frozen=True, kw_only=True)
class ReadPrompt:
    """What Cosmos 3's text encoder makes of a prompt for a picture or video of this size."""

    layers: int
    heads: int  # of keys and values
    width: int  # of a head
    pixels: int  # of the picture's edges
    encoder: str  # its name in the config
    frames: int = 1  # of a video

    def made(self, prompt: str, stream: torch.Generator) -> dict[str, Any]:
        """The host's cache entry; keys and values, the first in it, are numbers from a stream."""
        from simpletuner.helpers.models.cosmos3.model import Cosmos3Image
        from simpletuner.helpers.models.cosmos3.pipeline import get_3d_mrope_ids_text_tokens

        size = {"cosmos3_num_frames": self.frames, "cosmos3_height": self.pixels, "cosmos3_width": self.pixels}
        metadata = size | {"cosmos3_fps": 24.0, "cosmos3_reasoner_component": self.encoder}
        places, following = get_3d_mrope_ids_text_tokens(WORDS, 0, True)
        shape = (WORDS, self.heads, self.width)
        return {
            "reasoner_memory_state": {
                "layer_kv": [
                    {name: torch.randn(shape, generator=stream) for name in ("k", "v")} for _ in range(self.layers)
                ]
            },
            "cache_signature": Cosmos3Image._cosmos3_text_cache_signature(prompt=prompt, metadata=metadata),
            "input_ids": torch.arange(WORDS),
            "text_indexes": torch.arange(WORDS),
            "und_len": torch.tensor(WORDS),
            "text_mrope_ids": places,
            "vision_start_temporal_offset": torch.tensor(following + 15_000.0),
        }


def thousandths(given: Tensor) -> Tensor:
    """The network is given 1000 t."""
    return given / 1000


def same(given: Tensor) -> Tensor:
    """The network is given t."""
    return given


def data_share(given: Tensor) -> Tensor:
    """The network is given 1 - t."""
    return 1 - given


VOCABULARY = ("<unknown>", "<end>", "cat", "dog", "grass", "sea", "two", "red", "birds")


def tokenizer_of_words() -> PreTrainedTokenizerFast:
    """Knows the nouns of the tests' prompts and no word of a template."""
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unknown>")


def tokenizer_of_hidream() -> dict[str, Any]:
    """Its pipeline reads the end-of-sentence token."""
    words = Tokenizer(WordLevel({"<end>": 0}, unk_token="<end>"))
    return {"tokenizer_4": PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")}


def vae_of_wan() -> dict[str, Any]:
    """Its pipeline reads the number of channels."""
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])
    return {"vae": vae}


def decoder_of(channels: int, blocks: int = 1) -> dict[str, Any]:
    """A VAE for pipelines that always decode, or ask for one; what its decoder is given are the latents."""
    vae = AutoencoderKL(
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        norm_num_groups=1,
        sample_size=64,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {"vae": vae}


def parts_of_cosmos3() -> dict[str, Any]:
    """Its pipeline reads the prompt itself, and the latents' statistics."""
    pipeline = cosmos3()
    return {"vae": pipeline.vae, "text_tokenizer": pipeline.text_tokenizer}


def parts_of_hunyuanvideo() -> dict[str, Any]:
    """A guider as the host makes it from the seed's `validation_guidance: 0.0`."""
    return {"guider": ClassifierFreeGuidance(guidance_scale=0.0)}


def parts_of_ltxvideo2() -> dict[str, Any]:
    """Its pipeline makes what the network is given of a prompt, and reads the latents' statistics."""
    from testbed.host_models.ltx2 import connectors

    return {"connectors": connectors(), "vae": ltx2.video_vae(), "audio_vae": ltx2.audio_vae()}


def connected_of_ltxvideo2(text: Mapping[str, Tensor]) -> Tensor:
    """What its network is given of a prompt, (1, WORDS, width)."""
    from testbed.host_models.ltx2 import connected

    return connected(text)[0]


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A family at tiny size."""

    network: dict[str, Any]  # arguments of the network's class
    latents: tuple[int, ...]  # of one sample
    text: dict[
        str, tuple[int, ...] | str | ReadPrompt
    ]  # what is cached per prompt: name -> shape, or what `cached_text` makes
    time: Callable[[Tensor], Tensor]  # from what the network is given to t
    drawn_time: Callable[[Tensor], Tensor] | None = None  # from what its pipeline gives it, if that is something else
    ignores_time: bool = False  # whether the network makes nothing of it
    direction: int = 1  # of the network's raw output
    flavour: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)  # config that the host's check would have none of
    hidden: str = "hidden_states"  # the network's names of its inputs
    timestep: str = "timestep"
    parts: Callable[[], dict[str, Any]] = dict  # of the pipeline, where it does not do without
    reads_words: bool = False  # whether the network is given words and not embeddings
    lora: bool = True  # whether the host can add an adapter
    untimed: bool = True  # whether TwinFlow trains it without telling it the target time
    own_target_time: str | None = None  # the network's name of a target time that it knows itself
    signed_time: bool = True  # whether its time can be negative
    conditions: Callable[[int], dict[str, Any]] = lambda rows: {}  # what else is in a batch
    write: Callable[[Path], None] | None = None  # its network into a folder, where that is not its class's way
    pipeline: Callable[[Any], Any] | None = None  # of a model, where that is not its class's way
    made_anew: bool = True  # whether its class makes a network of a configuration
    thousandths_in_batch: bool = True  # whether TwinFlow gives the host a batch's times as the host has them
    draws: bool = True  # whether its pipeline is in the suite
    clean_first: bool = False  # whether its sample's tokens come after those of a picture without noise
    checkpointing: bool = True  # whether the host's own gradient checkpointing works
    empty_is_zero: tuple[str, ...] = ()  # the network's input that is all zeros without a prompt, by its names
    predicts: str = "forward"  # the network's method that predicts, in training and in the pipeline
    shrink: Callable[[], None] = lambda: None  # makes small what the network's class fixes
    # Makes the pipeline of a host's model and a scheduler, where the class does not say of what it is made.
    pipeline: Callable[[Any, Any], Any] | None = None
    complete: Callable[[Any], None] = lambda model: None  # gives a host's model what it loads beside its network
    output: dict[str, Any] = field(default_factory=lambda: {"output_type": "latent"})  # what asks for latents
    latents_of: Callable[[Any], Any] = lambda drawn: drawn[0]  # in what the pipeline returns
    state: dict[str, Any] = field(default_factory=dict)  # of the trainer, as the family's batches are made
    call: dict[str, Any] = field(default_factory=dict)  # of the pipeline, where a tiny network asks for it
    writes: Callable[[Path], None] = lambda folder: None  # what the host loads beside the network
    # What the network is given as "encoder_hidden_states" of what is cached, where the model makes it anew.
    given: Callable[[Mapping[str, Tensor]], Tensor] | None = None


EMBEDS = {"prompt_embeds": (1, WORDS, 16), "attention_masks": "mask"}
PROMPT_MASK = {"prompt_embeds": (1, WORDS, 16), "prompt_attention_mask": "mask"}
POOLED = {"prompt_embeds": (1, WORDS, 16), "pooled_prompt_embeds": (16,)}


def cached_text(text: Mapping[str, tuple[int, ...] | str | ReadPrompt], prompt: str) -> dict[str, Any]:
    """What the host's cache holds for a prompt: numbers of its own for each one, and a mask of its length."""
    stream = torch.Generator().manual_seed(sum(map(ord, prompt)) + 17)
    mask = (torch.arange(WORDS) < max(1, len(prompt.split()))).long()
    made = {
        "mask": mask.unsqueeze(0),
        "row of mask": mask,
        "mask on the right": mask.flip(0).unsqueeze(0),  # of a prompt padded on the left
        "float mask": mask.float().unsqueeze(0),
        "ids": torch.zeros(WORDS, 3),
        "words": torch.arange(1, WORDS + 1, dtype=torch.int32).unsqueeze(0),
    }

    def entry(shape: tuple[int, ...] | str | ReadPrompt) -> Any:
        if isinstance(shape, ReadPrompt):
            return shape.made(prompt, stream)
        return made[shape] if isinstance(shape, str) else torch.randn(shape, generator=stream)

    return {name: entry(shape) for name, shape in text.items()}
