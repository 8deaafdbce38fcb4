"""The backends that the Python tests run on, and which problems each is given.

A test that takes ``backend`` runs once for each of:

- ``cpu``: fastconv's own CPU kernels, never PyTorch's;
- ``aten``: PyTorch's operators, pass by pass, under fastconv's own autograd (as when a plan mixes the two);
- ``emulator``: the CUDA kernels, executed on the host;
- ``cuda``: the CUDA kernels on a GPU (``-m cuda`` selects only these; without a GPU they are skipped).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings as hypothesis_settings

import fastconv
from fastconv.convolution import Convolution

# Deterministic examples: a failing test fails again. No deadline: these machines are shared.
hypothesis_settings.register_profile("fastconv", derandomize=True, deadline=None, max_examples=25)
hypothesis_settings.load_profile("fastconv")

# Small tensors and, under xdist, a process a core: more threads would only wait for each other.
torch.set_num_threads(1)

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Target:
    """Where a test runs: ``kernel`` and ``backend`` are already in force."""

    name: str
    device: torch.device

    @property
    def flops(self) -> float:
        """The most work a case may have here: the emulator computes some 0.2 GFLOP/s."""
        return 3e5 if self.name == "emulator" else 1e8


def _target(name: str) -> Iterator[Target]:
    backend = fastconv.backends()["cpu" if name == "aten" else name]
    if not backend.available:
        pytest.skip(f"backend {backend.name}: {backend.reason}")
    kernel = "aten" if name == "aten" else "native"
    with pytest.MonkeyPatch.context() as patch, fastconv.use_backend(backend.name), fastconv.use_kernel(kernel):
        if name == "aten":
            # A convolution that is PyTorch's in every pass would take torch's own autograd: here it must not.
            patch.setattr(Convolution, "is_native", property(lambda conv: conv.module is not None))
        yield Target(name, torch.device(backend.device_type))


@pytest.fixture(params=["cpu", "aten", "emulator", pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Every backend in turn."""
    yield from _target(request.param)


@pytest.fixture(params=["cpu", "emulator", pytest.param("cuda", marks=pytest.mark.cuda)])
def native(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Every backend that runs kernels of fastconv's own."""
    yield from _target(request.param)
