"""Every model family at tiny size: the host's own network class, and what its text encoders' cache would hold.

`time` and `direction` state the family's convention independently of the plugin and of the host: what the network is
given for the time t (t = 1 is noise), and whether it returns z - x (+1) or x - z (-1).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.guiders import ClassifierFreeGuidance
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

WORDS = 5  # tokens of a prompt


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


def parts_of_hunyuanvideo() -> dict[str, Any]:
    """A guider as the host makes it from the seed's `validation_guidance: 0.0`."""
    return {"guider": ClassifierFreeGuidance(guidance_scale=0.0)}


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A family at tiny size."""

    network: dict[str, Any]  # arguments of the network's class
    latents: tuple[int, ...]  # of one sample
    text: dict[str, tuple[int, ...] | str]  # what is cached per prompt: name -> shape, or what `cached_text` makes
    time: Callable[[Tensor], Tensor]  # from what the network is given to t
    direction: int = 1  # of the network's raw output
    flavour: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)  # config that the host's check would have none of
    hidden: str = "hidden_states"  # the network's names of its inputs
    timestep: str = "timestep"
    parts: Callable[[], dict[str, Any]] = dict  # of the pipeline, where it does not do without
    reads_words: bool = False  # whether the network is given words and not embeddings
    lora: bool = True  # whether the host can add an adapter
    signed_time: bool = True  # whether its time can be negative
    conditions: Callable[[int], dict[str, Any]] = lambda rows: {}  # what else is in a batch
    draws: bool = True  # whether its pipeline is in the suite
    checkpointing: bool = True  # whether the host's own gradient checkpointing works
    call: dict[str, Any] = field(default_factory=dict)  # of the pipeline, where a tiny network asks for it


EMBEDS = {"prompt_embeds": (1, WORDS, 16), "attention_masks": "mask"}
PROMPT_MASK = {"prompt_embeds": (1, WORDS, 16), "prompt_attention_mask": "mask"}
POOLED = {"prompt_embeds": (1, WORDS, 16), "pooled_prompt_embeds": (16,)}

ZOO = {
    "sd3": Tiny(
        network={
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
        },
        latents=(4, 8, 8),
        text=POOLED,
        time=thousandths,
    ),
    "flux": Tiny(
        network={
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 4, 8),
        },
        latents=(4, 8, 8),
        text=POOLED | {"attention_masks": "mask"},
        time=same,
        flavour="dev",
        config={"flux_guidance_mode": "constant", "flux_guidance_value": 1.0},
    ),
    "flux2": Tiny(
        network={
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "timestep_guidance_channels": 32,
            "axes_dims_rope": (4, 4, 4, 4),
        },
        latents=(16, 4, 4),
        text={"prompt_embeds": (1, WORDS, 16), "attention_mask": "mask"},
        time=same,
        flavour="dev",
        config={"flux_guidance_mode": "constant", "flux_guidance_value": 1.0},
    ),
    "qwen_image": Tiny(
        network={
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "axes_dims_rope": (4, 6, 6),
        },
        latents=(4, 8, 8),
        text=EMBEDS,
        time=same,
        flavour="v1.0",
    ),
    "z_image": Tiny(
        network={
            "in_channels": 4,
            "dim": 32,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 16,
            "axes_dims": [4, 6, 6],
            "axes_lens": [128, 32, 32],
        },
        latents=(4, 8, 8),
        text={"prompt_embeds": (1, WORDS, 16), "attention_mask": "mask"},
        time=data_share,
        direction=-1,
        hidden="x",
        timestep="t",
    ),
    "sana": Tiny(
        network={
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "sample_size": 8,
        },
        latents=(4, 8, 8),
        text={"prompt_embeds": (1, WORDS, 16), "attention_mask": "row of mask"},
        time=thousandths,
        call={"use_resolution_binning": False},
    ),
    "auraflow": Tiny(
        network={
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pos_embed_max_size": 64,
        },
        latents=(4, 8, 8),
        text=PROMPT_MASK,
        time=same,
    ),
    "chroma": Tiny(
        network={
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "axes_dims_rope": (4, 4, 8),
            "approximator_num_channels": 16,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
        latents=(4, 8, 8),
        text={"prompt_embeds": (1, WORDS, 16), "attention_masks": "float mask"},
        time=same,
    ),
    "lumina2": Tiny(
        network={
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": (4, 6, 6),
            "axes_lens": (64, 32, 32),
            "cap_feat_dim": 16,
        },
        latents=(4, 8, 8),
        text=PROMPT_MASK,
        time=data_share,
        direction=-1,
    ),
    "hidream": Tiny(
        network={
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_channels": [16, 16],
            "text_emb_dim": 32,
            "num_routed_experts": 2,
            "num_activated_experts": 1,
            "axes_dims_rope": (4, 6, 6),
            "max_resolution": (8, 8),
            "llama_layers": [0, 1],
        },
        latents=(4, 8, 8),
        text={
            "t5_prompt_embeds": (WORDS, 16),
            "llama_prompt_embeds": (2, 1, WORDS, 16),
            "pooled_prompt_embeds": (32,),
        },
        time=thousandths,
        direction=-1,
        timestep="timesteps",
        parts=tokenizer_of_hidream,
    ),
    "kandinsky5_image": Tiny(
        network={
            "in_visual_dim": 4,
            "in_text_dim": 16,
            "in_text_dim2": 16,
            "time_dim": 16,
            "out_visual_dim": 4,
            "patch_size": (1, 2, 2),
            "model_dim": 32,
            "ff_dim": 32,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
        },
        latents=(4, 8, 8),
        text=POOLED | {"attention_masks": "mask"},
        time=thousandths,
    ),
    "longcat_image": Tiny(
        network={
            "in_channels": 64,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "axes_dims_rope": [4, 4, 8],
        },
        latents=(16, 8, 8),
        text={"prompt_embeds": (1, WORDS, 16), "text_ids": "ids"},
        time=same,
        flavour="final",
    ),
    "wan": Tiny(
        network={
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 16,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 1,
            "rope_max_seq_len": 32,
        },
        latents=(4, 2, 8, 8),
        text=EMBEDS,
        time=thousandths,
        parts=vae_of_wan,
        flavour="t2v-480p-1.3b-2.1",
    ),
    "ltxvideo": Tiny(
        network={
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": 16,
        },
        latents=(128, 2, 2, 2),
        text=EMBEDS,
        time=thousandths,
    ),
    "hunyuanvideo": Tiny(
        network={
            "in_channels": 65,
            "out_channels": 32,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 16,
            "text_embed_2_dim": 16,
            "image_embed_dim": 16,
            "rope_axes_dim": (4, 6, 6),
            "task_type": "t2v",
        },
        latents=(32, 2, 4, 4),
        text={
            "prompt_embeds": (1, WORDS, 16),
            "prompt_attention_mask": "mask",
            "prompt_embeds_2": (1, WORDS, 16),
            "prompt_attention_mask_2": "mask",
        },
        time=thousandths,
        parts=parts_of_hunyuanvideo,
        flavour="t2v-480p",
    ),
    "flux3_image": Tiny(
        network={
            "in_channels": 16,
            "cond_in_channels": 16,
            "joint_attention_dim": 16,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "axes_dims_rope": (4, 4, 4, 4),
            "timestep_channels": 32,
        },
        latents=(16, 4, 4),
        text=EMBEDS,
        time=same,
    ),
    "krea2": Tiny(
        network={
            "in_channels": 16,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 32,
            "timestep_embed_dim": 32,
            "text_hidden_dim": 16,
            "num_text_layers": 2,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
            "text_intermediate_size": 32,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 6, 6),
        },
        latents=(4, 8, 8),
        text={"prompt_embeds": (WORDS, 2, 16), "attention_masks": "mask"},
        time=same,
    ),
    "ernie": Tiny(
        network={
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 1,
            "ffn_hidden_size": 32,
            "in_channels": 16,
            "out_channels": 16,
            "text_in_dim": 16,
            "rope_axes_dim": (4, 6, 6),
        },
        latents=(16, 4, 4),
        text={"prompt_embeds": (1, WORDS, 16), "attention_mask": "mask"},
        time=thousandths,
    ),
    "moss_image": Tiny(
        network={
            "dim": 32,
            "ffn_dim": 32,
            "num_heads": 2,
            "num_layers": 1,
            "text_dim": 16,
            "freq_dim": 32,
            "latent_channels": 128,
        },
        latents=(128, 4, 4),
        text=EMBEDS,
        time=thousandths,
        call={"uncond_skip_layers": ()},
    ),
    "z_image_omni": Tiny(
        network={
            "in_channels": 4,
            "dim": 32,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 16,
            "siglip_feat_dim": 16,
            "axes_dims": [4, 6, 6],
            "axes_lens": [256, 32, 32],
        },
        latents=(4, 8, 8),
        text={"prompt_embeds": (1, WORDS, 16), "attention_mask": "mask"},
        time=data_share,
        direction=-1,
        hidden="x",
        timestep="t",
        checkpointing=False,
    ),
    "kandinsky5_video": Tiny(
        network={
            "in_visual_dim": 4,
            "in_text_dim": 16,
            "in_text_dim2": 16,
            "time_dim": 16,
            "out_visual_dim": 4,
            "patch_size": (1, 2, 2),
            "model_dim": 32,
            "ff_dim": 32,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
            "visual_cond": True,
        },
        latents=(4, 2, 8, 8),
        text=POOLED | {"attention_masks": "mask"},
        time=thousandths,
    ),
    "sanavideo": Tiny(
        network={
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 24,
            "caption_channels": 16,
            "sample_size": 8,
            "rope_max_seq_len": 32,
        },
        latents=(4, 2, 8, 8),
        text=PROMPT_MASK,
        time=thousandths,
        call={"use_resolution_binning": False},
    ),
    "boogu_image": Tiny(
        network={
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 1,
            "num_double_stream_layers": 1,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": (4, 6, 6),
            "axes_lens": (64, 32, 32),
            "instruction_feature_configs": {
                "instruction_feat_dim": 16,
                "reduce_type": "mean",
                "num_instruction_feat_layers": 1,
            },
        },
        latents=(4, 8, 8),
        text=EMBEDS,
        time=data_share,
        direction=-1,
        parts=lambda: decoder_of(4),
        call={"device": "cpu", "height": 64, "width": 64},
    ),
}


def edited(name: str, flavour: str | None, conditions: Callable[[int], dict[str, Any]], **changes: Any) -> Tiny:
    """A family of the zoo with a reference image in each sample; its pipeline would need the image, not its latents."""
    tiny = ZOO[name]
    return replace(tiny, flavour=flavour, conditions=conditions, draws=False, **changes)


ZOO |= {
    "flux kontext": edited(
        "flux",
        "kontext",
        lambda rows: {"conditioning_latents": [torch.full((rows, 16, 8, 8), 0.3)]},
        network=ZOO["flux"].network | {"in_channels": 64},
        latents=(16, 8, 8),
    ),
    "longcat_image edit": edited(
        "longcat_image", "edit", lambda rows: {"conditioning_latents": torch.full((rows, 16, 8, 8), 0.3)}
    ),
    "mageflow": Tiny(
        network={
            "in_channels": 16,
            "out_channels": 16,
            "context_in_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "depth": 1,
            "axes_dim": [4, 6, 6],
            "param_dtype": "float32",
        },
        latents=(16, 4, 4),
        checked={"attention_mechanism": "diffusers"},  # the host turns every choice into a kernel from the hub
        text=EMBEDS,
        time=same,
        hidden="img",
        timestep="timesteps",
        parts=lambda: decoder_of(16),
    ),
    "omnigen": Tiny(
        network={
            "in_channels": 4,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "num_layers": 1,
            "pad_token_id": 0,
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": 128,
            "original_max_position_embeddings": 128,
            "pos_embed_max_size": 64,
            "time_step_dim": 32,
            "rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "type": "su"},
        },
        latents=(4, 8, 8),
        text={},
        time=data_share,
        direction=-1,
        reads_words=True,
        signed_time=False,
        parts=lambda: decoder_of(4, blocks=4) | {"tokenizer": tokenizer_of_words()},
        lora=False,
        call={"prompt": "a cat"},
    ),
    "kandinsky5_video i2v": edited(
        "kandinsky5_video",
        None,
        lambda rows: {"conditioning_latents": torch.full((rows, 4, 1, 8, 8), 0.3), "is_i2v_data": True},
    ),
    "qwen_image v2.1": Tiny(
        network={
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "context_in_dim": 16,
            "mlp_ratio": 2,
            "axes_dims_rope": (4, 6, 6),
        },
        latents=(4, 8, 8),
        text=EMBEDS,
        time=same,
        flavour="v2.1",
        config={"disable_assistant_lora": True},  # the hub has it
    ),
}


def family_of(name: str) -> str:
    """The family of an entry of the zoo; a second word is a flavour."""
    return name.split()[0]


def cached_text(tiny: Tiny, prompt: str) -> dict[str, Tensor]:
    """What the host's cache holds for a prompt: numbers of its own for each one, and a mask of its length."""
    stream = torch.Generator().manual_seed(sum(map(ord, prompt)) + 17)
    mask = (torch.arange(WORDS) < max(1, len(prompt.split()))).long()
    made = {
        "mask": mask.unsqueeze(0),
        "row of mask": mask,
        "float mask": mask.float().unsqueeze(0),
        "ids": torch.zeros(WORDS, 3),
    }
    return {
        name: made[shape] if isinstance(shape, str) else torch.randn(shape, generator=stream)
        for name, shape in tiny.text.items()
    }
