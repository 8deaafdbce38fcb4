"""functional.conv2d_bias_act: values, gradients of every order, plans and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES, Target
from torch import Tensor

import fastconv
from fastconv import functional
from fastconv.activations import NAMES
from fastconv.testing import assert_close_to_float64, assert_like_torch, integer_tensor, random_tensor

SLOPE = 0.25
ACTIVATIONS: dict[str, Any] = {
    "none": lambda v: v,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda v: F.leaky_relu(v, SLOPE),
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
}
GEOMETRY: list[dict[str, Any]] = [
    {"c": 4, "k": 6, "padding": 1},
    {"c": 8, "k": 8, "stride": 2, "padding": 1, "groups": 8},
    {"c": 16, "k": 8, "padding": "same", "dilation": 2, "groups": 2},
]


def torchs(activation: str, **arguments: Any) -> Any:
    def run(x: Tensor, w: Tensor, b: Tensor | None, r: Tensor | None) -> Tensor:
        y = F.conv2d(x, w, b, **arguments)
        return ACTIVATIONS[activation](y if r is None else y + r)

    return run


def ours(activation: str | None, **arguments: Any) -> Any:
    return lambda x, w, b, r: functional.conv2d_bias_act(x, w, b, r, activation, negative_slope=SLOPE, **arguments)


def operands(geometry: dict[str, Any], dtype: torch.dtype, device: Any, **options: Any) -> tuple[list[Tensor], dict]:
    arguments = {name: value for name, value in geometry.items() if name not in "ck"}
    c, k = geometry["c"], geometry["k"]
    make = options.pop("make", random_tensor)
    x = make((2, c, 6, 5), dtype, seed=1, device=device, **options)
    w = make((k, c // geometry.get("groups", 1), 3, 3), dtype, seed=2, device=device)
    shape = F.conv2d(x.cpu().float(), w.cpu().float(), **arguments).shape
    b, r = make((k,), dtype, seed=3, device=device), make(shape, dtype, seed=4, device=device, **options)
    return [x, w, b, r], arguments


def test_names_are_the_cores() -> None:
    assert set(NAMES) == set(ACTIVATIONS)
    for name in NAMES:
        fastconv.plan("conv2d_bias_act", torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), activation=name)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_like_torch(backend: Target, dtype: torch.dtype, activation: str, channels_last: bool) -> None:
    for geometry in GEOMETRY:
        tensors, arguments = operands(geometry, dtype, backend.device, channels_last=channels_last)
        for b in (tensors[2], None):
            for r in (tensors[3], None):
                given = [*tensors[:2], b, r]
                run = ours(activation, **arguments)
                assert_like_torch(run, torchs(activation, **arguments), given, activation)
                assert run(*given).stride() == torchs(activation, **arguments)(*given).stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_integers_are_exact(native: Target, dtype: torch.dtype) -> None:
    for geometry in GEOMETRY:
        tensors, arguments = operands(geometry, dtype, native.device, make=integer_tensor)
        exact = torchs("relu", **arguments)(*(each.double() for each in tensors))
        assert torch.equal(ours("relu", **arguments)(*tensors).double(), exact)
        # A second call, recognised, and one with a residual of other strides.
        assert torch.equal(ours("relu", **arguments)(*tensors).double(), exact)
        tensors[3] = tensors[3].mT.contiguous().mT
        assert torch.equal(ours("relu", **arguments)(*tensors).double(), exact)
        # And one that alone is not aligned to vectors.
        buffer = torch.empty(tensors[3].numel() + 1, dtype=dtype, device=native.device)
        tensors[3] = buffer[1:].view(tensors[3].shape).copy_(tensors[3])
        assert torch.equal(ours("relu", **arguments)(*tensors).double(), exact)


def test_unbatched_and_autocast(native: Target) -> None:
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float32, native.device)
    assert_like_torch(ours("relu", **arguments), torchs("relu", **arguments), [x[0], w, b, r[0]])
    with torch.autocast(native.device.type, dtype=torch.bfloat16):
        y = ours("relu", **arguments)(x, w, b, r)
        theirs = torchs("relu", **arguments)(x, w, b, r.bfloat16())
    exact = torchs("relu", **arguments)(*(each.bfloat16().double() for each in (x, w, b, r)))
    assert_close_to_float64(y, theirs, exact)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_torchs(backend: Target, activation: str, channels_last: bool) -> None:
    """Of every subset of the operands, at float32."""
    tensors, arguments = operands(GEOMETRY[0], torch.float32, backend.device, channels_last=channels_last)
    gy = random_tensor(tuple(tensors[3].shape), seed=5, device=backend.device)
    for wanted in range(1, 16):
        results = []
        for run, wide in ((ours, False), (torchs, False), (torchs, True)):
            given = [each.double() if wide else each.clone() for each in tensors]
            chosen = [each.requires_grad_() for i, each in enumerate(given) if wanted >> i & 1]
            y = run(activation, **arguments)(*given)
            results.append([y, *torch.autograd.grad(y, chosen, gy.to(y.dtype))])
        for mine, theirs, exact in zip(*results, strict=True):
            assert_close_to_float64(mine, theirs, exact, f"{activation} {wanted:04b}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(backend: Target, activation: str) -> None:
    """First and second derivatives, numerically; no sum comes near a kink."""
    x = random_tensor((1, 2, 3, 3), torch.float64, seed=1, device=backend.device)
    w = random_tensor((2, 2, 2, 2), torch.float64, seed=2, device=backend.device)
    b = random_tensor((2,), torch.float64, seed=3, device=backend.device)
    r = random_tensor((1, 2, 2, 2), torch.float64, seed=4, device=backend.device)
    sums = F.conv2d(x, w, b) + r
    assert min(float((sums - kink).abs().min()) for kink in (-3, 0, 3, 6)) > 1e-3
    given = [each.requires_grad_() for each in (x, w, b, r)]
    run = ours(activation)
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


def test_negative_slope_below_zero(native: Target) -> None:
    """The output has lost the sign of the sum, so the sum is kept."""
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float64, native.device)
    results = []
    for run in (functional.conv2d_bias_act, None):
        given = [each.clone().requires_grad_() for each in (x, w, b, r)]
        y = (
            F.leaky_relu(F.conv2d(*given[:3], **arguments) + given[3], -0.5)
            if run is None
            else run(*given, "leaky_relu", **arguments, negative_slope=-0.5)
        )
        results.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_is_saved(native: Target) -> None:
    """relu keeps its output and nothing else of that size; silu the sum."""
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float32, native.device)
    saved: list[Tensor] = []
    for activation in ("relu", "silu"):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            y = ours(activation, **arguments)(x, w.clone().requires_grad_(), b, r)
        large = [each for each in saved if each.shape == y.shape]
        assert len(large) == 1
        assert torch.equal(large[0], y) == (activation == "relu")


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_transforms_and_compile(native: Target, activation: str) -> None:
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float64, native.device)
    run, theirs = ours(activation, **arguments), torchs(activation, **arguments)
    batched = torch.stack([x, x + 1])
    torch.testing.assert_close(
        torch.func.vmap(lambda x: run(x, w, b, r))(batched), torch.func.vmap(lambda x: theirs(x, w, b, r))(batched)
    )
    ggrad = torch.func.grad(lambda w: run(x, w, b, r).square().sum())(w)
    torch.testing.assert_close(ggrad, torch.func.grad(lambda w: theirs(x, w, b, r).square().sum())(w))
    _, ours_jvp = torch.func.jvp(lambda x: run(x, w, b, r), (x,), (x,))
    torch.testing.assert_close(ours_jvp, torch.func.jvp(lambda x: theirs(x, w, b, r), (x,), (x,))[1])
    leaf = x.clone().requires_grad_()
    y = run(leaf, w, b, r)
    basis = torch.stack([torch.ones_like(y), y.detach()])
    (rows,) = torch.autograd.grad(y, leaf, basis, is_grads_batched=True)
    (row,) = torch.autograd.grad(run(leaf, w, b, r), leaf, basis[1])
    torch.testing.assert_close(rows[1], row)


# ---- plans ----
def test_one_launch_where_a_kernel_fuses() -> None:
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float32, "cpu")
    with fastconv.use_backend("emulator"):
        for activation in NAMES:
            plan = fastconv.plan("conv2d_bias_act", x, w, b, r, activation, **arguments)
            assert not plan.is_aten and "epilogue  y = " in plan.explain()
            assert fastconv.plan("conv2d_bias_act", x, w, b, r, activation, **arguments, pass_="dgrad").pass_ == "dgrad"


def test_composed_where_none_does() -> None:
    """The convolution by its best plan, the rest by PyTorch, and the page says so."""
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float32, "cpu")
    with fastconv.use_kernel("native"):
        for activation, reason in (("silu", "silu is quicker by PyTorch's"), ("relu", "")):
            page = fastconv.explain("conv2d_bias_act", x, w, b, r, activation, **arguments)
            assert ("by PyTorch, in place" in page) == bool(reason)
            assert reason in page
    with fastconv.use_kernel("depthwise"):
        (x, w, b, r), arguments = operands(GEOMETRY[1], torch.float16, "cpu")
        plan = fastconv.plan("conv2d_bias_act", x, w, b, r, **arguments)
        assert plan.kernel == "depthwise" and "then add and relu by PyTorch" in plan.detail
        assert "depthwise adds no residual" in plan.explain() and plan.explain().count("\n  then") == 1
        assert_like_torch(ours("relu", **arguments), torchs("relu", **arguments), [x, w, b, r])


def test_a_pin_is_the_convolutions() -> None:
    (x, w, b, r), arguments = operands(GEOMETRY[0], torch.float32, "cpu")
    call = ("conv2d_bias_act", x, w, b, r)
    try:
        for kernel in ("direct", "blocked"):
            assert fastconv.plans.pin(*call, **arguments, kernel=kernel).kernel == kernel
            assert fastconv.plan("conv2d", x, w, b, **arguments).kernel == kernel
            assert_like_torch(ours("relu", **arguments), torchs("relu", **arguments), [x, w, b, r])
    finally:
        fastconv.plans.unpin()


# ---- errors ----
X, W, R = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3), torch.ones(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("error", "message", "given"),
    [
        (
            ValueError,
            r"activation: expected one of none, relu, .*gelu_tanh, or None, got 'swish'",
            {"activation": "swish"},
        ),
        (ValueError, r"activation: expected one of .* got 3", {"activation": 3}),
        (TypeError, "residual: expected a Tensor or None, got int", {"residual": 1}),
        (RuntimeError, r"residual: expected shape \[1, 3, 2, 2\], .* got \[3, 2, 2\]", {"residual": R[0]}),
        (RuntimeError, r"residual: expected shape .* got \[1, 1, 2, 2\]", {"residual": R[:, :1]}),
        (RuntimeError, "residual: expected torch.float32, the dtype of input", {"residual": R.double()}),
        (RuntimeError, "residual: expected cpu, the device of input, got meta", {"residual": R.to("meta")}),
        (RuntimeError, "bias: expected shape", {"bias": torch.ones(2)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_argument(native: Target, error: type[Exception], message: str, given: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        functional.conv2d_bias_act(X, W, **given)
    functional.conv2d_bias_act(X, W, None, R)  # and a good call passes
