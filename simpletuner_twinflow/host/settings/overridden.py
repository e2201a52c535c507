"""The host's keys that a TwinFlow run overrides or that have no or another effect in it: logged once at its start."""

from collections.abc import Iterator, Mapping
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import as_number, is_positive, is_set
from simpletuner_twinflow.host.settings.deepspeed_config import KEY, deepspeed_settings
from simpletuner_twinflow.host.settings.families import FAMILIES
from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.options import TwinFlowOptions

# Guidance and steps are TwinFlow's own, and settings of guidance have no effect; with the values that change nothing.
SAMPLING_KEYS: dict[str, tuple[Any, ...]] = {
    "validation_guidance": (0.0, 1.0),
    "validation_guidance_real": (0.0, 1.0),
    "validation_guidance_rescale": (0.0,),
    "validation_guidance_skip_layers": (),
    "validation_noise_scheduler": (),
    "inference_scheduler_timestep_spacing": ("trailing",),
}
# Where the host's training times come from; with the values that change nothing.
TIME_KEYS: dict[str, tuple[Any, ...]] = {
    "flow_use_uniform_schedule": (),
    "flow_use_beta_schedule": (),
    "flow_cubic_schedule_weights": (),
    "flow_schedule_auto_shift": (),
    "flow_schedule_shift": (3.0,),
}

# What the host leaves to DeepSpeed, where that is on.
OPTIMIZER_KEYS = ("optimizer", "lr_scheduler", "grad_clip_method", "max_grad_norm")


def overridden(config: Mapping[str, Any], options: TwinFlowOptions) -> Iterator[str]:
    """A line on each of the host's keys in a run's parsed configuration that TwinFlow overrides."""
    steps = options.target_step_count
    if not is_set(config.get("validation_disable")):
        keys = SAMPLING_KEYS | {"validation_num_inference_steps": (steps,)}
        given = {key: config[key] for key in keys if is_set(config.get(key))}
        if replaced := [f"{key} {shown(value)}" for key, value in given.items() if value not in keys[key]]:
            yield (
                f"TwinFlow validates with its own sampler, {steps} step{'s' * (steps > 1)} without guidance. "
                f"Overridden: {', '.join(replaced)}. The base model's benchmark keeps them."
            )
    if options.time_sampling != "host":
        given = {key: config[key] for key in TIME_KEYS if is_set(config.get(key))}
        if replaced := [f"{key} {shown(value)}" for key, value in given.items() if value not in TIME_KEYS[key]]:
            yield (
                f"twinflow_time_sampling is {shown(options.time_sampling)}, from which the trained times come. "
                f"Overridden: {', '.join(replaced)}."
            )
    if options.implementation == "paper" and (engine := deepspeed_settings(config.get(KEY))) is not None:
        clipping = engine.get("gradient_clipping") or 0
        left = [f"{key} {shown(config[key])}" for key in OPTIMIZER_KEYS if is_set(config.get(key))]
        yield (
            f"{KEY} is set: the optimizer, its learning rate in each step and the clipping of gradients are "
            f"DeepSpeed's, with TwinFlow and without; gradient_clipping in it is {shown(clipping)}. Without effect: "
            f"{', '.join(left)}."
        )
    family = FAMILIES.get(str(config.get("model_family")))
    if family is not None and family.sings:
        yield from _of_songs(config, options)
    if is_set(config.get("diff2flow_loss")):
        yield "diff2flow_loss is true: without effect, since TwinFlow's terms compare velocities in any case."
    if is_set(config.get("hidream_use_load_balancing_loss")):
        yield (
            "hidream_use_load_balancing_loss is true: without effect on what is trained, with TwinFlow and without, "
            "since SimpleTuner adds this loss detached from its gradient. TwinFlow leaves it out of the loss it logs."
        )
    if is_set(config.get("use_ema")):
        decay, interval = as_number(config.get("ema_decay")), as_number(config.get("ema_update_interval"))
        if decay is not None and not 0 <= decay <= 1:
            effect = f"takes {'(1 + step) / (10 + step)' if decay > 1 else '0, no average at all,'} in its place."
            if is_positive(config.get("ema_warmup_steps")):
                effect = "takes it as it stands after ema_warmup_steps, and the EMA teacher will diverge."
            yield (
                f"ema_decay is {shown(config['ema_decay'])}, outside of 0 to 1: SimpleTuner {effect} "
                "Set it between 0 and 1; the default is 0.995."
            )
        if interval is not None and interval > 1:
            yield (
                f"ema_update_interval is {shown(config['ema_update_interval'])}: the EMA teacher stands still for as "
                "many steps, while TwinFlow asks it in each. Set it to 1, the default."
            )
    by_teacher = options.scale > 1 and settled(options, config["model_type"]).guidance_reference == "ema"
    if by_teacher and not config.get("caption_dropout_probability"):
        yield (
            'twinflow_guidance_reference is "ema" and caption_dropout_probability 0: guidance is measured against '
            "the teacher's empty prompt, which is then never trained and drifts. Set caption_dropout_probability to "
            '0.1, the default, or twinflow_guidance_reference to "base".'
        )
    if options.scale > 1 and (as_number(config.get("caption_dropout_probability")) or 0) >= 1:
        yield (
            f"caption_dropout_probability is {shown(config['caption_dropout_probability'])}: no row keeps its prompt, "
            "so that no guidance is trained in. Set caption_dropout_probability to 0.1, the default, or "
            "twinflow_enhanced_ratio to 0."
        )


def _of_songs(config: Mapping[str, Any], options: TwinFlowOptions) -> Iterator[str]:
    """What a run on songs does otherwise than one on pictures."""
    name = shown(config["model_family"])
    if options.quality_samples > 0 and options.quality_sheet > 0:
        yield (
            f"twinflow_quality_sheet is {options.quality_sheet}: without effect, since model_family {name} makes "
            "songs, of which there are no pictures. The few-step quality is measured in the songs' latents."
        )
    if config["model_family"] == "ace_step":
        yield (
            'model_family is "ace_step": the losses against features of MERT and mHuBERT are left out. They compare '
            "hidden states with those of the songs, and TwinFlow's rows are at other times, some of generated songs."
        )
    drawn = not is_set(config.get("validation_disable")) and is_set(config.get("use_ema"))
    if drawn and config.get("ema_validation") in (None, "comparison"):
        yield (
            'ema_validation is "comparison": of a song SimpleTuner keeps the student\'s alone, and the run exports '
            'the EMA unless twinflow_export_weights is "student". Set ema_validation to "ema_only" to hear that.'
        )
