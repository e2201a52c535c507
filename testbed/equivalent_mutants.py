"""Faults of `testbed.mutations` that change nothing that anybody could see, by name, each with the reason."""

EQUIVALENT: dict[str, str] = {}
