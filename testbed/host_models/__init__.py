"""The host's model classes as its trainer makes them, at tiny size, with their batches; needs the host."""
