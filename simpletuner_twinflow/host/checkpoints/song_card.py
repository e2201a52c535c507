"""The code of a model card that makes a song with what a run exports, where diffusers makes songs of its parts."""

from typing import Any

from simpletuner_twinflow.host.checkpoints.export import stock_scheduler_of
from simpletuner_twinflow.host.checkpoints.other_run import ADAPTER_FILE
from simpletuner_twinflow.host.run import options_of
from simpletuner_twinflow.host.training.lycoris import lycoris_of
from simpletuner_twinflow.sampling.stock import inverted_settings

NEEDS_HOST = "This needs SimpleTuner, whose pipeline reads a LoRA in ComfyUI's format."
ALONE = "This needs diffusers alone, and makes the song of the run's validation, to rounding."
NEEDS_PLUGIN = "This needs `pip install simpletuner-twinflow`: stock diffusers has no scheduler close to it."
FROM_HOST = "simpletuner.helpers.models.minimaxmusic"
# The file holds the whole change of each layer: see adapter_file.py.
READ = """adapter = load_file({file})
for name in [name for name in adapter if name.endswith(".lora_A.weight")]:
    layer = pipeline.transformer.get_submodule(name.removeprefix("transformer.").removesuffix(".lora_A.weight"))
    layer.weight.data += (adapter[name.replace("lora_A", "lora_B")] @ adapter[name]).to(layer.weight)"""
READ_LYCORIS = """adapter, _ = create_lycoris_from_weights(1.0, {file}, pipeline.transformer)
adapter.merge_to()"""
WORDS = """
Its LoRA is of ACE-Step 1's `ace_step_transformer`, and stock diffusers has no pipeline for that. SimpleTuner's
`ACEStepPipeline` makes songs with it, at `guidance_scale=0.0` and in Euler steps at the sigmas {sigmas}. The scheduler
that the pipeline makes for itself has others; with `pip install simpletuner-twinflow` SimpleTuner's validation has
these.
"""


def song_example(model: Any, base: str, source: str) -> str:
    """Code and the note below it.

    Args:
        model: the host's `ModelFoundation`, of a LoRA run.
        base: folder or repository of the base model.
        source: folder or repository of what the run exports.
    """
    config, steps = model.config, options_of(model.config).target_step_count
    if config.model_family != "minimaxmusic":
        times = model.twinflow_model.scheduler().step_times(steps)
        return WORDS.format(sigmas=", ".join(f"{time:.4g}" for time in (*times, 0.0)))
    lycoris = lycoris_of(model) is not None
    comfyui = not lycoris and str(config.lora_format or "").lower() == "comfyui"
    dtype = str(config.weight_dtype).removeprefix("torch.")
    imports = {"import torch", "from scipy.io import wavfile"}
    if comfyui:
        imports |= {f"from {FROM_HOST}.modular_blocks import MiniMaxMusic3Blocks"}
        imports |= {f"from {FROM_HOST}.modular_pipeline import MiniMaxMusic3ModularPipeline"}
        imports |= {f"from {FROM_HOST}.transformer import MiniMaxMusic3Transformer1DModel"}
        code = [f"pipeline = MiniMaxMusic3ModularPipeline(MiniMaxMusic3Blocks(), {base!r})"]
    else:
        imports |= {"from diffusers import ModularPipeline"}
        code = [f"pipeline = ModularPipeline.from_pretrained({base!r})"]
    code += [f"pipeline.load_components(dtype=torch.{dtype})"]
    file = repr(f"{source}/{ADAPTER_FILE}")
    if config.push_to_hub:
        imports |= {"from huggingface_hub import hf_hub_download"}
        file = f"hf_hub_download({source!r}, {ADAPTER_FILE!r})"
    if comfyui:
        network = f'MiniMaxMusic3Transformer1DModel.from_pretrained({base!r}, subfolder="transformer")'
        code += [
            f"pipeline.update_components(transformer={network}.to(torch.{dtype}))",
            f'pipeline.load_lora_weights({file}, lora_format="comfyui")',
        ]
    else:
        reader = (
            "from lycoris import create_lycoris_from_weights" if lycoris else "from safetensors.torch import load_file"
        )
        imports |= {reader}
        code += [(READ_LYCORIS if lycoris else READ).format(file=file)]
    note = NEEDS_HOST if comfyui else ALONE
    if lycoris:
        note = note.replace("diffusers alone", "diffusers and lycoris-lora alone")
    if (stock := stock_scheduler_of(model)) is not None:
        imports |= {"from diffusers import FlowMatchEulerDiscreteScheduler"}
        made = f"FlowMatchEulerDiscreteScheduler({inverted_settings(stock)})"
    else:
        imports |= {"from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler"}
        times = ", ".join(f"{name}={value!r}" for name, value in model.twinflow_model.sampling_times.items())
        made, note = f"TwinFlowScheduler({times})", NEEDS_PLUGIN
    code += [
        f"pipeline.update_components(scheduler={made})",
        "pipeline.guider.disable()  # guidance is trained in",
        'pipeline.to("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")',
    ]
    prompt = config.validation_prompt or "bright synth pop with a clear vocal melody"
    arguments = [
        f"prompt={prompt!r}",
        f"lyrics={config.validation_lyrics or prompt!r}",
        f"audio_duration={float(config.validation_audio_duration or 30.0)!r}",
        f"num_inference_steps={steps}",
        f"generator=torch.Generator().manual_seed({config.validation_seed or config.seed or 42})",
        'output="audios"',
    ]
    return f"""
```python
{"\n".join(sorted(imports, key=lambda line: (not line.startswith("import "), line)))}

{"\n".join(code)}

[song] = pipeline(
    {",\n    ".join(arguments)},
)
wavfile.write("output.wav", pipeline.sampling_rate, song.T)
```

{note}
"""
