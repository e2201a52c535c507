"""Writes comfyui_nodes.json: inputs and outputs of the ComfyUI nodes that the workflows are made of, by its own word.

python tests/sampling/generate_comfyui_nodes.py FILE VERSION
FILE is what a running ComfyUI answers at /object_info.
"""

import json
import sys
from pathlib import Path

TABLE = Path(__file__).with_name("comfyui_nodes.json")
USED = (
    *("CheckpointLoaderSimple", "UNETLoader", "VAELoader", "LoraLoaderModelOnly", "CLIPTextEncode", "FluxGuidance"),
    *("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader"),
    *("EmptyLatentImage", "EmptySD3LatentImage", "EmptyFlux2LatentImage", "RandomNoise", "BasicGuider"),
    *("KSamplerSelect", "ManualSigmas", "SamplerCustomAdvanced", "VAEDecode", "SaveImage"),
)
FILES = ("ckpt_name", "unet_name", "vae_name", "lora_name", "clip_name")  # whose choices are what lies in a folder


def trimmed(info: dict) -> dict:
    """The parts of a node's definition that a workflow can be wrong about."""
    return {
        "required": {name: _input(name, spec) for name, spec in info["input"].get("required", {}).items()},
        "optional": {name: _input(name, spec) for name, spec in info["input"].get("optional", {}).items()},
        "output": info["output"],
    }


def _input(name: str, spec: list) -> dict:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    choices = kind if isinstance(kind, list) else options.get("options")
    if name.startswith(FILES):
        return {"type": "FILE"}
    if choices is not None:
        return {"type": "COMBO", "choices": choices}
    return {"type": kind} | {bound: options[bound] for bound in ("min", "max", "step") if bound in options}


if __name__ == "__main__":
    described = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    table = {"ComfyUI": sys.argv[2], "nodes": {name: trimmed(described[name]) for name in USED}}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
