"""functional.separable_conv2d, nn.SeparableConv2d, nn.DepthwiseConv2d and nn.InvertedResidual."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES, Target
from torch import Tensor

import fastconv
from fastconv import functional, nn
from fastconv.activations import activation_of
from fastconv.testing import assert_close_to_float64, assert_like_torch, integer_tensor, random_tensor

GEOMETRY: list[dict[str, Any]] = [
    {"c": 6, "m": 1, "k": 5, "padding": 1},
    {"c": 4, "m": 2, "k": 7, "stride": 2, "padding": (2, 1)},
    {"c": 8, "m": 1, "k": 8, "padding": "same", "dilation": 2},
]
NAMES = ("input", "depthwise_weight", "pointwise_weight", "bias", "depthwise_bias", "residual")


def operands(geometry: dict[str, Any], dtype: torch.dtype, device: Any, **options: Any) -> tuple[list[Tensor], dict]:
    """In the order of NAMES, and the other arguments."""
    arguments = {name: value for name, value in geometry.items() if name not in "cmk"}
    c, many, k = geometry["c"], geometry["c"] * geometry["m"], geometry["k"]
    make = options.pop("make", random_tensor)
    x = make((2, c, 6, 5), dtype, seed=1, device=device, **options)
    dw, pw = make((many, 1, 3, 3), dtype, seed=2, device=device), make((k, many, 1, 1), dtype, seed=3, device=device)
    bias, db = make((k,), dtype, seed=4, device=device), make((many,), dtype, seed=5, device=device)
    plane = F.conv2d(x.cpu().float(), dw.cpu().float(), groups=c, **arguments).shape[2:]
    return [x, dw, pw, bias, db, make((2, k, *plane), dtype, seed=6, device=device, **options)], arguments


def ours(between: str | None = None, after: str | None = None, **arguments: Any) -> Any:
    return lambda x, dw, pw, bias, db, residual: functional.separable_conv2d(
        x,
        dw,
        pw,
        bias,
        **arguments,
        depthwise_bias=db,
        depthwise_activation=between,
        activation=after,
        residual=residual,
    )


def torchs(between: str | None = None, after: str | None = None, **arguments: Any) -> Any:
    def run(x: Tensor, dw: Tensor, pw: Tensor, bias: Any, db: Any, residual: Any) -> Tensor:
        z = activation_of(between).apply(F.conv2d(x, dw, db, **arguments, groups=x.shape[-3]))
        y = F.conv2d(z, pw, bias)
        return activation_of(after).apply(y if residual is None else y + residual)

    return run


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_like_torch(backend: Target, dtype: torch.dtype, channels_last: bool) -> None:
    for geometry in GEOMETRY:
        tensors, arguments = operands(geometry, dtype, backend.device, channels_last=channels_last)
        for given in (tensors, [*tensors[:3], None, None, None]):
            for acts in ((None, None), ("relu6", "relu"), ("silu", "gelu")):
                assert_like_torch(ours(*acts, **arguments), torchs(*acts, **arguments), given, str(acts))


def test_integers_are_exact(native: Target) -> None:
    for geometry in GEOMETRY:
        tensors, arguments = operands(geometry, torch.float32, native.device, make=integer_tensor)
        exact = torchs("relu", "relu", **arguments)(*(each.double() for each in tensors))
        assert torch.equal(ours("relu", "relu", **arguments)(*tensors).double(), exact)
        unbatched = [tensors[0][0], *tensors[1:5], tensors[5][0]]
        assert torch.equal(ours("relu", "relu", **arguments)(*unbatched).double(), exact[0])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("acts", [(None, None), ("relu6", "relu"), ("silu", "gelu")], ids=str)
def test_gradients_are_torchs(backend: Target, acts: tuple[Any, Any], channels_last: bool) -> None:
    """Of each operand, of all, and of some."""
    tensors, arguments = operands(GEOMETRY[1], torch.float32, backend.device, channels_last=channels_last)
    gy = random_tensor(tuple(tensors[5].shape), seed=7, device=backend.device)
    for wanted in (*(1 << i for i in range(6)), 0b111111, 0b010110, 0b101001):
        results = []
        for run, wide in ((ours, False), (torchs, False), (torchs, True)):
            given = [each.double() if wide else each.clone() for each in tensors]
            chosen = [each.requires_grad_() for i, each in enumerate(given) if wanted >> i & 1]
            y = run(*acts, **arguments)(*given)
            results.append([y, *torch.autograd.grad(y, chosen, gy.to(y.dtype))])
        for mine, theirs, exact in zip(*results, strict=True):
            assert_close_to_float64(mine, theirs, exact, f"{wanted:06b}")


def test_gradcheck(backend: Target) -> None:
    """First and second derivatives, numerically."""
    tensors, arguments = operands({"c": 2, "m": 2, "k": 2, "stride": 2}, torch.float64, backend.device)
    given = [each.requires_grad_() for each in tensors]
    for acts in ((None, None), ("silu", "gelu")):
        assert torch.autograd.gradcheck(ours(*acts, **arguments), given)
        assert torch.autograd.gradgradcheck(ours(*acts, **arguments), given)


def test_what_lies_between_is_not_kept(native: Target) -> None:
    """And the plan says how much that is."""
    tensors, arguments = operands(GEOMETRY[1], torch.float32, native.device)
    for each in tensors:
        each.requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ours("silu", **arguments)(*tensors)
    z = (2, 8, *tensors[5].shape[2:])
    assert saved and all(tuple(each.shape) != z for each in saved)
    assert {id(each) for each in saved} <= {id(each) for each in tensors}
    plan = fastconv.plan("separable_conv2d", *tensors[:4], **arguments, depthwise_activation="silu")
    assert plan.between_bytes == 4 * 2 * 8 * tensors[5].shape[2] * tensors[5].shape[3]
    assert "not kept for backward" in plan.explain() and " + " in plan.kernel


FUSED = {"c": 24, "m": 1, "k": 40, "padding": 1, "stride": 2}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_one_launch_or_two(dtype: torch.dtype) -> None:
    """The emulator's table: both give the same, gradients too, and the plan says which it is and what it spares."""
    tensors, arguments = operands(FUSED, dtype, "cpu", make=integer_tensor, channels_last=True)
    results = []
    with fastconv.use_backend("emulator"):
        for kernel in ("separable_64", "two_launches"):
            with fastconv.use_kernel(kernel):
                fastconv._emulator.reset_counters()
                y = ours("relu6", "relu", **arguments)(*tensors)
                launched = set(fastconv._emulator.counters())
                given = [each.clone().requires_grad_() for each in tensors]
                ours("relu6", "relu", **arguments)(*given).float().square().sum().backward()
                plan = fastconv.plan("separable_conv2d", *tensors[:4], **arguments, depthwise_activation="relu6")
            between = tensors[5].numel() // 40 * 24 * 2
            assert plan.between_bytes == between
            assert plan.is_fused == (kernel == "separable_64") == (launched == {"separable"})
            assert plan.spared_bytes == (2 * between if plan.is_fused else 0)
            assert plan.kernel == "separable_64" if plan.is_fused else " + " in plan.kernel
            assert ("on chip   " in plan.explain()) == plan.is_fused and "not kept for backward" in plan.explain()
            results.append([y, *(each.grad for each in given)])
            assert y.is_contiguous(memory_format=torch.channels_last)
        for mode in ("zeros", "reflect"):
            with fastconv.use_kernel("separable_64"):
                one = ours("relu6", padding_mode=mode, **arguments)(*tensors)
            with fastconv.use_kernel("two_launches"):
                assert torch.equal(one, ours("relu6", padding_mode=mode, **arguments)(*tensors))
        # A kernel of another table, or a pin of a part, asks for the parts.
        with fastconv.use_kernel("direct_64x64"):
            assert not fastconv.plan("separable_conv2d", *tensors[:4], **arguments).is_fused
        free = fastconv.plan("separable_conv2d", *tensors[:4], **arguments)
        assert {each.kernel for each in free.whole.candidates} == {"separable_64", "separable_128", "two_launches"}
        assert free.is_fused
        try:
            fastconv.plans.pin("conv2d", *tensors[:2], groups=24, kernel="depthwise")  # of another padding and stride
            assert fastconv.plan("separable_conv2d", *tensors[:4], **arguments).kernel == free.kernel
            fastconv.plans.pin("conv2d", *tensors[:2], **arguments, groups=24, kernel="depthwise")
            assert fastconv.plan("separable_conv2d", *tensors[:4], **arguments).kernel.startswith("depthwise + ")
        finally:
            fastconv.plans.unpin()
    exact = torchs("relu6", "relu", **arguments)(*(each.double() for each in tensors))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(results[0][0].double(), exact.to(dtype).double())


