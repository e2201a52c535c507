"""The errors this package raises; a message names the option or value found, and the way out."""


class TwinFlowError(Exception):
    """A call or a state that TwinFlow cannot go on from."""


class TwinFlowConfigError(TwinFlowError):
    """An option, or a combination of options, that cannot be trained or sampled with."""


class HostVersionError(TwinFlowError):
    """The installed SimpleTuner is not one that this plugin supports."""
