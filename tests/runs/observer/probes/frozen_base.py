"""Whether the frozen base's pass is that of the network as it stands in its files."""

from contextlib import contextmanager
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from simpletuner_twinflow.method.objective import PromptRows


def base_is_untouched(trainer, batch):
    """Whether the two passes agree to the bit on this batch; None where the run has no base.

    To be asked between two steps, since it writes into a full fine-tune's weights and puts them back.
    """
    base, family_model = trainer.distiller.base, trainer.twinflow_model
    if base is None:
        return None
    x_t, state = batch["twinflow_rows"].x_t, torch.get_rng_state()
    plain = {key: value for key, value in batch.items() if not key.startswith("twinflow_")}
    t, ones = torch.full((len(x_t),), 0.7), torch.ones(len(x_t))

    def velocity(batch):
        torch.set_rng_state(state)
        return family_model.predict_with(batch)(x_t, t, t, ones, PromptRows(tuple(range(len(x_t)))))

    with base.lend()():
        lent = velocity(batch)
    conditioning, family_model.time_conditioning = family_model.time_conditioning, None
    with untouched(trainer):
        found = velocity(plain)
    family_model.time_conditioning = conditioning
    torch.set_rng_state(state)
    return torch.equal(lent, found)


@contextmanager
def untouched(trainer):
    """Inside: the adapter switched off by PEFT or taken out, or a full fine-tune's weights as in the model's files."""
    network, config = trainer.model.get_trained_component(unwrap_model=True), trainer.config
    if config.lora_type == "lycoris":
        layers = trainer.lycoris_wrapped_network.loras
        assert layers
        for layer in layers:
            layer.org_module[0].forward = layer.org_forward
        yield
        for layer in layers:
            layer.org_module[0].forward = layer.forward
        return
    if config.model_type == "lora":
        layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
        assert layers
        for layer in layers:
            layer._disable_adapters = True
        yield
        for layer in layers:
            layer._disable_adapters = False
        return
    dtype = getattr(torch, config.twinflow_guidance_base_dtype, None)  # none for "auto"
    file = Path(config.pretrained_model_name_or_path) / "transformer/diffusion_pytorch_model.safetensors"
    weights = {name: it for name, it in network.named_parameters() if not name.startswith("twinflow_")}
    read, trained = load_file(file), {name: weight.detach().clone() for name, weight in weights.items()}
    _write(weights, {name: read[name].to(dtype or read[name].dtype) for name in weights})
    yield
    _write(weights, trained)


@torch.no_grad()
def _write(weights, values):
    for name, value in values.items():
        weights[name].copy_(value)
