"""Faults of `testbed.mutations` that change nothing that anybody could see, by name, each with the reason."""

EQUIVALENT = {
    "method/roles.py: module: 10 -> 11": (
        "11**6 in place of 10**6, the finest share that is read as a fraction: either is exact for what anybody writes"
    ),
    "sampling/diffusion_path.py: DiffusionPath.time: (exact - low).clamp(min=0) -> exact - low": (
        "the search finds the last sigma that is not above; the clamp is for a device whose search rounds otherwise"
    ),
    "method/roles.py: RoleSampler._counts: True -> False": (
        "strict=True of zip: one pair of edges a role by construction; it would only show a later mistake"
    ),
    "method/time_conditioning.py: TimeConditioning._like: output.ndim > 2 -> output.ndim >= 2": (
        "of an output (B, dim) this branch makes reshape(B, dim), which is what the next one returns"
    ),
    "method/time_conditioning.py: TimeConditioning._like: found > rows -> found >= rows": (
        "an output (B, dim) of as many rows as there are samples is returned before this condition"
    ),
    "sampling/base.py: FewStepScheduler._make_step: self.flow_sigmas[place].to(sample.device).expand(len(sample)) -> "
    "self.flow_sigmas[place].to(sample.device)": ("the same sigma for all samples, broadcast later instead of here"),
    "sampling/solver.py: DerivedNoise.__init__: start.detach().to('cpu', torch.float32).contiguous() -> "
    "start.detach().to('cpu', torch.float32)": (
        "NumPy's tobytes writes the elements in their order whatever the strides are, so a view gives the same bytes"
    ),
    "sampling/diffusion_path.py: DiffusionPath.time: True -> False": (
        "at the schedule's own sigmas the search finds the piece before, whose end is where the next one begins"
    ),
    "sampling/stock.py: mean_of_spacing: 0.0 -> 1.0": (
        "one step's only sigma is 1 whatever the mean: the scheduler keeps the first and the last"
    ),
    "method/roles.py: RoleSampler._counts: math.floor(edge) -> math.ceil(edge)": (
        "one more at each edge that is no whole number, so that the differences, the counts, are the same"
    ),
}
