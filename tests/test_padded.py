"""Padding by what the input holds: values, gradients of every order, plans and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Target
from torch import Tensor

import fastconv
from fastconv import functional, nn
from fastconv.padded import MODES, PadsFirstPlan, fold, pad
from fastconv.testing import integer_tensor, random_tensor

SIZES = (7, 8, 5)
DENSE: dict[str, Any] = {"c": 4, "k": 6, "window": 3, "padding": 1}
DEPTHWISE: list[dict[str, Any]] = [
    {"window": 3, "padding": 1},
    {"window": 5, "padding": 2, "stride": 2},
    {"window": 3, "padding": "same", "dilation": 2},
    {"window": 2, "padding": "same"},
]


def ours(rank: int, mode: str, x: Tensor, w: Tensor, b: Tensor | None, **arguments: Any) -> Tensor:
    return getattr(functional, f"padded_conv{rank}d")(x, w, b, padding_mode=mode, **arguments)


def torchs(rank: int, mode: str, x: Tensor, w: Tensor, b: Tensor | None, **arguments: Any) -> Tensor:
    """torch.nn.Conv*d's way."""
    groups = arguments.pop("groups", 1)
    layer = getattr(torch.nn, f"Conv{rank}d")(
        x.shape[1], w.shape[0], w.shape[2:], groups=groups, padding_mode=mode, **arguments
    )
    return layer._conv_forward(x, w, b)


