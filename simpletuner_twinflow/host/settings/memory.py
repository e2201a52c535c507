"""What a run keeps in an accelerator's memory, by part, foretold from the headers of its model's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpletuner_twinflow.host.settings.activations import kept_of
from simpletuner_twinflow.host.settings.conflict_rows import as_number, is_lycoris
from simpletuner_twinflow.host.settings.data_config import largest_sample
from simpletuner_twinflow.host.settings.network import Network, network_of
from simpletuner_twinflow.options import TwinFlowOptions

UNITS = {1: "B", 1e3: "kB", 1e6: "MB", 1e9: "GB"}
FLOAT32, BFLOAT16 = 4, 2  # bytes
FEATURES = 260  # of the target time's embedding, and the biases and the sign's vector, for each element of its width
WITHOUT_GRADIENT = 12  # tensors of a token's width that are alive in a block of a pass without gradient, at most
QUANTISED = {
    "int8": 1.0,
    "fp8": 1.0,
    "int4": 0.5,
    "nf4": 0.5,
    "int2": 0.25,
}  # bytes of a weight, by the name's beginning
# Bytes of state for each trained parameter, in bfloat16 and in float32: counted after two steps of SimpleTuner's own.
OPTIMIZERS = {
    "adamw_bf16": (6, 6),
    "torch-adam": (4, 8),
    "torch-adamw": (4, 8),
    "torch-sgd": (0, 0),
    "adamw_schedulefree": (6, 12),
    "optimi-adam": (6, 8),
    "optimi-adamw": (6, 8),
    "optimi-stableadamw": (6, 8),
    "optimi-lion": (4, 4),
    "optimi-sgd": (2, 0),
    "muon": (2, 4),
}


def size(count: float) -> str:
    """A number of bytes as a person reads it."""
    unit = next((unit for unit in (1, 1e3, 1e6) if count < 1000 * unit), 1e9)
    return f"{count / unit:.3g} {UNITS[unit]}"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What decides how much a run keeps beside its network."""

    full: bool  # a full fine-tune; else a LoRA
    width: int = BFLOAT16  # bytes of a number
    base_width: float = BFLOAT16  # bytes of a LoRA's frozen weight
    rank: int = 16
    optimizer: float | None = None  # bytes of state for each trained parameter
    conditioned: bool = True  # whether time conditioning is trained
    ema: bool = True  # on the accelerator
    base_copy: int = 0  # bytes of each of the base's first weights on the accelerator
    rows: int = 1
    tokens: int | None = None  # of one sample, its prompt's that every block has with them
    checkpointing: bool = True
    accumulates: bool = False  # whether gradients are kept over micro-batches
    shards: int = 1  # accelerators that share what FSDP 2 divides


def parts(family: str, network: Network, training: Training) -> dict[str, float]:
    """Bytes on one accelerator, by part; parts that are not known are left out.

    Args: family: the host's name; network: of its denoiser; training: the run.
    """
    given, shards = training, training.shards
    conditioning = network.width * (network.width + FEATURES) if given.conditioned else 0
    trained = (network.parameters if given.full else given.rank * network.adapted) + conditioning
    frozen = 0 if given.full else given.base_width * network.parameters
    found = {
        "weights": (frozen + given.width * trained) / shards,
        "gradients": given.width * trained / shards,
        "EMA": FLOAT32 * trained / shards if given.ema else 0,
        # Averages are in float32, and a pass needs them in the weights' dtype; of shards the student's are set aside.
        "teacher's weights": given.width * trained / shards if given.width < FLOAT32 or shards > 1 else 0,
        "the base's first weights": given.base_copy * network.parameters / shards,
    }
    if given.optimizer is not None:
        found["optimizer"] = given.optimizer * trained / shards
    if shards > 1 and network.blocks:
        found["gathered blocks"] = 2 * given.width * network.parameters / network.blocks  # one, and the next one
    kept = kept_of(family, dual=network.dual)
    if kept is not None and given.tokens is not None and network.width:
        of_kind = kept.full if given.full else kept.lora
        token = given.rows * given.tokens * network.width * given.width  # one tensor of a token's width
        block = of_kind[given.width == FLOAT32] * token
        if given.checkpointing and network.blocks > 1:
            # Each block's input, what lies around the blocks and flows back, and the block that is computed again.
            found["activations"] = token * (network.blocks + 2) + block
        else:
            found["activations"] = network.blocks * block
            found["a pass without gradient"] = WITHOUT_GRADIENT * token  # less than the block above
    return {part: count for part, count in found.items() if count}


