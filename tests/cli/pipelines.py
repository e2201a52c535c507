"""Tiny stock pipelines of the kinds that are called in ways of their own."""

from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CLIPTextModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from simpletuner_twinflow.sampling.choose import few_step_scheduler
from simpletuner_twinflow.sampling.pipelines import kind_of
from tests.cli.command import BASE


def tiny_flux(guidance_embeds: bool) -> FluxPipeline:
    base = StableDiffusion3Pipeline.from_pretrained(BASE)
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=base.text_encoder_3.config.d_model, axes_dims_rope=(4, 4, 8),
        pooled_projection_dim=base.text_encoder.config.hidden_size, guidance_embeds=guidance_embeds,
    )  # fmt: skip
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2, shift_factor=0.0)
    return FluxPipeline(
        transformer=network, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=CLIPTextModel(base.text_encoder.config),
        tokenizer=base.tokenizer, text_encoder_2=base.text_encoder_3, tokenizer_2=base.tokenizer_3,
    )  # fmt: skip


def tiny_sd() -> StableDiffusionPipeline:
    """Of a network that predicts epsilon."""
    base = StableDiffusion3Pipeline.from_pretrained(BASE)
    network = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        cross_attention_dim=base.text_encoder.config.hidden_size, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    vae = AutoencoderKL(
        latent_channels=4, block_out_channels=(4,) * 4, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return StableDiffusionPipeline(
        unet=network, vae=vae, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=CLIPTextModel(base.text_encoder.config), tokenizer=base.tokenizer,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def tiny_wan() -> WanPipeline:
    tokenizer = StableDiffusion3Pipeline.from_pretrained(BASE).tokenizer_3
    encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
    ))  # fmt: skip
    network = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=16, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=64,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(tokenizer=tokenizer, text_encoder=encoder, transformer=network, vae=vae, scheduler=scheduler)


class ExactOmniGen(OmniGenTransformer2DModel):
    """Knows data that is 0.7 everywhere: it is given 1 - t and answers x - z."""

    def forward(self, hidden_states, timestep, *args, **kwargs):
        super().forward(hidden_states, timestep, *args, **kwargs)
        t = (1 - timestep.float()).reshape(-1, 1, 1, 1)
        return ((0.7 - hidden_states) / t,)


def exact_omnigen() -> OmniGenPipeline:
    """With the few-step scheduler that its class gets."""
    words = Tokenizer(WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    network = ExactOmniGen(
        in_channels=4, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, num_layers=1,
        pad_token_id=0, vocab_size=16, max_position_embeddings=128, original_max_position_embeddings=128,
        pos_embed_max_size=64, time_step_dim=32,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "type": "su"},
    )  # fmt: skip
    vae = AutoencoderKL(
        latent_channels=4, block_out_channels=(4,) * 4, norm_num_groups=2, scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return OmniGenPipeline(
        transformer=network, vae=vae, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>"),
        scheduler=few_step_scheduler(FlowMatchEulerDiscreteScheduler(invert_sigmas=True), kind_of("OmniGenPipeline")),
    )  # fmt: skip
