"""A network that torch compiles block by block (`dynamo_use_regional_compilation`), by its own names.

Each compiled block stands in a module of torch's that holds it under a name of its own, so that the names of all that
is in it are others after the compilation than before, and others than in a run without.
"""

from typing import Any

from accelerate.utils import DynamoBackend
from torch import nn
from torch.nn import Parameter

HELD = "_orig_mod"  # the name under which torch's module holds the one that it compiles


def plain_name(name: str) -> str:
    """The name of a parameter or module as it is without compilation."""
    return ".".join(part for part in name.split(".") if part != HELD)


def named_parameters(network: nn.Module) -> dict[str, Parameter]:
    """A network's parameters by their names without compilation, in its order."""
    return {plain_name(name): parameter for name, parameter in network.named_parameters()}


def is_compiled(accelerator: Any) -> bool:
    """Whether Accelerate has torch compile the network, as a whole or block by block.

    The network itself does not tell: one that is compiled as a whole stands in a module of torch's, out of which the
    host takes it.
    """
    return bool(accelerator.state.dynamo_plugin.backend != DynamoBackend.NO)


def uncompiled(module: nn.Module) -> Any:
    """The module that a compiled one holds; itself where it is not compiled."""
    return getattr(module, HELD, module)
