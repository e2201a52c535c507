"""What a measure of quality costs beside training, and how often it may be taken for that."""

import math
from typing import Any

from simpletuner_twinflow.host.settings.conflict_rows import as_number
from simpletuner_twinflow.method.cost import BACKWARD, passes
from simpletuner_twinflow.options import TwinFlowOptions

STEPS = (1, 2, 4)  # in which samples are drawn, beside the target step count
SHEET_STEPS = (1, 2, 4, 8)  # of a contact sheet
BASE_STEPS = 20  # of the base's own samples
FIELD_ROWS, FIELD_PASSES = 16, 5  # of the distances between the networks' velocities
KEYS = "(twinflow_quality_samples, twinflow_quality_interval)"
ONE_PICTURE = (
    "The data are one picture, and the measure of quality compares sets of pictures: its figures cannot fall in this "
    "run. Look at the contact sheet."
)
SHARE = 0.03  # of training's work that the measure may take where its interval is automatic


class Budget:
    """The work of one run's measures, in forward passes of rows."""

    def __init__(self, options: TwinFlowOptions, config: Any, *, rows: int, own_steps: bool, processes: int) -> None:
        """Args:
        options: settled.
        config: the host's.
        rows: samples of one measure on each rank that has data of its own.
        own_steps: whether the sampler's own steps are trained.
        processes: these ranks.
        """
        self._options, self._config = options, config
        self._own_steps, self._processes = own_steps, processes
        self.samples = rows * processes
        self.counts = sorted({*STEPS, options.target_step_count})
        self._calls = sum(self.counts) * (1 + bool(config.use_ema))

    def of_measure(self) -> float:
        """One measure, with its contact sheet."""
        beside = self._options.quality_sheet * sum(SHEET_STEPS) + FIELD_ROWS * FIELD_PASSES
        return self.samples * self._calls + beside

    def of_base(self) -> float:
        """Drawing the base, once."""
        calls = self.samples * (BASE_STEPS + self._options.target_step_count) + self._options.quality_sheet * BASE_STEPS
        return calls * (1 + (self._options.scale > 1))

    def of_step(self) -> float:
        """One step of training."""
        config = self._config
        more = passes(self._options, own_steps=self._own_steps)
        rows = config.train_batch_size * config.gradient_accumulation_steps * self._processes
        return float(rows * (1 + BACKWARD[config.model_type] + sum(more.values())))

    def interval(self) -> int:
        """Steps between two measures; 0 where the run is too short for one.

        The user's own, or the fewest validation intervals that keep the measure within its share of the work.
        """
        if self._options.quality_interval > 0:
            return self._options.quality_interval
        if self._left() < 0:
            return 0
        config = self._config
        validation = as_number(config.validation_step_interval) or as_number(getattr(config, "validation_steps", None))
        validation = max(int(validation or 0), 0) or 100
        return validation * math.ceil(self.of_measure() / (SHARE * self.of_step() * validation))

    def allows_base(self) -> bool:
        """Whether the base may be drawn too."""
        return self._options.quality_interval > 0 or self._left() >= self.of_base()

    def described(self, *, base: bool) -> str:
        """What is measured and what it costs, as a sentence. Args: base: whether the base is drawn, too."""
        counts, step, interval = ", ".join(map(str, self.counts)), self.of_step(), self.interval()
        took = f"{self.of_measure() / step:.0f} steps of training"
        if interval == 0:
            needed = math.ceil(self.of_measure() / (SHARE * step))
            return (
                f"TwinFlow does not measure the quality of few-step samples: for {self.samples} of them it takes as "
                f"long as {took}, more than {SHARE:.0%} of this run. From max_train_steps {needed} on it does, or with "
                f"an interval of your own, as twinflow_quality_interval {int(self._config.max_train_steps)} once at "
                "the end (fewer samples: twinflow_quality_samples)."
            )
        once = f"; once the base, as long as {self.of_base() / step:.0f} steps" if base else ""
        who = "by EMA and student" if self._config.use_ema else "by the student"
        return (
            f"TwinFlow measures {self.samples} samples in {counts} steps, {who}, every {interval} steps and at the "
            f"end, each time as long as {took}{once} {KEYS}."
        )

    def _left(self) -> float:
        """What a first measure leaves of the share."""
        return SHARE * int(self._config.max_train_steps) * self.of_step() - self.of_measure()
