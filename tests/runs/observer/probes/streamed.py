"""A frozen base that is streamed to the device of the passes, which on a CPU is another name for the same memory."""

import torch

from .events import around, before, note
from .training_step import note_each_step


def note_sent_blocks() -> None:
    """Note each block that SimpleTuner's block swap sends away: how many of its weights lie elsewhere then.

    From the device "cpu" to "cpu:0" torch copies, and the way back it does not.
    """

    def send(wrapped, manager, args, kwargs):
        block = args[0] if args else kwargs["block"]
        parameters, places = [*block.parameters()], [it.data_ptr() for it in block.parameters()]
        wrapped(*args, **kwargs)
        moved = [it.data_ptr() != place for it, place in zip(parameters, places, strict=True)]
        trained = [gone for it, gone in zip(parameters, moved, strict=True) if it.requires_grad]
        note(
            kind="sent",
            moved=sum(moved),
            trained=len(trained),
            trained_moved=sum(trained),
            with_grad=torch.is_grad_enabled(),
        )

    around("simpletuner.helpers.musubi_block_swap", "MusubiBlockSwapManager.stream_out", send)


def steps_with_ramtorch() -> None:
    """Each step noted, and RamTorch on, after the parser, which asks for CUDA; its layers work on a CPU too."""

    def load(wrapped, instance, args, kwargs):
        found = wrapped(*args, **kwargs)
        found.ramtorch = True
        found.set_grads_to_none = True
        return found

    around("simpletuner.helpers.training.trainer", "load_config", load)
    before("simpletuner.helpers.ramtorch.modules.linear", "Linear.__init__", lambda *_: {"kind": "ramtorch layer"})
    note_each_step()
