"""TwinFlow against its alternatives inside the real host."""
