"""ACE-Step 1, in the files that SimpleTuner and ACE-Step's own pipeline read, with random weights.

All is tiny but for the encoder of the lyrics: its 82 million weights are written into the network's class.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch

from testbed.pipelines import encoders
from testbed.tiny_sd3 import build_t5_tokenizer

NETWORK: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "inner_dim": 32,
    "mlp_ratio": 2.0,
    "text_embedding_dim": encoders.WIDTH,
    "ssl_encoder_depths": [0, 0],
    "ssl_latent_dims": [16, 16],
    "max_width": 128,
}


class AceStep:
    """The parts of a pipeline, which has no class that would save them."""

    def __init__(self) -> None:
        from simpletuner.helpers.models.ace_step.music_dcae.music_vocoder import ADaMoSHiFiGANV1
        from simpletuner.helpers.models.ace_step.transformer import ACEStepTransformer2DModel

        self.transformer = ACEStepTransformer2DModel(**NETWORK)
        self.tokenizer = build_t5_tokenizer()
        self.text_encoder = encoders.t5(self.tokenizer, "UMT5")
        self.autoencoder = diffusers.AutoencoderDC(
            in_channels=2,
            latent_channels=8,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(4, 4, 8, 8),
            decoder_block_out_channels=(4, 4, 8, 8),
            encoder_layers_per_block=(1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            encoder_qkv_multiscales=((), (), (), ()),
            decoder_qkv_multiscales=((), (), (), ()),
            upsample_block_type="interpolate",
            downsample_block_type="Conv",
            decoder_act_fns="silu",
            scaling_factor=1.0,
        )
        self.vocoder = ADaMoSHiFiGANV1(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], num_mels=8, upsample_initial_channel=128)

    def save_pretrained(self, folder: Path) -> None:
        """Write each to the folder of its name in ACE-Step's repository."""
        torch.manual_seed(0)
        self.transformer.save_pretrained(folder / "ace_step_transformer")
        self.autoencoder.save_pretrained(folder / "music_dcae_f8c8")
        self.vocoder.save_pretrained(folder / "music_vocoder")
        self.text_encoder.save_pretrained(folder / "umt5-base")
        self.tokenizer.save_pretrained(folder / "umt5-base")
