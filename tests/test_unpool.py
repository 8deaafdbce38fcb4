"""Max-unpooling against torch's: ranks, dtypes, layouts, output sizes, gradients of two orders, errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastconv
import fastconv.functional as FC
import fastconv.nn as fnn

SIZES = (8, 8, 6)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(name="native", params=["cpu", "emulator"])
def native_backend(request: pytest.FixtureRequest) -> Any:
    with fastconv.use_backend(request.param), fastconv.use_kernel("native"):
        yield request.param


def pooled(rank: int, window: int, stride: int, padding: int, dtype: torch.dtype, layout: str) -> tuple[Tensor, Tensor]:
    """A max-pooling of distinct values and its indices."""
    shape = (2, 5, *SIZES[:rank])
    count = torch.tensor(shape).prod()
    x = torch.randperm(int(count), generator=torch.Generator().manual_seed(0)).remainder(251).view(shape).to(dtype)
    if layout == "nhwc":
        x = x.to(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    return getattr(F, f"max_pool{rank}d")(x, window, stride, padding, return_indices=True)


def both_ways(module: Any, rank: int, y: Tensor, indices: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = y.clone().requires_grad_()
    z = getattr(module, f"max_unpool{rank}d")(leaf, indices, *args, **options)
    gz = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z.dtype)
    return z.detach(), torch.autograd.grad(z, leaf, gz)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpooling(native: str, rank: int, layout: str, dtype: torch.dtype) -> None:
    """Windows that overlap give equal indices, with equal values."""
    if rank == 1 and layout == "nhwc":
        pytest.skip("one spatial axis has no channels_last")
    for window, stride, padding in ((2, 2, 0), (3, 2, 1)):
        y, indices = pooled(rank, window, stride, padding, dtype, layout)
        given = (y, indices, window, stride, padding, SIZES[:rank])
        ours, theirs = (both_ways(module, rank, *given) for module in (FC, F))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        if rank == 2:
            assert ours[0].stride() == theirs[0].stride()


def test_default_and_given_sizes(native: str) -> None:
    y, indices = pooled(2, 2, 2, 0, torch.float32, "nchw")
    for options in ({}, {"output_size": (9, 8)}, {"output_size": (2, 5, 9, 9)}, {"output_size": [8, 9]}):
        assert torch.equal(FC.max_unpool2d(y, indices, 2, **options), F.max_unpool2d(y, indices, 2, **options))
    one = FC.max_unpool2d(y[0], indices[0], 2)
    assert torch.equal(one, F.max_unpool2d(y[0], indices[0], 2)) and one.dim() == 3


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_of_equal_indices_the_last_wins(native: str, layout: str) -> None:
    y = torch.randn(2, 3, 9, 11)
    indices = torch.randint(0, 20, y.shape, generator=torch.Generator().manual_seed(2))
    if layout == "nhwc":
        y, indices = (each.to(memory_format=torch.channels_last) for each in (y, indices))
    z = FC.max_unpool2d(y, indices, 2).flatten(2)
    expected = torch.zeros_like(z)
    for n in range(2):
        for c in range(3):
            for value, index in zip(y[n, c].flatten(), indices[n, c].flatten().tolist(), strict=True):
                expected[n, c, index] = value
    assert torch.equal(z, expected)


def test_gradients_of_two_orders(native: str) -> None:
    for rank in (1, 2, 3):
        y, indices = pooled(rank, 2, 2, 0, torch.float64, "nchw")
        y, indices = y[:1, :2].clone().requires_grad_(), indices[:1, :2]
        call = lambda y, rank=rank, indices=indices: getattr(FC, f"max_unpool{rank}d")(y, indices, 2)  # noqa: E731
        assert torch.autograd.gradcheck(call, (y,))
        assert torch.autograd.gradgradcheck(call, (y,), fast_mode=True)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers(native: str, rank: int) -> None:
    y, indices = pooled(rank, 2, 2, 0, torch.float32, "nchw")
    ours, theirs = (getattr(module, f"MaxUnpool{rank}d")(2) for module in (fnn, torch.nn))
    assert torch.equal(ours(y, indices), theirs(y, indices))
    assert torch.equal(ours(y, indices, list(SIZES[:rank])), theirs(y, indices, list(SIZES[:rank])))
    assert type(fastconv.convert(theirs)) is type(ours)
    parameters = [inspect.signature(getattr(m, f"max_unpool{rank}d")).parameters for m in (FC, F)]
    assert [*parameters[0]] == [*parameters[1]]


def test_an_index_outside_the_channel() -> None:
    y, indices = pooled(2, 2, 2, 0, torch.float32, "nchw")
    indices[1, 2, 0, 1] = 10_000
    with pytest.raises(RuntimeError, match="indices"):
        FC.max_unpool2d(y, indices, 2)
    with fastconv.use_backend("emulator"), fastconv.use_kernel("native"):
        z = FC.max_unpool2d(y, indices, 2)  # written nowhere; the emulator checks every address
    expected = F.max_unpool2d(y, indices.clamp(max=63), 2)
    expected[1, 2, 7, 7] = z[1, 2, 7, 7]
    assert torch.equal(z, expected)


X, PLACES = torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.int64)
WRONG: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("input a number", "input", lambda m: m.max_unpool2d(3, PLACES, 2)),
    ("input of a dimension more", "input", lambda m: m.max_unpool2d(X[None], PLACES[None], 2)),
    ("indices of another dtype", "indices", lambda m: m.max_unpool2d(X, PLACES.float(), 2)),
    ("indices of another shape", "indices", lambda m: m.max_unpool2d(X, PLACES[:, :1], 2)),
    ("kernel_size a string", "kernel_size", lambda m: m.max_unpool2d(X, PLACES, "2")),
    ("output_size out of range", "output_size", lambda m: m.max_unpool2d(X, PLACES, 2, output_size=(4, 8))),
    ("output_size of one", "output_size", lambda m: m.max_unpool2d(X, PLACES, 2, output_size=(8,))),
    ("1d output_size out of range", "output_size", lambda m: m.max_unpool1d(X[0], PLACES[0], 2, output_size=(99,))),
]


@pytest.mark.parametrize(("argument", "call"), [pytest.param(a, c, id=name) for name, a, c in WRONG])
def test_errors(native: str, argument: str, call: Callable[[Any], Any]) -> None:
    with pytest.raises(Exception) as theirs:
        call(F)
    with pytest.raises(type(theirs.value), match=rf"^(max_unpool\dd: )?{argument}\b"):
        call(FC)


def test_plans_name_the_kernel(native: str) -> None:
    kernel = {"cpu": "direct", "emulator": "unpool"}[native]
    assert fastconv.plan("max_unpool2d", X, PLACES, 2).kernel == kernel
    assert fastconv.plan(FC.max_unpool2d, X, PLACES, kernel_size=2, pass_="dgrad").kernel == kernel
