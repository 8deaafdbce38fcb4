"""Convolutions and pooling against torch's: the shape suites, four dtypes, both layouts, on every backend;
forward, backward and double backward; then the forms an argument may take and the tensors that are not simple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from conftest import DTYPES, Target
from shapes import CONV_SUITES, POOL_SUITES, ConvCase, PoolCase
from torch.nn import functional as F

import fastconv
from fastconv import functional as FC
from fastconv import repeats, routes
from fastconv.testing import assert_close_to_float64, integer_tensor, random_tensor

Tensor = torch.Tensor
CONVOLUTIONS = [f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)]


def conv_call(case: ConvCase) -> tuple[str, dict[str, Any]] | None:
    """torch's function and keyword arguments for a suite's case, or None where it has none (other asymmetry)."""
    total = tuple(d * (f - 1) for d, f in zip(case.dilation, case.filter, strict=True))
    same = (tuple(t // 2 for t in total), tuple(t - t // 2 for t in total))
    padding: Any = case.padding_low
    if case.padding_low != case.padding_high:
        if (case.padding_low, case.padding_high) != same or set(case.stride) != {1}:
            return None
        padding = "same"
    options = {"stride": case.stride, "padding": padding, "dilation": case.dilation, "groups": case.groups}
    return f"conv{len(case.input)}d", options


def transposed_call(case: ConvCase) -> tuple[str, dict[str, Any]] | None:
    """torch's function and keyword arguments that make the case's input of its output, or None where it has none."""
    if case.padding_low != case.padding_high:
        return None
    axes = zip(case.input, case.padding_low, case.dilation, case.filter, case.stride, strict=True)
    extra = tuple((i + 2 * p - d * (f - 1) - 1) % s for i, p, d, f, s in axes)
    options = {"stride": case.stride, "padding": case.padding_low, "dilation": case.dilation, "groups": case.groups}
    return f"conv_transpose{len(case.input)}d", {**options, "output_padding": extra}


def pool_call(case: PoolCase) -> tuple[str, dict[str, Any]]:
    rank = len(case.input)
    if case.adaptive:
        return f"adaptive_{'max' if case.kind == 'max' else 'avg'}_pool{rank}d", {"output_size": case.adaptive}
    options = {"kernel_size": case.window, "stride": case.stride, "padding": case.padding, "ceil_mode": case.ceil_mode}
    if case.kind == "max":
        return f"max_pool{rank}d", {**options, "dilation": case.dilation}
    options["count_include_pad"] = case.count_include_pad
    return f"avg_pool{rank}d", options if rank == 1 else {**options, "divisor_override": case.divisor_override}


def conv_cases(call: Callable[[ConvCase], Any], *suites: str) -> list[Any]:
    """Cases that have a call, each in both layouts; one spatial axis has no channels_last."""
    return [
        pytest.param(case, layout, id=f"{case.name}-{layout}")
        for suite in suites
        for case in CONV_SUITES[suite]
        for layout in ("nchw", "nhwc")
        if call(case) and (layout == "nchw" or len(case.input) > 1)
    ]


def pool_cases(*suites: str) -> list[Any]:
    return [
        pytest.param(case, layout, id=f"{case.name}-{layout}")
        for suite in suites
        for case in POOL_SUITES[suite]
        for layout in ("nchw", "nhwc")
        if layout == "nchw" or len(case.input) > 1
    ]


def conv_tensors(
    case: ConvCase, dtype: torch.dtype, layout: str, device: torch.device, transposed: bool = False
) -> list[Tensor]:
    """x, w, b, gy, vx, vw; transposed, the case's output is the call's input."""
    options: dict[str, Any] = {"dtype": dtype, "channels_last": layout == "nhwc", "device": device}
    ends = [(case.n, case.c, *case.input), (case.n, case.k, *case.output)]
    x, y = reversed(ends) if transposed else ends
    w = (case.k, case.c // case.groups, *case.filter)
    return [random_tensor(shape, seed=i, **options) for i, shape in enumerate((x, w, y[1:2], y, x, w), 1)]


def conv_everything(module: Any, call: tuple[str, dict[str, Any]], tensors: list[Tensor]) -> dict[str, Tensor]:
    """The output, its three gradients, and the gradients of those."""
    x, w, b, gy, vx, vw = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    y = getattr(module, call[0])(x, w, b, **call[1])
    gx, gw, gb = torch.autograd.grad(y, (x, w, b), gy, create_graph=True)
    # d/d(x, w, gy) of <gx, vx> + <gw, vw>: each double-backward path once, with one product each.
    hx, hw, hgy = torch.autograd.grad((gx, gw), (x, w, gy), (vx, vw))
    return {"y": y, "gx": gx, "gw": gw, "gb": gb, "d gw/dx": hx, "d gx/dw": hw, "d (gx, gw)/dgy": hgy}


def conv_exactly(case: ConvCase, tensors: list[Tensor]) -> dict[str, Tensor]:
    """The same by the definition: the double backward is that of <gx, vx> + <gw, vw> = <gy, x * vw + vx * w>."""
    x, w, b, gy, vx, vw = tensors
    return {
        "y": oracle.fprop(case, x, w, b),
        "gx": oracle.dgrad(case, gy, w),
        "gw": oracle.wgrad(case, x, gy),
        "gb": oracle.bgrad(gy),
        "d gw/dx": oracle.dgrad(case, gy, vw),
        "d gx/dw": oracle.wgrad(case, vx, gy),
        "d (gx, gw)/dgy": oracle.fprop(case, vx, w) + oracle.fprop(case, x, vw),
    }


def transposed_exactly(case: ConvCase, tensors: list[Tensor]) -> dict[str, Tensor]:
    """The same of the transposed convolution: dgrad in fprop's place, and its operands in wgrad's."""
    x, w, b, gy, vx, vw = tensors
    return {
        "y": oracle.dgrad(case, x, w) + b.double().reshape(-1, *[1] * len(case.input)),
        "gx": oracle.fprop(case, gy, w),
        "gw": oracle.wgrad(case, gy, x),
        "gb": oracle.bgrad(gy),
        "d gw/dx": oracle.fprop(case, gy, vw),
        "d gx/dw": oracle.wgrad(case, gy, vx),
        "d (gx, gw)/dgy": oracle.dgrad(case, vx, w) + oracle.dgrad(case, x, vw),
    }


def check_conv(backend: Target, case: ConvCase, dtype: torch.dtype, layout: str, transposed: bool = False) -> None:
    call = transposed_call(case) if transposed else conv_call(case)
    tensors = conv_tensors(case, dtype, layout, backend.device, transposed)
    ours, theirs = (conv_everything(module, call, tensors) for module in (FC, F))
    exact = (transposed_exactly if transposed else conv_exactly)(case, [tensor.cpu() for tensor in tensors])
    for name, result in ours.items():
        assert_close_to_float64(result, theirs[name], exact[name], name)
    expected = theirs["y"].stride()
    if layout == "nhwc" and len(case.input) == 3 and backend.name != "aten":
        # torch's own CPU operators keep channels_last_3d in float32 alone.
        expected = torch.empty_like(ours["y"], memory_format=torch.channels_last_3d).stride()
    assert ours["y"].stride() == expected, "memory format"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "layout"), conv_cases(conv_call, "default"))
def test_conv(backend: Target, case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    check_conv(backend, case, dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "layout"), conv_cases(transposed_call, "default"))
def test_conv_transpose(backend: Target, case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    check_conv(backend, case, dtype, layout, transposed=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "layout"), conv_cases(conv_call, "rigorous", "network"))
def test_conv_rigorous(backend: Target, case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    check_conv(backend, case, dtype, layout)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "layout"), conv_cases(transposed_call, "rigorous", "network"))
def test_conv_transpose_rigorous(backend: Target, case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    check_conv(backend, case, dtype, layout, transposed=True)


def pool_everything(module: Any, case: PoolCase, x: Tensor, gy: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The output, its gradient, and the gradient of that."""
    function, options = pool_call(case)
    x, gy = x.detach().clone().requires_grad_(), gy.detach().clone().requires_grad_()
    y = getattr(module, function)(x, **options)
    (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
    (ggy,) = torch.autograd.grad(gx, gy, v)
    return {"y": y, "gx": gx, "ggy": ggy}


def check_pool(backend: Target, case: PoolCase, dtype: torch.dtype, layout: str) -> None:
    function, options = pool_call(case)
    shape, rank = (case.n, case.c, *case.input), len(case.input)
    placed: dict[str, Any] = {"dtype": dtype, "channels_last": layout == "nhwc", "device": backend.device}
    # For max-pooling few distinct values: windows with ties, where the first maximum must win.
    x = (integer_tensor if case.kind == "max" else random_tensor)(shape, seed=1, **placed)
    gy = random_tensor(getattr(F, function)(x.double(), **options).shape, seed=2, **placed)
    tensors = [x, gy, random_tensor(shape, seed=3, **placed)]
    exact = pool_everything(F, case, *(tensor.double() for tensor in tensors))
    if function == "avg_pool3d" and dtype.itemsize == 2 and backend.device.type == "cpu":
        theirs = {name: result.to(dtype) for name, result in exact.items()}  # torch 2.13 has none
        if backend.name == "aten":
            with pytest.raises(NotImplementedError):
                pool_everything(FC, case, *tensors)
            return
    else:
        theirs = pool_everything(F, case, *tensors)
    ours = pool_everything(FC, case, *tensors)
    for name, result in ours.items():
        assert_close_to_float64(result, theirs[name], exact[name], name)
    expected = theirs["y"].stride()
    if layout == "nhwc" and rank == 3 and backend.name != "aten":
        # torch's averages in three dimensions: not
        expected = torch.empty_like(ours["y"], memory_format=torch.channels_last_3d).stride()
    assert ours["y"].stride() == expected, "memory format"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "layout"), pool_cases("default"))