def test_autocast_and_transforms(native: Target) -> None:
    tensors, arguments = operands(GEOMETRY[0], torch.float32, native.device)
    x, rest = tensors[0].requires_grad_(), tensors[1:]
    with torch.autocast(native.device.type, dtype=torch.bfloat16):
        y = ours("relu", **arguments)(x, *rest)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    run, theirs = ours("relu", **arguments), torchs("relu", **arguments)
    batched = torch.stack([x.detach(), x.detach() + 1])
    torch.testing.assert_close(
        torch.func.vmap(lambda x: run(x, *rest))(batched), torch.func.vmap(lambda x: theirs(x, *rest))(batched)
    )
    y = run(x, *rest)
    basis = torch.stack([torch.ones_like(y), y.detach()])
    (rows,) = torch.autograd.grad(y, x, basis, is_grads_batched=True)
    (row,) = torch.autograd.grad(run(x, *rest), x, basis[1])
    torch.testing.assert_close(rows[1], row)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("input", lambda t: "x", TypeError),
        ("input", lambda t: t[0, 0], RuntimeError),
        ("depthwise_weight", lambda t: t[:5], RuntimeError),
        ("depthwise_weight", lambda t: t[:0], RuntimeError),
        ("depthwise_weight", lambda t: t.repeat(1, 2, 1, 1), RuntimeError),
        ("depthwise_weight", lambda t: t.double(), RuntimeError),
        ("pointwise_weight", lambda t: t[:, :3], RuntimeError),
        ("pointwise_weight", lambda t: t.repeat(1, 1, 3, 3), RuntimeError),
        ("pointwise_weight", lambda t: None, TypeError),
        ("bias", lambda t: t[:2], RuntimeError),
        ("depthwise_bias", lambda t: t[:2], RuntimeError),
        ("residual", lambda t: t[:, :2], RuntimeError),
        ("residual", lambda t: t.double(), RuntimeError),
        ("residual", lambda t: 3, TypeError),
    ],
)
@pytest.mark.parametrize("recorded", [False, True])
def test_bad_arguments_are_named(name: str, change: Any, error: type[Exception], recorded: bool) -> None:
    tensors, arguments = operands(GEOMETRY[0], torch.float32, "cpu")
    tensors[NAMES.index(name)] = change(tensors[NAMES.index(name)])
    if recorded and isinstance(tensors[0], Tensor):
        tensors[0].requires_grad_()
    with pytest.raises(error, match=f"{name}:"):
        ours(**arguments)(*tensors)


