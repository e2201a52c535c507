"""What each family's run needs beside a user's config, to be over in seconds on a CPU: few steps, float32."""

from typing import Any

from testbed.hub import IDEOGRAM

COMMON: dict[str, Any] = {
    "model_type": "lora",
    "lora_rank": 4,
    "data_backend_config": "config/data.json",
    "output_dir": "output",
    "seed": 42,
    "resolution": 64,
    "resolution_type": "pixel",
    "num_train_epochs": 0,
    "max_train_steps": 2,
    "checkpointing_steps": 2,
    "train_batch_size": 6,  # so that each role has a row
    "learning_rate": 1e-3,
    "lr_scheduler": "constant",
    "optimizer": "optimi-adamw",
    "mixed_precision": "no",
    "base_model_precision": "no_change",
    "gradient_checkpointing": False,
    "disable_bucket_pruning": True,
    "disable_benchmark": True,
    "torch_num_threads": 1,
    "report_to": "simpletuner",
    "validation_prompt": "a handwritten digit 3",
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 2,
    "validation_disable_unconditional": True,
    "validation_steps": 2,
}
TWINFLOW: dict[str, Any] = {
    "use_ema": True,
    "twinflow_enabled": True,
    "twinflow_adversarial_enabled": True,
    "twinflow_enhanced_ratio": 0.5,
    "twinflow_target_step_count": 2,
    "twinflow_quality_samples": 4,
    "twinflow_quality_interval": 2,
    "validation_guidance": 0.0,
}
DIFF2FLOW: dict[str, Any] = {"diff2flow_enabled": True, "twinflow_allow_diff2flow": True}
MODEL = "{model}"  # stands for the pipeline's folder
SHORT_PROMPT: dict[str, Any] = {"tokenizer_max_length": 77}
FILM: dict[str, Any] = {"validation_num_video_frames": 9}
SOUND: dict[str, Any] = {  # of a family whose data are songs; seconds
    "validation_prompt": "a low tone",
    "validation_lyrics": "la la",
    "validation_audio_duration": 1.0,
}
COSMOS3: dict[str, Any] = {
    # Its network's two halves, without which the host takes them from the hub.
    "cosmos3_generator_component": f"{MODEL}/generator",
    "cosmos3_reasoner_component": f"{MODEL}/reasoner",
    # The host cannot save a PEFT adapter of it.
    "lora_type": "lycoris",
    "lycoris_config": f"{MODEL}/lycoris.json",
}
# By name of the pipeline; the first word is the host's family, a second the flavour.
FAMILIES: dict[str, dict[str, Any]] = {
    "sd3": {"model_flavour": "medium", "tokenizer_max_length": 8},
    "sana": {"validation_resolution": "512x512"},
    "wan": {"model_flavour": "t2v-480p-1.3b-2.1", **FILM, **SHORT_PROMPT},
    # A pipeline's folder does not tell the host its flavour, and this flavour's VAE would be replaced from the hub.
    "qwen_image": {
        "model_flavour": "v2.1",
        "pretrained_vae_model_name_or_path": MODEL,
        "disable_assistant_lora": True,
    },
    "qwen_image v1.0": {},
    "flux": {"model_flavour": "dev", "flux_guidance_mode": "constant", "flux_guidance_value": 1.0, **SHORT_PROMPT},
    "flux2": {"model_flavour": "klein-4b"},
    "z_image": {"disable_assistant_lora": True},
    "chroma": {**SHORT_PROMPT},
    "auraflow": {},
    "lumina2": {},
    "krea2": {},
    "hidream": {**SHORT_PROMPT},
    "ltxvideo": {**FILM, **SHORT_PROMPT},
    # In float32 the host's validation gives its vocoder what the VAE of the sound makes, in that one's dtype.
    "ltxvideo2": {**FILM, "vae_dtype": "fp32"},
    "cosmos3": {**COSMOS3, "model_flavour": "nano", "validation_num_video_frames": 1},
    "cosmos3 super-i2v": {**COSMOS3, **FILM},
    "flux3_image klein": {"disable_assistant_lora": True},
    "anima": {"model_flavour": "base-v1.0"},
    "ideogram": {
        "pretrained_model_name_or_path": IDEOGRAM,  # the host reads parts of it from the hub only
        "ideogram_validation": True,
        "text_embed_full_cache": True,  # without it another repository projects the prompts
    },
    "zlab_i1": {"pretrained_vae_model_name_or_path": MODEL, "flow_schedule_shift": 0},
    # Its encoder of sound is published apart from the pipeline.
    "minimaxmusic": {**SOUND, "pretrained_vae_model_name_or_path": MODEL},
    # SimpleTuner pads no prompt of it, so that those of a batch must be as long.
    "ace_step": {
        **SOUND,
        "model_flavour": "base",
        "tokenizer_max_length": 16,
        "caption_dropout_probability": 0.0,
    },
    "sd1x": DIFF2FLOW,
    "sdxl": DIFF2FLOW | {"pretrained_vae_model_name_or_path": MODEL},
    "pixart": DIFF2FLOW | {"model_type": "full"},
}
PRELUDES = {"ideogram": "testbed.pipelines.ideogram:shrink"}  # what is called in a run's process before the host starts
READ_BY_HOST = ("zlab_i1", "anima", "flux3_image klein")  # whose pipeline diffusers does not have
ANIMATES = frozenset({"cosmos3 super-i2v"})  # flavours that are trained on films, each with its first frame
SINGS = frozenset({"minimaxmusic", "ace_step"})  # families that are trained on songs
WITHOUT_STOCK = frozenset({"ace_step"})  # of which stock diffusers has no pipeline
IN_CI = ("sana", "wan", "qwen_image")
