"""Faults of `testbed.mutations` that change nothing that anybody could see, by name, each with the reason."""

EQUIVALENT = {
    "method/roles.py: RoleSampler._counts: True -> False": (
        "strict=True of zip: one pair of edges a role by construction; it would only show a later mistake"
    ),
    "method/time_conditioning.py: TimeConditioning._like: output.ndim > 2 -> output.ndim >= 2": (
        "of an output (B, dim) this branch makes reshape(B, dim), which is what the next one returns"
    ),
}
