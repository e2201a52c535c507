"""The host's pipeline rebuilt of stock diffusers classes, so that it loads where the host is not installed.

The host saves a network class of its own and no text encoders.
"""

import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from simpletuner_twinflow.host.training.compiled import plain_name
from simpletuner_twinflow.host.training.trainer import HOST_SIGN_EMBED

logger = logging.getLogger("simpletuner_twinflow")


def stock_pipeline(
    pipeline: Any, model: Any, training_only: Iterable[str], scheduler: Any | None, *, trained: Any | None = None
) -> Any:
    """A pipeline of the same name from stock diffusers, with the same weights (shared, not copied).

    Args:
        pipeline: the host's.
        model: the host's `ModelFoundation`.
        training_only: submodules of the network to leave out.
        scheduler: to put in; None keeps the pipeline's.
        trained: the network with the weights to save; None for the model's own.
    """
    stock_class = getattr(diffusers, type(pipeline).__name__, type(pipeline))
    parts = {
        name: _part(pipeline, name, parameter)
        for name, parameter in inspect.signature(stock_class).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    trained = model.get_trained_component(unwrap_model=True) if trained is None else trained
    parts[model.MODEL_TYPE.value] = stock_network(trained, training_only)
    if scheduler is not None:
        parts["scheduler"] = scheduler
    return stock_class(**(parts | _text_encoders(model, parts)))


def _part(pipeline: Any, name: str, parameter: inspect.Parameter) -> Any:
    """A component of the pipeline, a value of its config, or the stock class's default."""
    default = None if parameter.default is parameter.empty else parameter.default
    return vars(pipeline).get(name, pipeline.config.get(name, default))


def stock_network(network: Any, training_only: Iterable[str]) -> nn.Module:
    """The network in diffusers' class of the same name, without its training-only submodules.

    Where the stock class has other weights the network keeps the host's class, with a line in the log.
    """
    prefixes = tuple(f"{name}." for name in training_only)
    weights = {
        plain_name(name): weight for name, weight in network.state_dict().items() if not name.startswith(prefixes)
    }
    # FlowMapUNet2DConditionModel is the host's UNet2DConditionModel with a module for another of its methods.
    name = type(network).__name__.removeprefix("FlowMap")
    if (stock_class := getattr(diffusers, name, None)) is None:
        logger.warning("diffusers has no %s: loading what this run exports needs SimpleTuner.", name)
    for network_class in (stock_class, type(network)):
        if network_class is not None and (built := _built(network_class, network.config, weights)) is not None:
            return built
    return network


def _built(network_class: Any, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module | None:
    """A network of this class with these weights; None, and a line in the log, where the class has others."""
    accepted = inspect.signature(network_class.__init__).parameters
    own = {name: value for name, value in config.items() if name in accepted}
    own.pop(HOST_SIGN_EMBED, None)  # the host's switch for one of the training-only submodules
    with torch.device("meta"):
        built = network_class.from_config(own)
    if odd := built.state_dict().keys() ^ weights.keys():
        logger.error(
            "The trained network is not %s.%s (%s, ...): loading it will need SimpleTuner.",
            network_class.__module__,
            network_class.__name__,
            ", ".join(sorted(odd)[:5]),
        )
        return None
    built.load_state_dict(weights, assign=True)
    return built


def _text_encoders(model: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """The text encoders and tokenizers that the host unloads before it trains, loaded again on the CPU."""
    names = [name for name in model.TEXT_ENCODER_CONFIGURATION or {} if name in parts]
    if all(parts[name] is not None for name in names):
        return {}
    try:
        model.load_text_encoder(move_to_device=False)
    except OSError as error:
        logger.error("The exported pipeline has no text encoders, take them from the base model: %s", error)
        return {}
    found: dict[str, Any] = {}
    for name, encoder, tokenizer in zip(names, model.text_encoders, model.tokenizers, strict=True):
        found[name] = encoder
        if (tokenizer_name := name.replace("text_encoder", "tokenizer")) in parts:
            found[tokenizer_name] = tokenizer
    return found
