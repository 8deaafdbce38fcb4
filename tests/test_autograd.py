"""Gradients of every order, what a backward computes and keeps, and the ways of calling it: in batches, again, without
gradients, under autocast. Transforms and tracers: test_transforms.py.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Target
from torch.nn import functional as F

import fastconv
from fastconv import functional as FC
from fastconv import repeats, routes
from fastconv.convolution import Convolution
from fastconv.testing import integer_tensor, random_tensor

Tensor = torch.Tensor
Call = Callable[..., Tensor]
EXACT = torch.float64

GEOMETRIES: list[tuple[str, dict[str, Any]]] = [
    ("conv2d", {"padding": 1}),
    ("conv2d", {"stride": 2, "padding": (1, 0), "dilation": (1, 2)}),
    ("conv2d", {"padding": "same", "groups": 2}),
    ("conv1d", {"padding": "same"}),
    ("conv1d", {"stride": 2, "groups": 2}),
    ("conv3d", {"padding": 1, "stride": (1, 2, 1)}),
    ("conv3d", {"stride": (2, 3, 2), "groups": 2}),
    ("conv_transpose1d", {"stride": 3, "padding": 1, "output_padding": 2}),
    ("conv_transpose2d", {"padding": 1, "groups": 2}),
    ("conv_transpose2d", {"stride": 2, "dilation": (1, 2), "output_padding": (1, 0)}),
    ("conv_transpose2d", {"dilation": 2, "output_padding": 1}),  # more than the stride: PyTorch's
    ("conv_transpose3d", {"stride": (1, 2, 2), "padding": (1, 0, 1)}),
]
POOLINGS: list[tuple[str, dict[str, Any]]] = [
    ("max_pool2d", {"kernel_size": 2}),
    ("max_pool2d", {"kernel_size": (3, 2), "stride": (1, 2), "padding": 1, "ceil_mode": True}),
    ("max_pool1d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool3d", {"kernel_size": 2, "stride": (1, 2, 2), "ceil_mode": True}),
    ("avg_pool1d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ("avg_pool3d", {"kernel_size": (1, 2, 2), "stride": 1, "divisor_override": 3}),
    ("avg_pool2d", {"kernel_size": 2}),
    ("avg_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    ("adaptive_avg_pool1d", {"output_size": 4}),
    ("adaptive_avg_pool2d", {"output_size": 1}),
    ("adaptive_avg_pool2d", {"output_size": (4, 7)}),
    ("adaptive_avg_pool3d", {"output_size": (4, None, 2)}),
    ("adaptive_max_pool1d", {"output_size": 4}),
    ("adaptive_max_pool2d", {"output_size": (4, 2)}),
    ("adaptive_max_pool3d", {"output_size": 2}),
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # torch's own forward-mode rules use it
]


def leaves(
    device: torch.device, dtype: torch.dtype = torch.float64, groups: int = 1, function: str = "conv2d"
) -> tuple[Tensor, Tensor, Tensor]:
    """x, w and bias of a convolution of 2 channels to 4; small, for the emulator."""
    rank, transposed = int(function[-2]), "transpose" in function
    size, window = ((3, 3, 2) if transposed or rank == 3 else (5, 4)), ((3, 2) if rank < 3 else (2, 2, 2))
    channels = (2, 4 // groups) if transposed else (4, 2 // groups)
    x = random_tensor((1, 2, *size[:rank]), dtype, seed=1, device=device).requires_grad_()
    w = random_tensor((*channels, *window[:rank]), dtype, seed=2, device=device).requires_grad_()
    return x, w, random_tensor((4,), dtype, seed=3, device=device).requires_grad_()


def pooled_input(function: str, device: torch.device) -> Tensor:
    shape = (2, 2, *(6, 5, 3)[: int(function[-2])])
    return random_tensor(shape, torch.float64, seed=4, device=device).requires_grad_()


# ---- gradcheck ----
@pytest.mark.parametrize(("function", "geometry"), GEOMETRIES, ids=str)
def test_gradcheck_conv(backend: Target, function: str, geometry: dict[str, Any]) -> None:
    tensors = leaves(backend.device, groups=geometry.get("groups", 1), function=function)
    call = lambda x, w, b: getattr(FC, function)(x, w, b, **geometry)  # noqa: E731
    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize(("function", "options"), POOLINGS, ids=str)
def test_gradcheck_pooling(backend: Target, function: str, options: dict[str, Any]) -> None:
    x = pooled_input(function, backend.device)
    call = lambda x: getattr(FC, function)(x, **options)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,), fast_mode=True)


def third_order(conv: Call, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of gradients of gradients, through a nonlinearity so that none vanishes."""
    total = conv(*tensors, padding=1).tanh().sum()
    results = []
    for _ in range(3):
        gradients = torch.autograd.grad(total, tensors, create_graph=True)
        total = sum((gradient * gradient).sum() for gradient in gradients)
        results += gradients
    return results