def peak(found: Mapping[str, float], *, accumulates: bool) -> float:
    """The most at one time: a window's first gradients come to be while its activations go. Args: found: of `parts`."""
    gradients, activations = found.get("gradients", 0), found.get("activations", 0)
    rest = sum(found.values()) - gradients - activations
    return rest + (gradients + activations if accumulates else max(gradients, activations))


def training_of(options: TwinFlowOptions, config: Any, network: Network) -> Training:
    """What decides the memory of a run. Args: options: settled; config: the host's, with its defaults."""
    full = config.model_type == "full"
    width = _width(config)
    precision = str(getattr(config, "base_model_precision", "") or "")
    states = OPTIMIZERS.get(str(getattr(config, "optimizer", "")))
    copied = _copies_base(options, config) and options.guidance_base_device != "cpu"
    return Training(
        full=full,
        width=width,
        base_width=next((count for name, count in QUANTISED.items() if precision.startswith(name)), width),
        rank=int(as_number(getattr(config, "lora_rank", 16)) or 16),
        optimizer=None if states is None else states[width == FLOAT32],
        conditioned=options.time_conditioning == "training_only",
        # Of an adapter it is kept there always: host/training/ema.py.
        ema=bool(config.use_ema) and (not full or getattr(config, "ema_device", "cpu") == "accelerator"),
        base_copy=_base_width(options, width) if copied else 0,
        rows=int(config.train_batch_size),
        tokens=_tokens(config, network),
        checkpointing=bool(getattr(config, "gradient_checkpointing", False)),
        accumulates=int(config.gradient_accumulation_steps or 1) > 1,
    )


def memory(options: TwinFlowOptions, config: Any) -> dict[str, str]:
    """What a run keeps, by title: "memory" beyond plain training without EMA, "in all" with it where that is known.

    Args: options: settled; config: the host's.
    """
    network = network_of(vars(config))
    full = config.model_type == "full"
    trained = network.parameters if network is not None and full else None
    more = []
    if config.use_ema:
        more.append("an EMA as large as the trained weights" if trained is None else f"EMA {size(FLOAT32 * trained)}")
    if _copies_base(options, config):
        dtype, device = options.guidance_base_dtype, options.guidance_base_device
        place = f"on the {'CPU' if device == 'cpu' else 'accelerator'}"
        if trained is None:
            kept = f"{'their own dtype' if dtype == 'auto' else dtype} {place}"
            more.append(f"the base's first weights, once more, in {kept}")
        else:
            width = _base_width(options, _width(config))
            more.append(f"the base's first weights {size(width * trained)} {place}")
    if options.time_conditioning == "training_only":
        more.append("time conditioning")
    said = {"memory": f"{', '.join(more) or 'nothing'}, beyond plain training without EMA"}
    if network is None:
        return said | {"in all": "not foretold: the network's files are not on this machine (sizes: docs/scaling.md)"}
    if not full and is_lycoris(getattr(config, "lora_type", "")):
        return said | {"in all": "not foretold: how large a LyCORIS network is, LyCORIS says when it is made"}
    found = parts(str(config.model_family), network, training := training_of(options, config, network))
    lacking = [part for part in ("optimizer", "activations") if part not in found]
    named = ", ".join(f"{part} {size(count)}" for part, count in found.items())
    total = f"about {size(peak(found, accumulates=training.accumulates))} at most on one accelerator"
    beside = f", and {' and '.join(lacking)}, not known of this run" if lacking else ""
    return said | {"in all": f"{total}: {named}{beside}; without VAE and text encoders (docs/scaling.md)"}


def _width(config: Any) -> int:
    """Bytes of a number in the run's dtype."""
    return BFLOAT16 if config.mixed_precision != "no" else FLOAT32


def _copies_base(options: TwinFlowOptions, config: Any) -> bool:
    """Whether the base's first weights are kept for guidance beside the trained ones."""
    return config.model_type == "full" and options.scale > 1 and options.guidance_reference == "base"


def _base_width(options: TwinFlowOptions, width: int) -> int:
    """Bytes of each of the base's first weights."""
    return {"auto": width, "float32": FLOAT32}.get(options.guidance_base_dtype, BFLOAT16)


def _tokens(config: Any, network: Network) -> int | None:
    """Of the largest sample of the run's datasets; None where it is not known."""
    kept = kept_of(str(config.model_family), dual=network.dual)
    found = largest_sample(getattr(config, "data_backend_config", None), vars(config))
    if kept is None or found is None or (found.frames is None and kept.frames > 1):
        return None
    latents = 1 if found.frames is None else (found.frames - 1) // kept.frames + 1
    always, chosen = kept.text
    length = as_number(getattr(config, "tokenizer_max_length", None)) if chosen else None
    return round(latents * (found.side / kept.side / network.patch) ** 2 + always + (length or chosen))
