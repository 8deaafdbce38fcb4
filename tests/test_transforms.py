"""Every way that torch has of running code differently: functorch transforms, forward-mode AD, fake tensors, modes and
subclasses, tracing, scripting, compiling, exporting.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import fastconv
from fastconv import functional as FC
from fastconv.testing import random_tensor

Tensor = torch.Tensor
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # torch's own forward-mode rules use it
]

# ---- transforms and tracers: torch's operators take over, and the result is right ----
X, W = random_tensor((2, 2, 6, 5), seed=1), random_tensor((3, 2, 3, 3), seed=2)
X1, W1 = X[..., 0], W[..., 0]
X3, W3 = torch.stack([X, 2 * X, X.cos()], 4), torch.stack([W, W.sin()], 4)
OTHERS = [("conv1d", X1, W1), ("conv3d", X3, W3), ("conv_transpose1d", X1, W1.transpose(0, 1)),
          ("conv_transpose2d", X, W.transpose(0, 1)), ("conv_transpose3d", X3, W3.transpose(0, 1))]  # fmt: skip


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


@pytest.mark.parametrize(("name", "x", "w"), OTHERS, ids=[name for name, *_ in OTHERS])
def test_transforms_of_the_other_convolutions(name: str, x: Tensor, w: Tensor) -> None:
    call = lambda m: getattr(m, name)  # noqa: E731
    both(lambda m: torch.func.grad(lambda w: call(m)(x, w).sin().sum())(w))
    both(lambda m: torch.func.vmap(lambda x: call(m)(x, w))(torch.stack([x, 2 * x])))
    both(lambda m: torch.func.vmap(torch.func.grad(lambda w, x: call(m)(x, w).square().sum()), (None, 0))(w, x))
    both(lambda m: torch.func.jvp(lambda x: call(m)(x, w), (x,), (x.cos(),)))
    both(lambda m: torch.func.hessian(lambda s: call(m)(x * s, w).tanh().sum())(torch.tensor(0.5)))
    pool = name.replace("conv_transpose", "avg_pool").replace("conv", "max_pool")
    both(lambda m: torch.func.vmap(torch.func.grad(lambda x: getattr(m, pool)(x, 2).sin().sum()))(torch.stack([x, -x])))
    both(lambda m: torch.func.jvp(lambda x: getattr(m, pool)(x, 2), (x,), (x.cos(),)))
    meta = call(FC)(x.to("meta"), w.to("meta"))
    assert meta.shape == call(F)(x, w).shape and meta.device.type == "meta"


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers_are_scripted_compiled_and_exported(rank: int) -> None:
    conv, transposed = getattr(fastconv.nn, f"Conv{rank}d"), getattr(fastconv.nn, f"ConvTranspose{rank}d")
    net = torch.nn.Sequential(conv(2, 4, 3, padding="same"), conv(4, 3, 3, padding=1, padding_mode="circular"))
    net.append(transposed(3, 2, 2, stride=2))
    net.append(getattr(fastconv.nn, f"MaxPool{rank}d")(2, 1)).append(getattr(fastconv.nn, f"AvgPool{rank}d")(2, 1))
    x = {1: X1, 2: X, 3: X3}[rank]
    expected = fastconv.revert(copy.deepcopy(net))(x)
    torch._dynamo.reset()
    exported = torch.export.export(net, (x,), strict=False).module()
    for way in (net, torch.jit.script(net), torch.jit.trace(net, x), torch.compile(net, backend="eager"), exported):
        torch.testing.assert_close(way(x), expected)
        torch.testing.assert_close(way(x), expected)


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
