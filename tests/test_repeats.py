"""A repeated call is served from memory only if it is like the one before in everything that matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Target
from torch.nn import functional as F

import fastconv
from fastconv import functional as FC
from fastconv import repeats
from fastconv.testing import integer_tensor

Tensor = torch.Tensor


@pytest.fixture(params=[True, False], ids=["guards", "no guards"])
def guards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With torch's guards, and as on a torch that has none."""
    if request.param and not repeats._usable:
        pytest.skip("this torch has no TensorGuards that act as expected")
    monkeypatch.setattr(repeats, "_usable", request.param)
    repeats.known.clear()
    return request.param


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "the same": lambda t: t,
    "shape": lambda t: torch.cat([t, t]),
    "strides": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "negative view": torch._neg_view,
    "requires_grad": lambda t: t.clone().requires_grad_(),
    "parameter": lambda t: torch.nn.Parameter(t.clone()),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "unbatched": lambda t: t[0],
    "double": lambda t: t.double(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("operand", [0, 1])
def test_a_changed_operand(native: Target, guards: bool, change: str, operand: int) -> None:
    tensors = [integer_tensor((4, 4, 5, 5), seed=seed, device=native.device) for seed in (1, 2)]
    for _ in range(3):
        FC.conv2d(*tensors, padding=1)
    assert bool(repeats.known) == guards
    tensors[operand] = CHANGES[change](tensors[operand])
    try:
        expected = F.conv2d(*tensors, padding=1)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            FC.conv2d(*tensors, padding=1)
        return
    found = FC.conv2d(*tensors, padding=1)
    assert torch.equal(found, expected) and found.requires_grad == expected.requires_grad
    assert found.stride() == expected.stride()


def test_a_parameter_changed_in_place(native: Target, guards: bool) -> None:
    """The same Python object with other memory, shape or dtype."""
    x = integer_tensor((2, 4, 5, 5), seed=1, device=native.device)
    w = torch.nn.Parameter(integer_tensor((4, 4, 3, 3), seed=2, device=native.device))
    for data in (w.data, w.data + 1, w.data[:2], w.data[..., :2].contiguous(), w.data.transpose(2, 3), w.data.double()):
        w.data = data
        like = x.to(data.dtype)
        for _ in range(2):
            assert torch.equal(FC.conv2d(like, w), F.conv2d(like, w))


def test_arguments_that_change_in_place(native: Target, guards: bool) -> None:
    """A list or a tensor is the same object with another value."""
    x = integer_tensor((2, 4, 9, 9), seed=1, device=native.device)
    w = integer_tensor((4, 4, 3, 3), seed=2, device=native.device)
    sizes, number = [1, 1], torch.tensor(1)
    for step in (1, 2, 3):
        sizes[1] = step
        number.fill_(step)
        for _ in range(2):
            for stride in (sizes, number, (1, number)):
                assert torch.equal(FC.conv2d(x, w, stride=stride), F.conv2d(x, w, stride=stride))
            for function in ("max_pool2d", "avg_pool2d"):
                ours, theirs = getattr(FC, function)(x, 2, sizes), getattr(F, function)(x, 2, sizes)
                torch.testing.assert_close(ours, theirs)
    with fastconv.use_kernel("aten"):
        sizes = [1, 1]
        FC.conv2d(x, w, stride=sizes)
        sizes[0] = 2
        assert FC.conv2d(x, w, stride=[1, 1]).shape == (2, 4, 7, 7)


def test_settings_modes_and_threads(native: Target, guards: bool) -> None:
    x = integer_tensor((2, 4, 5, 5), seed=1, device=native.device)
    w = torch.nn.Parameter(integer_tensor((4, 4, 3, 3), seed=2, device=native.device))
    for _ in range(2):
        y = FC.conv2d(x, w)
        assert y.requires_grad and "ConvFprop" in type(y.grad_fn).__name__
        with torch.no_grad():
            assert not FC.conv2d(x, w).requires_grad
        with torch.inference_mode():
            assert FC.conv2d(x, w).is_inference()
        with torch.autocast(native.device.type, dtype=torch.bfloat16):
            for _ in range(2):
                cast = FC.conv2d(x, w)
                assert cast.dtype == torch.bfloat16
                torch.testing.assert_close(cast.float(), y, rtol=1e-2, atol=0.5)
        with fastconv.use_kernel("aten"):
            assert "ConvFprop" not in type(FC.conv2d(x, w).grad_fn).__name__
        torch.set_num_threads(2)
        assert torch.equal(FC.conv2d(x, w), y)
        torch.set_num_threads(1)


def test_functions_are_told_apart(native: Target, guards: bool) -> None:
    """Calls of equal arguments on the same operands, of which one is an error."""
    x = integer_tensor((2, 3, 9), seed=1, device=native.device)
    w = integer_tensor((3, 3, 3), seed=2, device=native.device)
    for _ in range(2):
        assert torch.equal(FC.conv1d(x, w), F.conv1d(x, w))
        assert torch.equal(FC.conv_transpose1d(x, w), F.conv_transpose1d(x, w))
        for function in (FC.conv2d, FC.conv_transpose2d):
            with pytest.raises(RuntimeError, match="weight"):
                function(x, w)


def test_transposed_convolution(native: Target, guards: bool) -> None:
    x = integer_tensor((2, 4, 5, 5), seed=1, device=native.device)
    w, b = (integer_tensor(shape, seed=2, device=native.device) for shape in ((4, 2, 3, 3), (4,)))
    calls = [{}, {"stride": 2}, {"stride": 2, "output_padding": 1}, {"padding": 1}, {"dilation": 2}, {"bias": b[:2]}]
    for tensor in (x, x.requires_grad_(), x[:1], x.detach().contiguous(memory_format=torch.channels_last)):
        for _ in range(2):
            for options in (*calls, {"groups": 2}, {"groups": 2, "bias": b}):
                ours, theirs = (m.conv_transpose2d(tensor, w, **options) for m in (FC, F))
                assert torch.equal(ours, theirs) and ours.requires_grad == theirs.requires_grad


def test_pooling(native: Target, guards: bool) -> None:
    x = integer_tensor((2, 4, 8, 8), seed=1, device=native.device)
    for tensor in (x, x.requires_grad_(), x[:1], x[..., ::2], x.detach().contiguous(memory_format=torch.channels_last)):
        for _ in range(2):
            for options in ({}, {"stride": 1}, {"padding": 1}, {"ceil_mode": True}):
                for function in ("max_pool2d", "avg_pool2d"):
                    ours = getattr(FC, function)(tensor, 3, **options)
                    theirs = getattr(F, function)(tensor, 3, **options)
                    torch.testing.assert_close(ours, theirs)
                    assert ours.requires_grad == theirs.requires_grad
                indices = FC.max_pool2d(tensor, 3, **options, return_indices=True)[1]
                assert torch.equal(indices, F.max_pool2d(tensor, 3, **options, return_indices=True)[1])