def test_bad_numbers_are_named() -> None:
    tensors, _ = operands(GEOMETRY[0], torch.float32, "cpu")
    for name, value in (("stride", "2"), ("stride", (1, 1, 1)), ("dilation", 1.5), ("padding", (1, 1, 1))):
        with pytest.raises((TypeError, RuntimeError), match=name):
            ours(**{name: value})(*tensors)
    for name in ("depthwise_activation", "activation"):
        with pytest.raises(ValueError, match="activation: expected one of"):
            functional.separable_conv2d(*tensors[:3], **{name: "tanh"})


# ---- layers ----
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_the_layer(padding_mode: str) -> None:
    layer = nn.SeparableConv2d(6, 10, 3, 2, 1, 1, True, padding_mode, depth_multiplier=2)
    first = layer.depthwise
    assert isinstance(first, torch.nn.Conv2d) and first.groups == 6 and first.out_channels == 12 and first.bias is None
    assert set(layer.state_dict()) == {"depthwise.weight", "pointwise.weight", "pointwise.bias"}
    torchs_own = torch.nn.Sequential(
        torch.nn.Conv2d(6, 12, 3, 2, 1, 1, 6, False, padding_mode), torch.nn.Conv2d(12, 10, 1)
    )
    torchs_own.load_state_dict(dict(zip(torchs_own.state_dict(), layer.state_dict().values(), strict=True)))
    x = random_tensor((2, 6, 7, 8), seed=1)
    exact = copy.deepcopy(torchs_own).double()(x.double())
    for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fastconv.revert(copy.deepcopy(layer))):
        assert_close_to_float64(each(x), torchs_own(x), exact)
    seen: list[Any] = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert_close_to_float64(layer(x), torchs_own(x), exact)
    assert seen == [(2, 12, 4, 4)]