def operands(rank: int, case: dict[str, Any], device: Any, dtype: torch.dtype, make: Any = integer_tensor) -> Any:
    arguments = {name: value for name, value in case.items() if name not in ("c", "k", "window")}
    c, k = case.get("c", 5), case.get("k", 5)
    if "k" not in case:
        arguments["groups"] = c
    x = make((2, c, *SIZES[:rank]), dtype, seed=1, device=device).requires_grad_()
    w = make((k, c // arguments.get("groups", 1), *[case["window"]] * rank), dtype, seed=2, device=device)
    return [x, w.requires_grad_(), make((k,), dtype, seed=3, device=device).requires_grad_()], arguments


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [DENSE, *DEPTHWISE], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_two_orders_of_gradients_are_exact(backend: Target, rank: int, case: dict[str, Any], mode: str) -> None:
    """Of small integers: mapped or padded first, by every backend, in both memory formats."""
    if backend.name == "emulator" and rank == 3 and case["window"] == 5:
        pytest.skip("emulator: too much work")
    tensors, arguments = operands(
        rank, case, backend.device, torch.float32, lambda *a, **k: integer_tensor(*a, high=2, **k)
    )

    def all_of(conv: Any, dtype: torch.dtype, last: bool = False) -> list[Tensor]:
        own = [each.detach().to(dtype) for each in tensors]
        if last:
            own[0] = own[0].contiguous(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[rank])
        own = [each.requires_grad_() for each in own]
        y = conv(rank, mode, *own, **arguments)
        gy = integer_tensor(y.shape, dtype, seed=4, high=2, device=backend.device).requires_grad_()
        first = torch.autograd.grad(y, own, gy, create_graph=True)
        ways = [integer_tensor(each.shape, dtype, seed=5, high=1, device=backend.device) for each in first]
        second = torch.autograd.grad(first, [own[0], own[1], gy], ways)
        return [y, *first, *second]

    exact = all_of(torchs, torch.float64)
    assert max(float(each.abs().max()) for each in exact) < 2**24
    for last in (False, True)[: 1 if rank == 1 else 2]:
        for name, mine, expected in zip(
            ["y", "gx", "gw", "gb", "ggx", "ggw", "ggy"], all_of(ours, torch.float32, last), exact, strict=True
        ):
            assert torch.equal(mine.double(), expected), (name, last)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradcheck(rank: int, mode: str) -> None:
    """The layer, in float64."""
    for groups in (1, 2):
        layer = getattr(nn, f"Conv{rank}d")(2, 4, 3, 2, 1, 1, groups, True, mode, dtype=torch.float64)
        x = random_tensor((1, 2, *(4, 3, 3)[:rank]), torch.float64, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(layer, x)
        weight = layer.weight.detach().clone().requires_grad_()
        run = lambda x, w, layer=layer: layer._conv_forward(x, w, None)  # noqa: E731
        assert torch.autograd.gradgradcheck(run, (x, weight))


@pytest.mark.parametrize("mode", MODES)
def test_fold_is_the_adjoint_of_pad(mode: str) -> None:
    """Exactly, for every amount of padding that torch takes, on axes of every size."""
    for size in range(1, 6):
        most = size - 1 if mode == "reflect" else size if mode == "circular" else 7
        for low in range(most + 1):
            for high in range(most + 1):
                x = integer_tensor((2, 1, 3, size), torch.float64, seed=1).requires_grad_()
                low_high = (0, low), (0, high)
                padded = pad(x, *low_high, mode)
                g = integer_tensor(padded.shape, torch.float64, seed=2)
                assert torch.equal(fold(g, *low_high, mode), torch.autograd.grad(padded, x, g)[0]), (size, low, high)


def test_plans_say_which_way() -> None:
    x, w, dense = torch.zeros(2, 8, 14, 14), torch.zeros(8, 1, 3, 3), torch.zeros(8, 8, 3, 3)
    with fastconv.use_backend("emulator"):
        for pass_ in ("fprop", "dgrad", "wgrad"):
            plan = fastconv.plan("padded_conv2d", x, w, None, 1, 1, 1, 8, "circular", pass_=pass_)
            assert plan.kernel == "depthwise_tiled" and not isinstance(plan, PadsFirstPlan)
            first = fastconv.plan("padded_conv2d", x, dense, None, 1, 1, 1, 1, "circular", pass_=pass_)
            assert (
                isinstance(first, PadsFirstPlan) and first.kernel != "aten" and first.problem.padding_mode == "circular"
            )
            assert (
                "pads with zeros, not by circular" in first.explain() and "pads by circular first, " in first.explain()
            )
            assert first.detail.startswith("folds the padded gradient" if pass_ == "dgrad" else "pads first")
        fused = fastconv.plan("conv2d_bias_act", x, dense, None, None, "relu", 1, 1, 1, 1, padding_mode="reflect")
        assert isinstance(fused, PadsFirstPlan) and fused.epilogue == "y = relu(conv)" and not fused.is_aten
        fused = fastconv.plan("conv2d_bias_act", x, w, None, None, "relu", 1, 1, 1, 8, padding_mode="reflect")
        assert fused.kernel == "depthwise_tiled" and fused.epilogue == "y = relu(conv)"
        pair = fastconv.plan("separable_conv2d", x, w, torch.zeros(4, 8, 1, 1), padding=1, padding_mode="reflect")
        assert pair.depthwise.problem.padding_mode == "reflect" and pair.depthwise.kernel == "depthwise_tiled"
        # No padding to speak of.
        assert fastconv.plan("padded_conv2d", x, w, groups=8).problem.padding_mode == "zeros"


#: kernel -> cases that it maps: narrow, tall (several bands), strided so that nobody but padding reads the last columns
MAPPED: dict[str, list[dict[str, Any]]] = {
    "interleaved": [
        {"c": 5, "size": (9, 11), "window": 3, "padding": 1},
        {"c": 17, "size": (4, 3), "window": 5, "padding": 2},
        {"c": 18, "size": (90, 40), "window": 7, "padding": 3},
        {"c": 16, "size": (11, 12), "window": 3, "padding": 1, "stride": 2},
        {"c": 3, "size": (8, 10), "window": 2, "padding": "same"},
        {"c": 8, "size": (13, 9), "window": 3, "padding": 2, "dilation": 2, "groups": 2},
    ],
    "blocked": [
        {"c": 3, "k": 20, "size": (9, 11), "window": 3, "padding": 1, "groups": 1},
        {"c": 4, "k": 6, "size": (4, 3), "window": 5, "padding": 2, "groups": 2},
        {"c": 20, "k": 9, "size": (90, 33), "window": 3, "padding": 1, "groups": 1},
        {"c": 5, "k": 17, "size": (11, 12), "window": 3, "padding": 1, "stride": 2, "groups": 1},
        {"c": 2, "k": 4, "size": (5, 6, 7), "window": 3, "padding": 1, "groups": 1},
        {"c": 4, "k": 4, "size": (30,), "window": 5, "padding": 4, "dilation": 2, "groups": 1},
    ],
    "depthwise": [
        {"c": 5, "size": (9, 11), "window": 3, "padding": 1},
        {"c": 2, "size": (4, 3), "window": 5, "padding": 2},
        {"c": 3, "size": (90, 70), "window": 7, "padding": 3},
        {"c": 4, "size": (11, 12), "window": 3, "padding": 1, "stride": 2},
        {"c": 3, "size": (8, 10), "window": 2, "padding": "same"},
        {"c": 2, "size": (5, 6, 7), "window": 3, "padding": 1},
        {"c": 2, "size": (13, 17), "window": 3, "padding": (3, 0), "stride": (1, 3)},
    ],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kernel", "case"), [(kernel, case) for kernel, cases in MAPPED.items() for case in cases], ids=str
)
def test_the_cpu_pads_as_it_reads(kernel: str, case: dict[str, Any], mode: str) -> None:
    """fprop and wgrad of small integers, without a padded copy, by every kernel that maps the padding."""
    c, k, rank = case["c"], case.get("k", case["c"]), len(case["size"])
    arguments = {"groups": c} | {
        name: value for name, value in case.items() if name not in ("c", "k", "size", "window")
    }
    x = integer_tensor((2, c, *case["size"]), seed=1, high=2)
    w = integer_tensor((k, c // arguments["groups"], *[case["window"]] * rank), seed=2, high=2)
    x64, w64 = x.double(), w.double().requires_grad_()
    y64 = torchs(rank, mode, x64, w64, None, **arguments)
    gy = integer_tensor(y64.shape, seed=3, high=2)
    exact = y64.detach(), torch.autograd.grad(y64, w64, gy.double())[0]
    given = (None, *(arguments.get(name, 1) for name in ("stride", "padding", "dilation", "groups")), mode)
    layouts = [torch.contiguous_format, {2: torch.channels_last}.get(rank)][: 1 if kernel == "depthwise" else 2]
    for layout in filter(None, layouts):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            own = x.to(dtype, memory_format=layout), w.to(dtype, memory_format=layout).requires_grad_()
            with fastconv.use_kernel(kernel):
                for pass_ in ("fprop", "wgrad"):
                    plan = fastconv.plan(f"padded_conv{rank}d", *own, *given, pass_=pass_)
                    assert plan.kernel == kernel and not isinstance(plan, PadsFirstPlan), plan.explain()
                y = ours(rank, mode, *own, None, **arguments)
                gw = torch.autograd.grad(y, own[1], gy.to(dtype, memory_format=layout))[0]
            for found, expected in zip((y.detach(), gw), exact, strict=True):
                assert torch.equal(found, expected.to(dtype)), (layout, dtype, plan.pass_)


def test_the_cpu_maps_where_that_is_cheaper() -> None:
    x, w = torch.zeros(8, 64, 56, 56), torch.zeros(64, 1, 7, 7)
    assert fastconv.plan("padded_conv2d", x, w, None, 1, 3, 1, 64).kernel in MAPPED
    dense = torch.zeros(256, 64, 3, 3)  # PyTorch's operator on a padded copy is quicker than any kernel that maps
    plan = fastconv.plan("padded_conv2d", x, dense, None, 1, 1)
    assert isinstance(plan, PadsFirstPlan) and plan.kernel == "aten"


def test_a_layer_runs_what_its_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """No padded copy where the padding is mapped: PyTorch is never asked for one."""
    x = random_tensor((1, 4, 6, 5), seed=1)
    layers = [
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.SeparableConv2d(4, 3, 3, padding=1, padding_mode="replicate"),
        nn.ConvBNAct(4, 4, 3, padding=1, groups=4, padding_mode="circular").eval(),
    ]
    expected = [fastconv.revert(layer)(x) if i == 0 else layer(x) for i, layer in enumerate(layers)]
    layers[0] = fastconv.convert(layers[0])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a padded copy")

    with fastconv.use_backend("emulator"), monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(F, "pad", refuse)
        for layer, wanted in zip(layers, expected, strict=True):
            torch.testing.assert_close(layer(x), wanted)
        with pytest.raises(AssertionError, match="a padded copy"):
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")(x)


def test_a_kernel_that_is_asked_for_runs_padded_or_not() -> None:
    x, w = random_tensor((1, 4, 6, 5), seed=1), random_tensor((4, 1, 3, 3), seed=2)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), w, groups=4)
    with fastconv.use_backend("emulator"):
        for name, first in (("depthwise_tiled", False), ("depthwise", True), ("native", False), ("aten", True)):
            with fastconv.use_kernel(name):
                plan = fastconv.plan("padded_conv2d", x, w, None, 1, 1, 1, 4)
                assert isinstance(plan, PadsFirstPlan) == first, name
                torch.testing.assert_close(functional.padded_conv2d(x, w, None, 1, 1, 1, 4), expected)


@pytest.mark.parametrize("mode", MODES)
def test_everywhere_that_torch_goes(mode: str) -> None:
    """Unbatched, autocast, vmap, forward mode, compiled; the same type and size of result."""
    x, w = random_tensor((2, 4, 6, 5), seed=1), random_tensor((4, 1, 3, 3), seed=2)

    def mine(x: Tensor) -> Tensor:
        return functional.padded_conv2d(x, w, None, 1, 1, 1, 4, mode)

    def theirs(x: Tensor) -> Tensor:
        return F.conv2d(pad(x, (1, 1), (1, 1), mode), w, groups=4)

    torch.testing.assert_close(mine(x[0]), theirs(x)[0])
    torch.testing.assert_close(torch.vmap(mine)(x[None]), theirs(x)[None])
    torch.testing.assert_close(torch.func.jvp(mine, (x,), (x,)), (theirs(x), theirs(x)))
    torch.testing.assert_close(torch.compile(mine, backend="eager")(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert mine(x).dtype is torch.bfloat16
    x = x.requires_grad_()
    one = torch.eye(2 * 4 * 6 * 5)[:3].reshape(3, 2, 4, 6, 5)
    batched = torch.autograd.grad(mine(x), x, one, is_grads_batched=True)[0]
    torch.testing.assert_close(batched, torch.autograd.grad(theirs(x), x, one, is_grads_batched=True)[0])


def test_errors() -> None:
    x, w = torch.zeros(1, 4, 5, 6), torch.zeros(4, 1, 3, 3)
    with pytest.raises(ValueError, match="padding_mode: expected one of reflect, replicate, circular, got 'mirror'"):
        functional.padded_conv2d(x, w, None, 1, 1, 1, 4, "mirror")
    for mode, padding in (("reflect", 5), ("circular", 6)):
        with pytest.raises(RuntimeError, match="padding: "):
            functional.padded_conv2d(x, w, None, 1, (padding, 0), 1, 4, mode)
    with pytest.raises(RuntimeError, match="padding: "):
        functional.padded_conv2d(x, w, None, 1, "some", 1, 4)
    with pytest.raises((RuntimeError, TypeError), match="input"):
        functional.padded_conv2d(None, w)
