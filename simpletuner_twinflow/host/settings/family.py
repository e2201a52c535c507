"""What the host's classes do not tell of a model family, and what a family cannot be trained with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class Refusal(NamedTuple):
    """A value of a host key that a family cannot be trained with."""

    key: str
    value: str  # a regular expression for the whole value
    reason: str
    way_out: str
    model_type: str | None = None  # refused with this one only
    flavour: str | None = None  # the same


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the host's classes do not tell of a family."""

    time_embedding: str  # submodule of the network; its output embeds the time
    time_unit: int = 1000  # what the network calls the time of noise, 1 or 1000
    rows_first: bool = False  # whether the time embedding sees a batch's rows and then fixed times of the network's own
    # Where time is 1 - t. "network": in network and pipeline, which the host's converter of times does not know.
    # "batch": also in batch["sigmas"], which it knows.
    invert_sigmas: Literal["no", "network", "batch"] = "no"
    # Whether the host has time and batch["sigmas"] run towards the data in training alone: the network and its pipeline
    # have the time 1 at noise, and that is what TwinFlow trains.
    trained_backwards: bool = False
    # Who makes the steps of a drawing. "scheduler": the pipeline's scheduler, whose place the few-step one takes. The
    # pipeline itself, by Euler's method: "even" at evenly spaced times, "call" at the times that its call is given.
    stepped_by: Literal["scheduler", "even", "call"] = "scheduler"
    # Whether the host tells times of [0, 1] from those of [0, 1000] by the largest of a pass, and would mistake a pass
    # of rows near the data; it is given shares then.
    asked_in_shares: bool = False
    chooses_sampler: bool = False  # whether its pipeline has samplers, and asks its scheduler for one
    ignores_time: bool = False  # whether the network makes nothing of the time that it is given
    knows_target_time: bool = False  # whether flavours have a target time of their own, which their pipeline gives them
    one_sample_a_pass: bool = False  # whether the host gives its network the samples of a batch one by one
    prompt_has_size: bool = False  # whether a prompt is encoded for the size of its picture; see training/cosmos3.py
    makes_sound: bool = False  # whether its batches may hold sound, which TwinFlow does not train
    beside_silence: bool = False  # whether its network is given sound in each pass: silence, noised as the video is
    gives_frames: bool = False  # whether the host's keys give it parts of a video; see training/given_frames.py
    # Those whose network is given a film's first frame without noise in each pass; see training/first_frame.py.
    first_frame_flavours: tuple[str, ...] = ()
    whole_batch: bool = False  # whether a sample's answer depends on its place or its neighbours in the batch
    reads_words: bool = False  # whether it reads the prompt's words when it predicts, not embeddings
    # Batch keys that are zeros without a prompt, in training and in its pipeline's guidance: there is no empty prompt.
    zeros_without_prompt: tuple[str, ...] = ()
    predicts_data: bool = False  # whether the host makes a clean sample of the velocity, x_t - sigma v
    masks_loss: bool = False  # whether the host's own loss leaves out what fills a song up to its batch's length
    makes_scheduler: bool = False  # whether its pipeline makes a scheduler in each call, whatever it has been given
    sings: bool = False  # whether it makes music, of which there are no pictures to show
    text_destinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see training/batches.py
    unguided_scale: float = 0.0  # the pipeline's guidance scale at which it follows the prompt alone
    prompt_length: int | None = None  # tokens of a prompt, where the host ignores its config
    embeds_guidance: bool = False  # whether flavours embed the guidance scale that the host trains with
    network_config: Mapping[str, Any] = field(default_factory=dict)  # what the pipeline reads there and the host omits
    refusals: tuple[Refusal, ...] = ()

    def refuses(self, key: str, value: str) -> bool:
        """Whether the family cannot be trained with this value of a host key, whatever else is chosen."""
        rows = (row for row in self.refusals if row.key == key and row.model_type is None and row.flavour is None)
        return any(re.fullmatch(row.value, value) for row in rows)