@pytest.mark.parametrize("function", ["conv2d", "conv3d", "conv_transpose2d"])
def test_third_order(backend: Target, function: str) -> None:
    tensors = leaves(backend.device, function=function)
    results = (third_order(getattr(module, function), tensors) for module in (FC, F))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("function", "geometry"), GEOMETRIES, ids=str)
def test_adjointness(native: Target, function: str, geometry: dict[str, Any]) -> None:
    """<conv(x, w), g> = <x, its gradient> = <w, its gradient>, exactly: integers in float64."""
    shapes = [tensor.shape for tensor in leaves(native.device, groups=geometry.get("groups", 1), function=function)]
    x, w = (integer_tensor(shape, EXACT, seed=i, device=native.device) for i, shape in enumerate(shapes[:2], 1))
    y = getattr(FC, function)(x.requires_grad_(), w.requires_grad_(), **geometry)
    g = integer_tensor(tuple(y.shape), EXACT, seed=3, device=native.device)
    gx, gw = torch.autograd.grad(y, (x, w), g)
    products = [float((a.detach() * b).sum()) for a, b in ((y, g), (x, gx), (w, gw))]
    assert products[0] == products[1] == products[2] != 0


@pytest.mark.parametrize(("function", "options"), [each for each in POOLINGS if "avg" in each[0]], ids=str)
def test_adjointness_of_average_pooling(native: Target, function: str, options: dict[str, Any]) -> None:
    x = pooled_input(function, native.device)
    y = getattr(FC, function)(x, **options)
    g = random_tensor(tuple(y.shape), torch.float64, seed=2, device=native.device)
    (gx,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close((y * g).sum(), (x * gx).sum(), rtol=1e-12, atol=1e-12)


# ---- only what is asked for ----
@pytest.mark.parametrize("function", ["conv2d", "conv3d", "conv_transpose2d"])
@pytest.mark.parametrize("wanted", range(1, 8), ids=lambda wanted: f"{wanted:03b}")
def test_computes_only_what_is_asked_for(
    native: Target, wanted: int, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    bind = Convolution._bind

    def noted(self: Convolution, pass_: str, *rest: Any) -> Callable[..., Tensor]:
        run = bind(self, pass_, *rest)
        return lambda *operands: (done.append(pass_), run(*operands))[1]

    monkeypatch.setattr(Convolution, "_bind", noted)
    for memory in (routes.routes, repeats.known):  # what was bound before
        memory.clear()
    made = leaves(native.device, function=function)
    tensors = [t.detach().requires_grad_(bool(wanted >> bit & 1)) for bit, t in enumerate(made)]
    getattr(FC, function)(*tensors).sum().backward()
    names = ("fprop" if "transpose" in function else "dgrad", "wgrad", "bgrad")
    assert sorted(done) == sorted(name for bit, name in enumerate(names) if wanted >> bit & 1)
    reference = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    getattr(F, function)(*reference).sum().backward()
    for ours, theirs in zip(tensors, reference, strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes that a forward keeps for its backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(kept.values())


def test_max_pool_keeps_one_byte_an_output(native: Target) -> None:
    x = random_tensor((2, 3, 8, 8), seed=1, device=native.device).requires_grad_()
    assert saved_bytes(lambda: FC.max_pool2d(x, 2)) == 2 * 3 * 4 * 4
    assert saved_bytes(lambda: F.max_pool2d(x, 2)) > 2 * 3 * 8 * 8 * 4


def test_average_pool_keeps_nothing(native: Target) -> None:
    x = random_tensor((2, 3, 8, 8), seed=1, device=native.device).requires_grad_()
    assert saved_bytes(lambda: FC.avg_pool2d(x, 2)) == 0


@pytest.mark.parametrize("function", ["conv2d", "conv_transpose2d"])
def test_conv_keeps_an_operand_only_for_the_other(native: Target, function: str) -> None:
    conv = getattr(FC, function)
    x, w, b = (t.detach() for t in leaves(native.device, torch.float32, function=function))
    assert saved_bytes(lambda: conv(x, w, b.requires_grad_())) == 0
    assert saved_bytes(lambda: conv(x, w.requires_grad_(), b)) == x.numel() * 4
    assert saved_bytes(lambda: conv(x.requires_grad_(), w.detach(), b)) == w.numel() * 4


@pytest.mark.parametrize("channels_last", [False, True])
def test_saved_tensors_may_come_back_with_other_strides(native: Target, channels_last: bool) -> None:
    x = random_tensor((2, 2, 9, 8), seed=1, channels_last=channels_last, device=native.device).requires_grad_()
    w = random_tensor((3, 2, 3, 3), seed=2, channels_last=channels_last, device=native.device).requires_grad_()
    results = []
    for module in (FC, F):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous(), lambda t: t):
            y = module.max_pool2d(module.conv2d(x, w), 2)
        results.append(torch.autograd.grad(y.square().sum(), (x, w)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_reference_cycles(native: Target) -> None:
    x, w, b = leaves(native.device, torch.float32)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            FC.max_pool2d(FC.conv2d(x, w, b), 2).sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()


# ---- the ways of calling backward ----
def test_retain_graph_accumulates(native: Target) -> None:
    x, w, b = leaves(native.device)
    y = FC.conv2d(x, w, b).sum()
    y.backward(retain_graph=True)
    once = w.grad.clone()
    y.backward()
    torch.testing.assert_close(w.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_in_place_change_of_a_saved_operand_is_detected(native: Target) -> None:
    x, w, b = leaves(native.device)
    y = FC.conv2d(x, w, b)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(native: Target, mode: Any) -> None:
    x, w, b = leaves(native.device, torch.float32)
    with mode():
        y = FC.max_pool2d(FC.conv2d(x, w, b), 2)
        assert not y.requires_grad and y.grad_fn is None
        torch.testing.assert_close(y, F.max_pool2d(F.conv2d(x, w, b), 2))
        assert y.is_inference() == (mode is torch.inference_mode)


def test_checkpoint(native: Target) -> None:
    from torch.utils.checkpoint import checkpoint

    tensors = leaves(native.device)
    block = lambda x, w, b: FC.max_pool2d(FC.conv2d(x, w, b).tanh(), 2)  # noqa: E731
    plain = torch.autograd.grad(block(*tensors).sum(), tensors)
    again = torch.autograd.grad(checkpoint(block, *tensors, use_reentrant=False).sum(), tensors)
    for ours, theirs in zip(again, plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("function", ["conv1d", "conv2d", "conv3d", "conv_transpose2d"])
def test_batched_backward(native: Target, function: str) -> None:
    """torch.autograd.grad(is_grads_batched=True) hands the backward a tensor without memory."""
    tensors = leaves(native.device, function=function)
    results = []
    for module in (FC, F):
        y = getattr(module, function)(*tensors)
        gys = random_tensor((3, *y.shape), torch.float64, seed=5, device=native.device)
        results.append(torch.autograd.grad(y, tensors, gys, is_grads_batched=True))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("function", "options"), POOLINGS, ids=str)
def test_batched_backward_of_pooling(native: Target, function: str, options: dict[str, Any]) -> None:
    x = pooled_input(function, native.device)
    results = []
    for module in (FC, F):
        y = getattr(module, function)(x, **options)
        gys = random_tensor((3, *y.shape), torch.float64, seed=5, device=native.device)
        results.append(torch.autograd.grad(y, x, gys, is_grads_batched=True)[0])
    torch.testing.assert_close(*results)


def test_backward_uses_the_settings_of_its_forward(native: Target) -> None:
    x, w, b = leaves(native.device, torch.float32)
    y = FC.conv2d(x, w, b)
    conv = y.grad_fn.conv
    with fastconv.use_kernel("aten"):
        y.sum().backward()
    assert not conv.plan("dgrad").is_aten and not conv.plan("wgrad").is_aten


# ---- autocast ----
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 3, (torch.float16,) * 3, (torch.float64,) * 3,
                                    (torch.bfloat16, torch.float32, torch.float32)], ids=str)  # fmt: skip
@pytest.mark.parametrize("function", ["conv1d", "conv2d", "conv3d", "conv_transpose2d"])
def test_autocast(native: Target, dtypes: tuple[torch.dtype, ...], function: str) -> None:
    made = leaves(native.device, function=function)
    x, w, b = (t.detach().to(dtype).requires_grad_() for t, dtype in zip(made, dtypes, strict=True))
    results = []
    for module in (FC, F):
        with torch.autocast(native.device.type, dtype=torch.bfloat16):
            y = getattr(module, function)(x, w, b)
            pooled = (module.avg_pool2d(x, 2), module.max_pool2d(x, 2)) if x.dim() == 4 else ()
        results.append([y, *pooled, *torch.autograd.grad(y.float().sum(), (x, w, b))])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "function",
    ["max_pool1d", "max_pool3d", "avg_pool1d", "avg_pool3d", "adaptive_avg_pool2d", "adaptive_max_pool3d"],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_autocast_of_pooling(native: Target, function: str, dtype: torch.dtype) -> None:
    """On the CPU it runs pooling in three dimensions in float32."""
    x = pooled_input(function, native.device).detach().to(dtype).requires_grad_()
    results = []
    for module in (FC, F):
        with torch.autocast(native.device.type, dtype=torch.bfloat16):
            for _ in range(2):
                y = getattr(module, function)(x, 2)
        results.append((y, torch.autograd.grad(y.sum(), x)[0]))
    assert results[0][0].dtype == results[1][0].dtype
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