def test_pool(backend: Target, case: PoolCase, dtype: torch.dtype, layout: str) -> None:
    check_pool(backend, case, dtype, layout)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "layout"), pool_cases("rigorous", "network"))
def test_pool_rigorous(backend: Target, case: PoolCase, dtype: torch.dtype, layout: str) -> None:
    check_pool(backend, case, dtype, layout)


@pytest.mark.parametrize(("case", "layout"), [case for case in pool_cases("default") if case.values[0].kind == "max"])
@pytest.mark.parametrize("grad", [False, True])
def test_max_pool_indices(backend: Target, case: PoolCase, layout: str, grad: bool) -> None:
    name, options = pool_call(case)
    x = integer_tensor((case.n, case.c, *case.input), seed=1, channels_last=layout == "nhwc", device=backend.device)
    y, indices = getattr(FC, name)(x.requires_grad_(grad), **options, return_indices=True)
    y_torch, indices_torch = getattr(F, name)(x, **options, return_indices=True)
    assert torch.equal(y, y_torch) and torch.equal(indices, indices_torch)
    assert indices.dtype == torch.int64 and not indices.requires_grad and y.requires_grad == grad
    if grad:
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(y_torch.sum(), x)[0])


def test_max_pool2d_nan_and_infinities(backend: Target) -> None:
    x = integer_tensor((2, 3, 9, 8), seed=1, device=backend.device)
    x[0, 0, 2, 3], x[1, 2], x[1, 1, :4] = float("nan"), -float("inf"), float("inf")
    x[0, 1, 0, 0] = x[0, 1, 1, 1] = float("nan")
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}):
        ours = FC.max_pool2d(x, **options, return_indices=True)
        theirs = F.max_pool2d(x, **options, return_indices=True)
        assert torch.equal(ours[0].nan_to_num(nan=77.0), theirs[0].nan_to_num(nan=77.0))
        assert torch.equal(ours[1], theirs[1])


