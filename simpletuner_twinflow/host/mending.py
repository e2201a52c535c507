"""The log line of each fault of the host's that a TwinFlow run mends; docs/mended.md lists them."""

import logging
from typing import Any


def log_mending(what: str, *values: Any) -> None:
    """Name in the log what of the host is mended now."""
    # The host configures logging while it starts; a logger made earlier would be switched off.
    logging.getLogger("simpletuner_twinflow").info(f"Mending SimpleTuner: {what}.", *values)
