"""The families that can make sound: videos with it, of which TwinFlow trains the pictures, and songs."""

from simpletuner_twinflow.host.settings.family import Family, Refusal

SOUNDING = {
    "cosmos3": Family(
        time_embedding="time_embedder",
        trained_backwards=True,
        one_sample_a_pass=True,
        prompt_has_size=True,
        makes_sound=True,
        first_frame_flavours=("super-i2v",),
        unguided_scale=1.0,
        refusals=(
            Refusal(
                "model_type",
                "full|None|",
                "the host trains the half of its network that draws, and no pipeline can be made of that half",
                'set it to "lora", with lora_type "lycoris"',
            ),
            Refusal(
                "lora_type",
                "standard|None|",
                "the host cannot save a PEFT adapter of it, since its pipeline has no method for that",
                'set it to "lycoris", with a lycoris_config',
                model_type="lora",
            ),
        ),
    ),
    "ltxvideo2": Family(
        time_embedding="time_embed.emb.timestep_embedder",
        makes_sound=True,
        beside_silence=True,
        gives_frames=True,
        unguided_scale=1.0,
        refusals=(
            Refusal(
                "model_type",
                "full|None|",
                "the host trains its text connectors along, and keeps them in neither the EMA nor a checkpoint",
                'set it to "lora"',
            ),
            Refusal("validation_audio_only", "(?i)true", "validation would draw no video", "set it to false"),
            Refusal(
                "ltx2_validation_pipeline_mode",
                "spatial-upscale",
                "its second stage draws at sigmas that are not those that TwinFlow trains",
                'set it to "trained-stage"',
            ),
        ),
    ),
    "ace_step": Family(
        time_embedding="timestep_embedder",
        zeros_without_prompt=("encoder_hidden_states", "speaker_embeds", "lyric_token_ids"),
        predicts_data=True,
        masks_loss=True,
        makes_scheduler=True,
        sings=True,
        refusals=(
            Refusal(
                "model_flavour",
                "v15-(turbo|base|sft)",
                "its songs are made in a loop of the model repository's own code, whose steps the few-step scheduler "
                "cannot take",
                'use "base", which is ACE-Step 1',
            ),
            Refusal(
                "pretrained_model_name_or_path",
                r"(?i:.*(ace-step1\.5|acestep-v15-).*)",
                "it is ACE-Step 1.5, whose songs are made in a loop of the model repository's own code",
                "use ACE-Step 1",
            ),
            Refusal(
                "model_type",
                "full|None|",
                "the host cannot save a full fine-tune of it, since its pipeline has no method for that",
                'set it to "lora"',
            ),
        ),
    ),
    # Its prompts are what a language model sings to them, encoded sample by sample.
    "minimaxmusic": Family(
        time_embedding="time_embed",
        time_unit=1,
        invert_sigmas="network",
        zeros_without_prompt=("encoder_hidden_states",),
        sings=True,
        unguided_scale=1.0,
        refusals=(
            Refusal(
                "minimax_music_train_component",
                "language_model",
                "its language model predicts tokens, not a flow",
                'set it to "transformer"',
            ),
            Refusal(
                "twinflow_time_conditioning",
                "signed_time",
                "the host takes a time beyond 0 to 1 for thousandths",
                'set it to "training_only"',
            ),
            Refusal(
                "model_type",
                "full|None|",
                "its pipeline is a modular one, which TwinFlow cannot export in stock classes",
                'set it to "lora"',
            ),
        ),
    ),
}
