"""Put on PYTHONPATH by the demo and the tests, for machines without an accelerator."""

import pin_memory

pin_memory.keep_unpinned()
