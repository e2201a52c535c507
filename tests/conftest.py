import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A private stream, as the training step is given one."""
    return torch.Generator().manual_seed(1)