def test_max_pool2d_windows_that_hold_only_padding(backend: Target) -> None:
    """Far-apart taps can all miss a small input; torch's own backward would then write out of bounds."""
    x = integer_tensor((1, 2, 4, 4), seed=1, device=backend.device).requires_grad_()
    y = FC.max_pool2d(x, 2, padding=1, dilation=5)
    assert torch.equal(y, torch.full((1, 2, 1, 1), -float("inf"), device=backend.device))
    if backend.name != "aten":
        gy = torch.ones(3, *y.shape, device=backend.device)
        assert not torch.autograd.grad(y, x, gy, is_grads_batched=True, retain_graph=True)[0].any()
        assert not torch.autograd.grad(y.sum(), x)[0].any()


# ---- the forms of an argument ----
CONV_FORMS = [
    {},
    {"stride": 2},
    {"stride": (2, 1), "padding": [1, 0], "dilation": torch.Size([1, 2])},
    {"stride": np.int64(2), "padding": (np.int32(1), 2)},
    {"stride": [2], "padding": (1,)},
    {"stride": torch.tensor(2)},
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": "same", "dilation": (2, 3)},
]


@pytest.mark.parametrize("form", CONV_FORMS, ids=str)
@pytest.mark.parametrize("filter_size", [(3, 3), (2, 4)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_conv2d_argument_forms(backend: Target, form: dict[str, Any], filter_size: tuple[int, int]) -> None:
    x = integer_tensor((2, 3, 11, 10), seed=1, device=backend.device)
    w = integer_tensor((4, 3, *filter_size), seed=2, device=backend.device)
    for _ in range(2):  # the second call finds the plan of the first
        assert torch.equal(FC.conv2d(x, w, **form), F.conv2d(x, w, **form))


#: Of the other convolutions; an int, a tuple and a list of one, a tensor, the names of a padding.
OTHER_FORMS = [
    ("conv1d", {"stride": 2, "padding": (1,), "dilation": [2]}),
    ("conv1d", {"padding": "same", "dilation": torch.tensor(2)}),
    ("conv3d", {"stride": (1, 2, 1), "padding": [1, 0, 1], "dilation": torch.Size([1, 1, 2])}),
    ("conv3d", {"padding": "same", "dilation": (1, 2, 1)}),
    ("conv3d", {"padding": "valid", "stride": [2]}),
    ("conv_transpose1d", {"stride": 3, "output_padding": [2], "padding": np.int64(1)}),
    ("conv_transpose1d", {"dilation": 3, "output_padding": 1}),  # a whole stride: PyTorch's
    ("conv_transpose2d", {"stride": (2, 3), "output_padding": (0, 2), "dilation": torch.tensor(2)}),
    ("conv_transpose2d", {"stride": [2], "output_padding": torch.Size([1, 0]), "padding": (1,)}),
    ("conv_transpose3d", {"stride": (2, 1, 2), "output_padding": (1, 0, 1), "padding": 1}),
]


@pytest.mark.parametrize(("function", "form"), OTHER_FORMS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_argument_forms_of_the_other_convolutions(backend: Target, function: str, form: dict[str, Any]) -> None:
    x, w = conv_pair(function, backend.device)
    for _ in range(2):
        assert torch.equal(getattr(FC, function)(x, w, **form), getattr(F, function)(x, w, **form))


def conv_pair(function: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and w of a convolution of 3 channels to 3."""
    rank = int(function[-2])
    x = integer_tensor((2, 3, *(7, 6, 5)[:rank]), seed=1, device=device)
    return x, integer_tensor((3, 3, *(3, 2, 2)[:rank]), seed=2, device=device)


POOL_FORMS = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": None},
    {"kernel_size": [2, 3], "stride": [], "padding": (1, 0)},
    {"kernel_size": torch.Size([2, 2]), "stride": np.int64(1)},
    {"kernel_size": [3], "stride": (2,), "padding": np.int32(1), "ceil_mode": True},
]


@pytest.mark.parametrize("form", POOL_FORMS, ids=str)
@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d"])
def test_pool_argument_forms(backend: Target, function: str, form: dict[str, Any]) -> None:
    x = integer_tensor((2, 3, 11, 10), dtype=torch.float64, seed=1, device=backend.device)
    for _ in range(2):
        torch.testing.assert_close(getattr(FC, function)(x, **form), getattr(F, function)(x, **form))


# ---- tensors that are not simple ----
def views(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in memory arranged in every odd way."""
    n, c, *size = tensor.shape
    last = tensor.dim() - 1
    inner = [(1, 2), (2, last)][tensor.dim() > 3]  # two axes to swap
    bigger = torch.full((n + 1, c + 2, *size[:-1], 2 * size[-1]), 7.0, dtype=tensor.dtype, device=tensor.device)
    slice_ = bigger[1:, 1:-1, ..., ::2]
    slice_.copy_(tensor)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return {
        "contiguous": tensor,
        "channels_last": tensor.contiguous(memory_format=formats.get(tensor.dim(), torch.contiguous_format)),
        "slice of a bigger buffer": slice_,
        "transposed": tensor.transpose(*inner).contiguous().transpose(*inner),
        "batch innermost": tensor.movedim(0, -1).contiguous().movedim(-1, 0),
        "flipped view of a flip": tensor.flip(last).flip(last),
        "negated view": torch.complex(torch.zeros_like(tensor), -tensor).conj().imag,
    }


VIEWS = list(views(torch.zeros(1, 1, 1, 1)))
PAIRS = [("conv2d", a, b) for a in VIEWS for b in VIEWS]
PAIRS += [(name, a, b) for name in ("conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
          for a, b in zip(VIEWS, VIEWS[2:] + VIEWS[:2], strict=True)]  # fmt: skip


@pytest.mark.parametrize(("function", "x_view", "w_view"), PAIRS)
def test_conv_of_views(native: Target, function: str, x_view: str, w_view: str) -> None:
    x, w = conv_pair(function, native.device)
    leaves = [tensor.detach().requires_grad_() for tensor in (views(x)[x_view], views(w)[w_view])]
    ours, theirs = (getattr(module, function)(*leaves, padding=1) for module in (FC, F))
    assert torch.equal(ours, theirs)
    # torch looks for channels_last in a weight of one spatial axis, too; nothing says so, and here nothing does.
    assert ours.stride() == theirs.stride() or (x.dim() == 3 and ours.is_contiguous())
    gy = views(integer_tensor(tuple(ours.shape), seed=3, device=native.device))[x_view]
    for mine, torchs in zip(*(torch.autograd.grad(y, leaves, gy) for y in (ours, theirs)), strict=True):
        assert torch.equal(mine, torchs)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d"])
def test_pool2d_of_views(native: Target, function: str, view: str) -> None:
    x = views(integer_tensor((2, 3, 7, 6), seed=1, device=native.device))[view].detach().requires_grad_()
    ours, theirs = getattr(FC, function)(x, 2), getattr(F, function)(x, 2)
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
    gy = views(integer_tensor(tuple(ours.shape), seed=3, device=native.device))[view]
    assert torch.equal(torch.autograd.grad(ours, x, gy)[0], torch.autograd.grad(theirs, x, gy)[0])


def test_expanded_operands(native: Target) -> None:
    x = integer_tensor((1, 1, 7, 6), seed=1, device=native.device).expand(3, 2, 7, 6)
    w = integer_tensor((1, 2, 1, 1), seed=2, device=native.device).expand(5, 2, 3, 3)
    bias = torch.tensor([2.0], device=native.device).expand(5)
    assert torch.equal(FC.conv2d(x, w, bias), F.conv2d(x, w, bias))
    w = w.transpose(0, 1)
    assert torch.equal(FC.conv_transpose2d(x, w, bias), F.conv_transpose2d(x, w, bias))
    assert torch.equal(FC.max_pool2d(x, 2), F.max_pool2d(x, 2))
    assert torch.equal(FC.avg_pool2d(x, 2), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("function", CONVOLUTIONS)
def test_unbatched(native: Target, grad: bool, function: str) -> None:
    x, w = conv_pair(function, native.device)
    x = x[0].requires_grad_(grad)
    for _ in range(2):
        ours, theirs = (getattr(module, function)(x, w, padding=1) for module in (FC, F))
        assert torch.equal(ours, theirs) and ours.requires_grad == grad
    if grad:
        assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)))


@pytest.mark.parametrize("grad", [False, True])
def test_unbatched_pooling(native: Target, grad: bool) -> None:
    x = integer_tensor((3, 7, 6), seed=1, device=native.device).requires_grad_(grad)
    assert torch.equal(FC.avg_pool2d(x, 2), F.avg_pool2d(x, 2))
    for ours, theirs in zip(
        FC.max_pool2d(x, 2, return_indices=True), F.max_pool2d(x, 2, return_indices=True), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("function", CONVOLUTIONS)
def test_without_elements(backend: Target, function: str, batch: bool) -> None:
    """No samples, or no channels (which a transposed convolution does not take)."""
    x, w = conv_pair(function, backend.device)
    x, w = (x[:0], w) if batch else (x[:, :0], w[:, :0])
    if "transpose" in function and not batch:
        for module in (FC, F):
            with pytest.raises(RuntimeError):
                getattr(module, function)(x, w.transpose(0, 1))
        return
    operands = [each.clone().requires_grad_() for each in (x, w, torch.ones(3, device=backend.device))]
    results = []
    for module in (FC, F):
        y = getattr(module, function)(*operands, padding=1)
        results.append([y, *torch.autograd.grad(y.sum(), operands)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs) and ours.shape == theirs.shape


def test_pooling_without_samples(backend: Target) -> None:
    x = torch.zeros(0, 3, 7, 6, device=backend.device, requires_grad=True)
    for function in ("max_pool2d", "avg_pool2d"):
        y = getattr(FC, function)(x, 2)
        assert y.shape == (0, 3, 3, 3)
        assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.complex128], ids=str)
def test_dtypes_without_kernels_go_to_torch(dtype: torch.dtype) -> None:
    for function in CONVOLUTIONS if dtype.is_complex else CONVOLUTIONS[:3]:  # PyTorch transposes no integers
        x, w = (each.to(dtype) for each in conv_pair(function, torch.device("cpu")))
        assert torch.equal(getattr(FC, function)(x, w), getattr(F, function)(x, w))
        plan = fastconv.plan(function, x, w)
        assert plan.is_aten and str(dtype) in plan.explain() and function in plan.explain()


def test_results_share_no_memory_with_operands(native: Target) -> None:
    x = integer_tensor((1, 1, 5, 5), seed=1, device=native.device)
    w = torch.ones(1, 1, 1, 1, device=native.device)
    y = FC.conv2d(x, w)
    y.zero_()
    assert x.abs().sum() > 0


def test_routes_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_ROUTES", 8)
    monkeypatch.setattr(repeats, "MOST_KEYS", 8)
    for size in range(3, 30):
        FC.conv2d(torch.zeros(1, 1, size, 3), torch.zeros(1, 1, 3, 3))
    assert len(routes.routes) <= 8 and len(repeats.known) <= 8
    w = torch.zeros(1, 1, 3, 3)
    for size in range(3, 30):
        FC.conv2d(torch.zeros(1, 1, size, 3), w)
    assert max(map(len, repeats.known.values())) <= repeats.MOST_OF_A_KEY
