"""When the experimental trajectory chart is logged."""

from dataclasses import dataclass

MAX_CHARTS = 400  # of one run


@dataclass(frozen=True)
class ChartSchedule:
    """When a chart is due: every `interval` steps, thinned so that a run of `max_steps` logs at most MAX_CHARTS."""

    interval: int
    max_steps: int

    def is_due(self, step: int) -> bool:
        """Whether step (counted from 1) logs a chart; the first step does, so that a short run has one."""
        if self.interval == 0:
            return False
        thinned = -(-self.max_steps // MAX_CHARTS)
        interval = -(-thinned // self.interval) * self.interval
        return step == 1 or step % interval == 0
