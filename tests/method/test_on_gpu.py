"""What only an accelerator can show: run where there is one, `python -m pytest -m gpu`, and left out elsewhere."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from simpletuner_twinflow.host.training.batches import on_latents_device, select_rows
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows, training_step
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.teacher import RngState, replay_rng, teacher_weights
from simpletuner_twinflow.method.transfer import numbers, on_device, row_index
from simpletuner_twinflow.quality.features import Scale, random_features
from simpletuner_twinflow.quality.measures import discrepancy
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
ROLES = (Role.one_step, Role.near, Role.any_step, Role.twin, Role.sampler_step, Role.near, Role.any_step, Role.one_step)
STEPS = ((1.0, 0.5), (0.5, 0.0))
EVERYTHING = ObjectiveSettings(
    adversarial_enabled=True, target_step_count=2, enhanced_ratio=0.5, guidance_reference="base", guidance_target="both"
)


class Network(nn.Module):
    """All it is asked, through a layer with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Dropout(dropout), nn.Linear(64, 4))

    def forward(self, x_t, t, r, sign, prompts: PromptRows):
        prompt = row_index(prompts.rows, x_t.device).float() * float(not prompts.unconditional)
        asked = torch.cat([x_t, torch.stack([t, r, sign, prompt], dim=1).to(x_t.dtype)], dim=1)
        return self.layers(asked.to(self.layers[0].weight.dtype))


def losses_of(x, z, t, networks, generator, options=EVERYTHING):
    student, teacher, base = networks
    more = {"step_times": (1.0,), "sampler_steps": STEPS, "base": base}
    return training_step(x, z, t, ROLES, options, student, teacher, generator, **more)


def step_on(device, network, options=EVERYTHING, dtype=torch.float32):
    """The losses of one step on the same data, by a network of the same weights; draws are the CPU's."""
    torch.manual_seed(0)
    x, z, t = torch.randn(8, 4), torch.randn(8, 4), torch.rand(8)
    student, teacher, base = (network.to(device, dtype) for network in network())
    generator = torch.Generator().manual_seed(0)  # of the CPU, so that both devices draw the same numbers
    x, z, t = x.to(device), z.to(device), t.to(device)
    return losses_of(x, z, t, (student, teacher, base), generator, options)


@contextmanager
def waiting_is(mode):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")  # said once a process
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def networks():
    torch.manual_seed(1)
    return Network(), Network(), Network()


def test_a_step_gives_the_same_losses_as_on_the_cpu():
    here, there = (step_on(device, networks) for device in (torch.device("cpu"), CUDA))
    torch.testing.assert_close(there.total.cpu(), here.total, rtol=1e-4, atol=1e-5)
    assert there.forwards == here.forwards
    for name, term in here.terms.items():
        torch.testing.assert_close(there.terms[name].total.cpu(), term.total, rtol=1e-4, atol=1e-5)


def test_losses_are_float32_where_the_network_is_bfloat16():
    losses = step_on(CUDA, networks, dtype=torch.bfloat16)
    assert losses.total.dtype is torch.float32
    assert all(term.total.dtype is torch.float32 for term in losses.terms.values())


def test_a_step_never_waits_for_the_device():
    torch.manual_seed(0)
    student, teacher, base = (network.to(CUDA) for network in networks())
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)
    generator = torch.Generator(device=CUDA).manual_seed(0)

    def step():
        x, z = (torch.randn(8, 4, device=CUDA) for _ in range(2))
        losses = losses_of(x, z, torch.rand(8, device=CUDA), (student, teacher, base), generator)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with waiting_is("error"):
        step()


def test_the_check_for_waits_sees_one():
    with waiting_is("error"), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(3, device=CUDA).sum().item()


def test_the_teacher_draws_the_students_dropout_and_the_streams_go_on():
    network = Network(dropout=0.5).to(CUDA)
    x, t = torch.randn(8, 4, device=CUDA), torch.rand(8, device=CUDA)
    asked = (x, t, t, torch.ones_like(t), PromptRows(tuple(range(8))))
    parameters = list(network.parameters())
    shadows = [parameter.detach().clone() for parameter in parameters]
    rng = RngState.capture(CUDA)
    student = network(*asked)
    after = torch.rand(2, device=CUDA)
    rng.restore()
    assert torch.equal(network(*asked), student)
    with teacher_weights(parameters, shadows), replay_rng(rng), torch.no_grad():
        teacher = network(*asked)
    assert torch.equal(teacher, student)
    assert torch.equal(torch.rand(2, device=CUDA), after)


def test_passes_on_a_batch_whose_embeddings_the_host_left_on_the_cpu_do_not_wait():
    batch = {"latents": torch.ones(4, device=CUDA), "add_text_embeds": torch.arange(4.0)}
    with waiting_is("error"):
        prepared = on_latents_device(batch)
        passes = [select_rows(prepared, rows)["add_text_embeds"].to(CUDA) for rows in ((2, 0), (3, 1))]
    assert [it.tolist() for it in passes] == [[2.0, 0.0], [3.0, 1.0]]


def test_numbers_and_rows_arrive_without_waiting():
    with waiting_is("error"):
        found = numbers((0.25, 0.5), CUDA), row_index((0, 2), CUDA), on_device(torch.arange(3), CUDA)
    assert [it.tolist() for it in found] == [[0.25, 0.5], [0, 2], [0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_scheduler_steps_as_on_the_cpu(steps, dtype):
    def drawn(device):
        scheduler = TwinFlowScheduler()
        scheduler.set_timesteps(steps, device=device)
        torch.manual_seed(0)
        x = torch.randn(2, 4, 8, 8, dtype=dtype).to(device)
        for timestep in scheduler.timesteps:
            x = scheduler.step(0.5 * x, timestep, x, return_dict=False)[0]
        return x.cpu()

    torch.testing.assert_close(drawn(CUDA), drawn("cpu"))


def test_the_quality_measure_is_the_cpus():
    torch.manual_seed(0)
    data, samples = torch.randn(64, 4, 8, 8), 0.8 * torch.randn(64, 4, 8, 8)
    scale = Scale.of(data)
    here = discrepancy(random_features(scale(samples)), random_features(scale(data)))
    there = discrepancy(random_features(scale(samples).to(CUDA)).cpu(), random_features(scale(data).to(CUDA)).cpu())
    assert there.value == pytest.approx(here.value, rel=1e-3)
