"""Gradients of every order, what a backward computes and keeps, and every way torch has of running code differently:
autocast, inference mode, functorch transforms, forward-mode AD, batched backwards, tracing, compiling, fake tensors.
"""

from __future__ import annotations

import gc
import io
import logging
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

GEOMETRIES = [
    {"padding": 1},
    {"stride": 2, "padding": (1, 0), "dilation": (1, 2)},
    {"padding": "same", "groups": 2},
]
POOLINGS: list[tuple[str, dict[str, Any]]] = [
    ("max_pool2d", {"kernel_size": 2}),
    ("max_pool2d", {"kernel_size": (3, 2), "stride": (1, 2), "padding": 1, "ceil_mode": True}),
    ("avg_pool2d", {"kernel_size": 2}),
    ("avg_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # torch's own forward-mode rules use it
]


def leaves(device: torch.device, dtype: torch.dtype = torch.float64, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    x = random_tensor((1, 2, 5, 4), dtype, seed=1, device=device).requires_grad_()
    w = random_tensor((4, 2 // groups, 3, 2), dtype, seed=2, device=device).requires_grad_()
    return x, w, random_tensor((4,), dtype, seed=3, device=device).requires_grad_()


# ---- gradcheck ----
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_gradcheck_conv2d(backend: Target, geometry: dict[str, Any]) -> None:
    tensors = leaves(backend.device, groups=geometry.get("groups", 1))
    call = lambda x, w, b: FC.conv2d(x, w, b, **geometry)  # noqa: E731
    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize(("function", "options"), POOLINGS, ids=str)
def test_gradcheck_pooling(backend: Target, function: str, options: dict[str, Any]) -> None:
    x = random_tensor((2, 2, 6, 5), torch.float64, seed=4, device=backend.device).requires_grad_()
    call = lambda x: getattr(FC, function)(x, **options)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,), fast_mode=True)


def third_order(conv2d: Call, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of gradients of gradients, through a nonlinearity so that none vanishes."""
    total = conv2d(*tensors, padding=1).tanh().sum()
    results = []
    for _ in range(3):
        gradients = torch.autograd.grad(total, tensors, create_graph=True)
        total = sum((gradient * gradient).sum() for gradient in gradients)
        results += gradients
    return results


def test_third_order(backend: Target) -> None:
    tensors = leaves(backend.device)
    for ours, theirs in zip(third_order(FC.conv2d, tensors), third_order(F.conv2d, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_adjointness(native: Target, geometry: dict[str, Any]) -> None:
    """<conv(x, w), g> = <x, dgrad(g, w)> = <w, wgrad(x, g)>, exactly: integers in float64."""
    x = integer_tensor((2, 4, 9, 8), torch.float64, seed=1, device=native.device).requires_grad_()
    w = integer_tensor((6, 4 // geometry.get("groups", 1), 3, 2), torch.float64, seed=2, device=native.device)
    w.requires_grad_()
    y = FC.conv2d(x, w, **geometry)
    g = integer_tensor(tuple(y.shape), torch.float64, seed=3, device=native.device)
    gx, gw = torch.autograd.grad(y, (x, w), g)
    products = [float((a.detach() * b).sum()) for a, b in ((y, g), (x, gx), (w, gw))]
    assert products[0] == products[1] == products[2] != 0


@pytest.mark.parametrize(("function", "options"), POOLINGS[2:], ids=str)
def test_adjointness_of_average_pooling(native: Target, function: str, options: dict[str, Any]) -> None:
    x = random_tensor((2, 3, 9, 8), torch.float64, seed=1, device=native.device).requires_grad_()
    y = getattr(FC, function)(x, **options)
    g = random_tensor(tuple(y.shape), torch.float64, seed=2, device=native.device)
    (gx,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close((y * g).sum(), (x * gx).sum(), rtol=1e-12, atol=1e-12)


# ---- only what is asked for ----
@pytest.mark.parametrize("wanted", range(1, 8), ids=lambda wanted: f"{wanted:03b}")
def test_computes_only_what_is_asked_for(native: Target, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    bind = Convolution._bind

    def noted(self: Convolution, pass_: str, *rest: Any) -> Callable[..., Tensor]:
        run = bind(self, pass_, *rest)
        return lambda *operands: (done.append(pass_), run(*operands))[1]

    monkeypatch.setattr(Convolution, "_bind", noted)
    for memory in (routes.routes, repeats.known):  # what was bound before
        memory.clear()
    tensors = [t.detach().requires_grad_(bool(wanted >> bit & 1)) for bit, t in enumerate(leaves(native.device))]
    FC.conv2d(*tensors).sum().backward()
    names = ("dgrad", "wgrad", "bgrad")
    assert sorted(done) == sorted(name for bit, name in enumerate(names) if wanted >> bit & 1)
    reference = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    F.conv2d(*reference).sum().backward()
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


def test_conv_keeps_an_operand_only_for_the_other(native: Target) -> None:
    x, w, b = (t.detach() for t in leaves(native.device, torch.float32))
    assert saved_bytes(lambda: FC.conv2d(x, w, b.requires_grad_())) == 0
    assert saved_bytes(lambda: FC.conv2d(x, w.requires_grad_(), b)) == x.numel() * 4
    assert saved_bytes(lambda: FC.conv2d(x.requires_grad_(), w.detach(), b)) == w.numel() * 4


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


def test_batched_backward(native: Target) -> None:
    """torch.autograd.grad(is_grads_batched=True) hands the backward a tensor without memory."""
    x, w, b = leaves(native.device)
    gys = random_tensor((3, 1, 4, 3, 3), torch.float64, seed=5, device=native.device)
    results = []
    for module in (FC, F):
        y = module.conv2d(x, w, b)
        results.append(torch.autograd.grad(y, (x, w, b), gys, is_grads_batched=True))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("function", "options"), POOLINGS, ids=str)
def test_batched_backward_of_pooling(native: Target, function: str, options: dict[str, Any]) -> None:
    x = random_tensor((2, 2, 6, 5), torch.float64, seed=4, device=native.device).requires_grad_()
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
def test_autocast(native: Target, dtypes: tuple[torch.dtype, ...]) -> None:
    x, w, b = (t.detach().to(dtype).requires_grad_() for t, dtype in zip(leaves(native.device), dtypes, strict=True))
    results = []
    for module in (FC, F):
        with torch.autocast(native.device.type, dtype=torch.bfloat16):
            y = module.conv2d(x, w, b)
            pooled = module.avg_pool2d(x, 2), module.max_pool2d(x, 2)
        results.append([y, *pooled, *torch.autograd.grad(y.float().sum(), (x, w, b))])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


# ---- transforms and tracers: torch's operators take over, and the result is right ----
X, W = random_tensor((2, 2, 6, 5), seed=1), random_tensor((3, 2, 3, 3), seed=2)


def both(call: Callable[[Any], Any]) -> None:
    torch.testing.assert_close(call(FC), call(F))


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad": lambda m: torch.func.grad(lambda w: m.conv2d(X, w).sin().sum())(W),
    "vmap": lambda m: torch.func.vmap(lambda x: m.conv2d(x, W))(X.expand(3, *X.shape)),
    "vmap over weights": lambda m: torch.func.vmap(lambda w: m.conv2d(X, w))(torch.stack([W, 2 * W])),
    "jvp": lambda m: torch.func.jvp(lambda x: m.conv2d(x, W), (X,), (X,)),
    "jacrev": lambda m: torch.func.jacrev(lambda w: m.conv2d(X, w).sum((0, 2, 3)))(W),
    "hessian": lambda m: torch.func.hessian(lambda s: m.conv2d(X * s, W).tanh().sum())(torch.tensor(0.5)),
    "max_pool grad": lambda m: torch.func.grad(lambda x: m.max_pool2d(x, 2).sin().sum())(X),
    "max_pool vmap": lambda m: torch.func.vmap(lambda x: m.max_pool2d(x, 2))(X.expand(3, *X.shape)),
    "avg_pool jvp": lambda m: torch.func.jvp(lambda x: m.avg_pool2d(x, 2), (X,), (X,)),
    "functionalize": lambda m: torch.func.functionalize(lambda x: m.conv2d(x, W))(X),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    both(TRANSFORMS[name])


def test_per_sample_gradients() -> None:
    def loss(module: Any, w: Tensor, x: Tensor) -> Tensor:
        return module.max_pool2d(module.conv2d(x, w), 2).square().sum()

    both(lambda m: torch.func.vmap(torch.func.grad(lambda w, x: loss(m, w, x)), (None, 0))(W, X))


def test_forward_mode() -> None:
    import torch.autograd.forward_ad as fwd

    def tangent(module: Any) -> Tensor:
        module.conv2d(X, W)  # a plain call first: the dual tensor must not be taken for its repetition
        with fwd.dual_level():
            y = module.avg_pool2d(module.max_pool2d(module.conv2d(fwd.make_dual(X, X.cos()), W), 2), 1)
            return fwd.unpack_dual(y).tangent

    both(tangent)


def test_jacobian_and_hessian_of_torch_autograd() -> None:
    for options in ({}, {"vectorize": True}):
        both(lambda m, o=options: torch.autograd.functional.jacobian(lambda w: m.conv2d(X, w).sum((0, 2, 3)), W, **o))


def test_meta_and_fake_tensors() -> None:
    x, w = X.to("meta"), W.to("meta")
    assert FC.conv2d(x, w).shape == (2, 3, 4, 3) and FC.conv2d(x, w).device.type == "meta"
    assert FC.max_pool2d(x, 2).shape == (2, 2, 3, 2)
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        y = FC.avg_pool2d(FC.conv2d(mode.from_tensor(X), mode.from_tensor(W)), 2)
    assert y.shape == (2, 3, 2, 1)


def test_subclasses_and_modes() -> None:
    seen = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    y = FC.conv2d(X.as_subclass(Logged), W)
    assert isinstance(y, Logged) and torch.conv2d in seen

    class Counted(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Counted():
        y = FC.max_pool2d(X, 2)
    assert FC.max_pool2d in seen
    assert torch.equal(y, F.max_pool2d(X, 2))
    with torch.device("cpu"):
        assert torch.equal(FC.conv2d(X, W), FC.conv2d(X, W))


def test_flop_counter_sees_convolutions() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for module in (FC, F):
        with FlopCounterMode(display=False) as counter:
            module.conv2d(X, W)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_sparse_and_mkldnn_inputs_go_to_torch() -> None:
    x = X.to_mkldnn()
    assert torch.allclose(FC.conv2d(x, W.to_mkldnn()).to_dense(), F.conv2d(X, W), atol=1e-5)
    for module in (FC, F):
        with pytest.raises((RuntimeError, NotImplementedError)):
            module.conv2d(X.to_sparse(), W)


@pytest.mark.filterwarnings("ignore")
def test_torchscript() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = fastconv.nn.Conv2d(2, 3, 3)
            self.pool = fastconv.nn.MaxPool2d(2, return_indices=True)
            self.mean = fastconv.nn.AvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.pool(self.conv(x))
            return self.mean(y)

    net = Net()
    expected = net(X)
    for scripted in (torch.jit.script(net), torch.jit.trace(net, X)):
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        torch.testing.assert_close(torch.jit.load(buffer)(X), expected)


def test_compile_breaks_the_graph_and_nothing_else() -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x, w: FC.max_pool2d(FC.conv2d(x, w) * 2, 2) + 1, backend="eager")
    x = X.clone().requires_grad_()
    y = function(x, W)
    torch.testing.assert_close(y, F.max_pool2d(F.conv2d(X, W) * 2, 2) + 1)
    y.sum().backward()
    assert x.grad is not None


def test_export() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return FC.avg_pool2d(FC.conv2d(x, w), 2)

    for strict in (False, True):
        program = torch.export.export(Net(), (X, W), strict=strict)
        torch.testing.assert_close(program.module()(X, W), F.avg_pool2d(F.conv2d(X, W), 2))


def test_torch_taking_over_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="fastconv"):
        torch.func.vmap(lambda x: FC.conv2d(x, W))(X.expand(3, *X.shape))
    assert "aten runs conv2d" in caplog.text
