"""Trains the host's own example configs as TwinFlow, each shrunk to a tiny model of its family: one of each kind.

python -m testbed.examples [--folder F] [names]      a row of the table as each is done, and docs/examples-trained.md

A kind is a family, its adapter, and whether TREAD, block swap or gradient checkpointing are in it. What is shrunk:
model and pictures, steps, rows, precision and attention kernels; all else is the example's own.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from simpletuner_twinflow.host.settings.examined import examined
from testbed.forkserver import ForkServer
from testbed.hub import fill
from testbed.picture_encoder import put_encoder
from testbed.pipelines import write
from testbed.recipes import COMMON, FAMILIES, MODEL, PRELUDES
from testbed.samples import samples_of
from testbed.trainer import ROOT, cpu_environment, write_run

EXAMPLES = Path(str(files("simpletuner"))) / "examples"
PAGE = ROOT / "docs/examples-trained.md"
ADDED = {"twinflow_enabled": True, "use_ema": True}
STEPS = 2
LIMIT = 300  # seconds of one run
MARKS = ("tread_config", "musubi_blocks_to_swap", "crepa_enabled", "gradient_checkpointing")
# The example's own, where it has them, and not what the tiny runs of families take.
KEPT = ("model_type", "lora_rank", "learning_rate", "lr_scheduler", "gradient_checkpointing", "tokenizer_max_length")
# What a tiny model on a CPU has no use for: kernels, precisions, files and services of the user's.
LEFT_OUT = re.compile(
    r"attention_mechanism|dynamo_.*|quantize_.*|push_.*|hub_.*|tracker_.*|user_prompt_library|.*prompt_library|"
    r"resume_from_checkpoint|.*_cache_.*|validation_.*|num_eval_images|ramtorch.*|aspect_bucket_.*|framerate|"
    r"gradient_checkpointing_backend|pretrained_.*|offload_.*|text_encoder_.*precision|checkpoint_step_interval|"
    r"base_model_default_dtype|init_lora|.*_offload.*|vae_.*|delete_.*|minimum_.*|maximum_.*|write_batch_size|"
    r"max_grad_norm|grad_clip_method|context_parallel.*|evaluation_type|eval_.*|webhook.*|lr_warmup_steps"
)
HEADING = """# Examples trained

One of each kind of SimpleTuner's example configs that are accepted ([existing-configs.md](existing-configs.md)), with
`"twinflow_enabled": true` and `"use_ema": true` added, trained for two steps, validated and exported by the installed
host on a CPU. The model is a tiny one of the same family, the data handwritten digits; precision, kernels and services
are left out, all else is the example's own. Families without a tiny model are missing. Written by
`python -m testbed.examples`.

| example | kind | result |
|---|---|---|
"""


def kind(config: dict[str, Any]) -> tuple[str, ...]:
    """What an example is one of."""
    family, flavour = config["model_family"], config.get("model_flavour")
    name = next((it for it in (f"{family} {flavour}", family) if it in FAMILIES), family)
    marks = [key for key in MARKS if config.get(key)]
    adapter = config.get("lora_type", "standard") if config.get("model_type") == "lora" else "full"
    return (name, adapter, *marks)


def chosen() -> Iterator[tuple[str, dict[str, Any]]]:
    """The first accepted example of each kind whose family has a tiny model."""
    seen = set()
    for path in sorted(EXAMPLES.glob("*/config.json")):
        try:
            config = {key.lstrip("-"): value for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
        except json.JSONDecodeError:
            continue
        config.pop("data_backend_config", None)
        if "lycoris_config" in config:
            config["lycoris_config"] = str(path.with_name("lycoris_config.json"))
        if kind(config)[0] not in FAMILIES or kind(config) in seen:
            continue
        if not examined(config | ADDED)["problems"]:
            seen.add(kind(config))
            yield path.parent.name, config


def shrunk(config: dict[str, Any], model: Path) -> dict[str, Any]:
    """The example at the size of a tiny model."""
    own = {key: value for key, value in config.items() if not LEFT_OUT.fullmatch(key)}
    name = kind(config)[0]
    family = {
        key: value.replace(MODEL, str(model)) if isinstance(value, str) else value
        for key, value in FAMILIES[name].items()
        if key != "lycoris_config" or key not in own
    }
    small = {key: value for key, value in COMMON.items() if key not in KEPT or key not in own}
    places = {"pretrained_model_name_or_path": str(model)} | family  # one is read from the hub's cache alone
    places["data_backend_config"] = "config/data.json"
    quiet = {"report_to": "none", "output_dir": "output", "train_batch_size": 4, "gradient_accumulation_steps": 1}
    if own.get("crepa_enabled"):
        own |= {"crepa_block_index": 0, "crepa_encoder_image_size": 56}
    return own | small | family | places | quiet | {"max_train_steps": STEPS, "checkpointing_steps": STEPS}


def main(arguments: list[str]) -> int:
    """Print a row an example as it is done. Returns: the number of examples that did not train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name")
    parser.add_argument("--folder", type=Path, default=Path("output/examples"))
    given = parser.parse_args(arguments)
    root, failed, rows = given.folder.resolve(), 0, []
    own = {"PYTHONPATH": str(ROOT / "testbed/cpu"), "HF_HOME": str(root / "hub")}
    own["TORCH_HOME"] = str(put_encoder(root / "torch_home"))
    server = ForkServer(os.environ | cpu_environment() | own, root / "server.txt")
    try:
        for name, config in chosen():
            if given.names and name not in given.names:
                continue
            model = root / "models" / kind(config)[0]
            if not model.exists():
                write(kind(config)[0], model)
                fill(root / "hub", kind(config)[0], model)
            folder = root / "runs" / name
            shutil.rmtree(folder, ignore_errors=True)
            samples, data = samples_of(kind(config)[0], root)
            write_run(folder, shrunk(config, model) | ADDED, samples, data=data)
            began = time.monotonic()
            code = server.start(
                folder, folder / "log.txt", {}, LIMIT, prelude=PRELUDES.get(kind(config)[0], "")
            ).result()
            log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
            result = f"trained, {time.monotonic() - began:.0f} s"
            if code or "TwinFlow 0" not in log:
                failed += 1
                result = f"FAILED: exit {code}: {[line for line in log.splitlines() if line.strip()][-1][-300:]}"
            rows.append(f"| `{name}` | {', '.join(kind(config))} | {result} |")
            print(rows[-1], flush=True)
    finally:
        server.close()
    if not given.names:
        PAGE.write_text(HEADING + "\n".join(rows) + "\n", encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
