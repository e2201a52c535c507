"""The errors this package raises; a message names the option or value found, and the way out."""


class TwinFlowError(Exception):
    """A call or a state that TwinFlow cannot go on from."""


class TwinFlowConfigError(TwinFlowError):
    """Options, or combinations of options, that cannot be trained or sampled with."""

    def __init__(self, *problems: str) -> None:
        """Args: problems: a line each, at least one; the message lists them."""
        self.problems = problems
        listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(
            problems[0] if len(problems) == 1 else f"{len(problems)} problems in this configuration:{listed}"
        )

    def __reduce__(self) -> tuple[type["TwinFlowError"], tuple[str, ...]]:
        """Copies and pickles keep the problems apart."""
        return type(self), self.problems


class HostVersionError(TwinFlowError):
    """The installed SimpleTuner is not one that this plugin supports."""