def test_the_depthwise_layer() -> None:
    layer = nn.DepthwiseConv2d(4, 3, padding=1, depth_multiplier=3, dtype=torch.float64)
    x = random_tensor((1, 4, 5, 6), torch.float64, seed=1)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, 1, 1, 1, 4))
    assert layer.weight.shape == (12, 1, 3, 3) and isinstance(layer, nn.Conv2d)
    with pytest.raises(ValueError, match="depth_multiplier: expected at least 1, got 0"):
        nn.DepthwiseConv2d(4, 3, depth_multiplier=0)


class Theirs(torch.nn.Module):
    """MobileNetV2's block by torch.nn, with InvertedResidual's names."""

    def __init__(self, c: int, k: int, size: int, stride: int, ratio: int) -> None:
        super().__init__()

        def part(c: int, k: int, size: int, stride: int = 1, groups: int = 1) -> torch.nn.Module:
            conv = torch.nn.Conv2d(c, k, size, stride, size // 2, groups=groups, bias=False)
            return torch.nn.ModuleDict({"conv": conv, "bn": torch.nn.BatchNorm2d(k)})

        width = c * ratio
        self.expand = part(c, width, 1) if ratio != 1 else None
        self.depthwise, self.project = part(width, width, size, stride, width), part(width, k, 1)
        self.adds = stride == 1 and c == k

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for each in (self.expand, self.depthwise):
            z = z if each is None else F.relu6(each["bn"](each["conv"](z)))
        z = self.project["bn"](self.project["conv"](z))
        return x + z if self.adds else z


@pytest.mark.parametrize(("c", "k", "size", "stride", "ratio"), [(8, 8, 3, 1, 6), (4, 6, 5, 2, 3), (6, 6, 3, 1, 1)])
def test_inverted_residual(c: int, k: int, size: int, stride: int, ratio: int) -> None:
    """In training and in eval mode, with gradients."""
    torch.manual_seed(0)
    block, theirs = nn.InvertedResidual(c, k, size, stride, ratio), Theirs(c, k, size, stride, ratio)
    theirs.load_state_dict(block.state_dict())
    x = random_tensor((2, c, 8, 7), seed=1)
    wide = copy.deepcopy(theirs).double()
    for training in (True, False):
        results = []
        for each, given in ((block, x.clone()), (theirs, x.clone()), (wide, x.double())):
            each.train(training)
            given.requires_grad_()
            y = each(given)
            gy = random_tensor(tuple(y.shape), y.dtype, seed=2)
            results.append([y, *torch.autograd.grad(y, [given, *each.parameters()], gy)])
        for mine, torchs_own, exact in zip(*results, strict=True):
            assert_close_to_float64(mine, torchs_own, exact, f"training={training}")
    with torch.no_grad():  # the fold is kept
        assert_close_to_float64(block(x), theirs(x), wide(x.double()))
        assert_close_to_float64(block(x), theirs(x), wide(x.double()))
