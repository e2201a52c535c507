"""Tiny stock pipelines of epsilon and v models, and one around a network that knows Gaussian data exactly."""

import torch
from diffusers import (
    AutoencoderKL,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from simpletuner_twinflow import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from tests.sampling.diffusion_oracles import SDXL, prediction_for
from tests.sampling.loop import FLOW

ZERO_SNR = SDXL | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
KINDS = {
    "epsilon": SDXL,
    "v_prediction": SDXL | {"prediction_type": "v_prediction"},
    "zero snr v_prediction": ZERO_SNR,
}


def scheduler_of(settings, **changes):
    return TwinFlowDiffusionScheduler(**settings, **changes)


class OracleUNet(UNet2DConditionModel):
    """A UNet that knows the average velocity of Gaussian data to t = 0, at its own times and in its own prediction."""

    def forward(self, sample, timestep, encoder_hidden_states=None, *args, **kwargs):
        time = timestep.expand(len(sample)).to(torch.float64)
        t = self.path.sigma(time)
        x_t = flow_state(sample.double(), t)
        answer = prediction_for(self.path.prediction_type, FLOW.average_velocity(x_t, t, 0 * t), x_t, t)
        self.asked.append((float(time[0]), float(sample.float().std())))
        return (answer.to(sample.dtype),)


def unet(kind=UNet2DConditionModel, **changes):
    return kind(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2, **changes,
    )  # fmt: skip


def autoencoder():
    return AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2)


def tiny_sd(scheduler, network=None, kind=StableDiffusionPipeline):
    pipeline = kind(
        unet=network or unet(), vae=autoencoder(), scheduler=scheduler, text_encoder=None, tokenizer=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8)}


def tiny_sdxl(scheduler):
    network = unet(
        addition_embed_type="text_time", addition_time_embed_dim=2, projection_class_embeddings_input_dim=12 + 8
    )
    pipeline = StableDiffusionXLPipeline(
        unet=network, vae=autoencoder(), scheduler=scheduler, text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, add_watermarker=False,
    )  # fmt: skip
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8), "pooled_prompt_embeds": torch.randn(1, 8)}


def tiny_pixart(scheduler):
    network = PixArtTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, patch_size=2, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, cross_attention_dim=16, caption_channels=8,
    )  # fmt: skip
    pipeline = PixArtSigmaPipeline(
        transformer=network, vae=autoencoder(), scheduler=scheduler, text_encoder=None, tokenizer=None
    )
    prompt = {"prompt_embeds": torch.randn(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3)}
    return pipeline, prompt | {"negative_prompt": None, "use_resolution_binning": False}


PIPELINES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "pixart": tiny_pixart}


def draw(pipeline, arguments, steps, seed=0, size=8, **more):
    pipeline.set_progress_bar_config(disable=True)
    factor = pipeline.vae_scale_factor
    return pipeline(
        **arguments, height=size * factor, width=size * factor, num_inference_steps=steps, guidance_scale=0.0,
        output_type="latent", generator=torch.Generator().manual_seed(seed), **more,
    ).images  # fmt: skip


def oracle_pipeline(scheduler, settings):
    network = unet(OracleUNet)
    network.path, network.asked = scheduler_of(settings).path, []
    return tiny_sd(scheduler, network)
