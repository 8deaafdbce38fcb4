"""Bad input of every kind: torch's own exception type, a message that names the argument, and a process that lives."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Target
from torch.nn import functional as F

import fastconv
from fastconv import functional as FC

X, W, B = torch.zeros(2, 4, 8, 8), torch.zeros(6, 4, 3, 3), torch.zeros(6)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

CONVOLUTIONS = tuple(f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3))

# (what is wrong, the argument that the message names, the call)
Case = tuple[str, str, Callable[[Any], Any]]


def conv_operands(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Good operands of the convolution of this name: 4 channels to 6."""
    rank = int(name[-2])
    channels = (4, 6) if "transpose" in name else (6, 4)
    return torch.zeros(2, 4, *[8] * rank), torch.zeros(*channels, *[3] * rank), torch.zeros(6)


def conv_cases(name: str, requires_grad: bool = False) -> list[Case]:
    """What is wrong in any convolution, then what only one kind calls an error."""
    x, w, b = (tensor.requires_grad_(requires_grad) for tensor in conv_operands(name))
    rank, transposed = x.dim() - 2, "transpose" in name

    def f(m: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(m, name)(*args, **kwargs)

    return [
        ("input is a number", "input", lambda m: f(m, 3, w)),
        ("input is None", "input", lambda m: f(m, None, w)),
        ("input is a list", "input", lambda m: f(m, [[1.0]], w)),
        ("weight is None", "weight", lambda m: f(m, x, None)),
        ("weight is an array", "weight", lambda m: f(m, x, w.numpy())),
        ("bias is a number", "bias", lambda m: f(m, x, w, 1.0)),
        ("input of 2 dimensions less", "input", lambda m: f(m, x[0, 0], w)),
        ("input of a dimension more", "input", lambda m: f(m, x[None], w)),
        ("weight of a dimension less", "weight", lambda m: f(m, x, w[0])),
        ("weight of a dimension more", "weight", lambda m: f(m, x, w[None])),
        ("bias of 2 dimensions", "bias", lambda m: f(m, x, w, b[None])),
        ("bias too long", "bias", lambda m: f(m, x, w, torch.zeros(7))),
        ("dtype of weight", "weight", lambda m: f(m, x, w.double())),
        ("dtype of bias", "bias", lambda m: f(m, x, w, b.half())),
        ("integer input", "weight", lambda m: f(m, x.long(), w)),
        ("channels", "input", lambda m: f(m, x[:, :3], w)),
        ("groups do not divide input", "weight" if transposed else "input", lambda m: f(m, x, w, groups=3)),
        ("groups 0", "groups", lambda m: f(m, x, w, groups=0)),
        ("groups negative", "groups", lambda m: f(m, x, w, groups=-1)),
        ("groups a float", "groups", lambda m: f(m, x, w, groups=1.0)),
        ("groups a tuple", "groups", lambda m: f(m, x, w, groups=(1, 1))),
        ("stride 0", "stride", lambda m: f(m, x, w, stride=0)),
        ("stride negative", "stride", lambda m: f(m, x, w, stride=[1] * (rank - 1) + [-1])),
        ("stride a float", "stride", lambda m: f(m, x, w, stride=2.0)),
        ("stride a bool", "stride", lambda m: f(m, x, w, stride=True)),
        ("stride an array", "stride", lambda m: f(m, x, w, stride=np.array([1] * rank))),
        ("stride of one more", "stride", lambda m: f(m, x, w, stride=(1,) * (rank + 1))),
        ("stride empty", "stride", lambda m: f(m, x, w, stride=())),
        ("stride None", "stride", lambda m: f(m, x, w, stride=None)),
        ("stride a string", "stride", lambda m: f(m, x, w, stride="1")),
        ("padding negative", "padding", lambda m: f(m, x, w, padding=-1)),
        ("padding unknown", "padding", lambda m: f(m, x, w, padding="full")),
        ("padding same, strided", "padding", lambda m: f(m, x, w, padding="same", stride=2)),
        ("padding of 4", "padding", lambda m: f(m, x, w, padding=(1, 1, 1, 1))),
        ("dilation 0", "dilation", lambda m: f(m, x, w, dilation=0)),
        ("dilation a float", "dilation", lambda m: f(m, x, w, dilation=[1] * (rank - 1) + [1.5])),
        ("an empty axis", "input", lambda m: f(m, x[..., :0], w, padding=1)),
        ("filter without taps", "weight", lambda m: f(m, x, w[..., :0])),
        *([
            ("padding beyond the output", "input", lambda m: f(m, x, w, padding=6)),
            ("padding valid", "padding", lambda m: f(m, x, w, padding="valid")),
            ("output_padding 1", "output_padding", lambda m: f(m, x, w, output_padding=1)),
            ("output_padding negative", "output_padding", lambda m: f(m, x, w, stride=2, output_padding=-1)),
            ("output_padding a float", "output_padding", lambda m: f(m, x, w, stride=2, output_padding=1.0)),
            ("output_padding None", "output_padding", lambda m: f(m, x, w, output_padding=None)),
            ("output_padding of 4", "output_padding", lambda m: f(m, x, w, stride=2, output_padding=(1,) * 4)),
        ] if transposed else [
            ("groups do not divide output", "weight", lambda m: f(m, x, w[:5, :2], groups=2)),
            ("filter beyond the input", "weight", lambda m: f(m, x, torch.zeros(6, 4, *[9] * rank))),
            ("dilated filter beyond the input", "dilation", lambda m: f(m, x, w, dilation=5)),
        ]),
    ]  # fmt: skip


def pool_cases(rank: int, requires_grad: bool = False) -> list[Case]:
    """What is wrong in max-pooling, then in average pooling."""
    x = torch.zeros(2, 4, *[8] * rank, requires_grad=requires_grad)

    def f(m: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(m, f"max_pool{rank}d")(*args, **kwargs)

    def g(m: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(m, f"avg_pool{rank}d")(*args, **kwargs)

    divisors: list[Case] = [
        ("average: divisor_override 0", "divisor", lambda m: g(m, x, 2, divisor_override=0)),
        ("average: divisor_override a float", "divisor_override", lambda m: g(m, x, 2, divisor_override=2.0)),
    ]
    return [
        ("max: input is a number", "input", lambda m: f(m, 3, 2)),
        ("max: input of 2 dimensions less", "input", lambda m: f(m, x[0, 0], 2)),
        ("max: input of a dimension more", "input", lambda m: f(m, x[None], 2)),
        ("max: kernel_size 0", "kernel_size", lambda m: f(m, x, 0)),
        ("max: kernel_size a float", "kernel_size", lambda m: f(m, x, 2.0)),
        ("max: kernel_size of one more", "kernel_size", lambda m: f(m, x, (2,) * (rank + 1))),
        ("max: kernel_size beyond the input", "kernel_size", lambda m: f(m, x, 9)),
        ("max: stride 0", "stride", lambda m: f(m, x, 2, 0)),
        ("max: stride a string", "stride", lambda m: f(m, x, 2, "2")),
        ("max: padding over half", "padding", lambda m: f(m, x, 3, padding=2)),
        ("max: padding negative", "padding", lambda m: f(m, x, 3, padding=-1)),
        ("max: dilation 0", "dilation", lambda m: f(m, x, 3, dilation=0)),
        ("max: ceil_mode a number", "ceil_mode", lambda m: f(m, x, 3, ceil_mode=1)),
        ("max: no channels", "input", lambda m: f(m, x[:, :0], 2)),
        ("average: input is None", "input", lambda m: g(m, None, 2)),
        ("average: input of 2 dimensions less", "input", lambda m: g(m, x[0, 0], 2)),
        ("average: kernel_size negative", "kernel_size", lambda m: g(m, x, -1)),
        ("average: kernel_size None", "kernel_size", lambda m: g(m, x, None)),
        ("average: stride 0", "stride", lambda m: g(m, x, 2, 0)),
        ("average: padding over half", "padding", lambda m: g(m, x, 2, padding=2)),
        ("average: count_include_pad a string", "count_include_pad", lambda m: g(m, x, 2, count_include_pad="no")),
        *(divisors if rank > 1 else []),
    ]  # fmt: skip


def adaptive_cases(rank: int, requires_grad: bool = False) -> list[Case]:
    x = torch.zeros(2, 4, *[8] * rank, requires_grad=requires_grad)
    wrong = {"negative": -1, "a float": 2.5, "a string": "a", "True": True, "of one more": (2,) * (rank + 1)}
    wrong |= {"None": None, "of one None": (None,)} if rank == 1 else {"None": None, "of one": (2,)}
    cases: list[Case] = []
    for kind in ("max", "avg"):
        name = f"adaptive_{kind}_pool{rank}d"
        for what, size in wrong.items():
            call = lambda m, name=name, size=size: getattr(m, name)(x, size)  # noqa: E731
            cases.append((f"adaptive {kind}: output_size {what}", "output_size", call))
        for what, bad in (("a number", 3), ("of 2 dimensions less", x[0, 0]), ("of a dimension more", x[None])):
            call = lambda m, name=name, bad=bad: getattr(m, name)(bad, 2)  # noqa: E731
            cases.append((f"adaptive {kind}: input {what}", "input", call))
    return cases


def outcome(call: Callable[[], Any]) -> BaseException | torch.Tensor:
    try:
        return call()
    except Exception as error:
        return error


def all_cases(requires_grad: bool = False) -> list[Case]:
    cases = [(f"{name}: {what}", *rest) for name in CONVOLUTIONS for what, *rest in conv_cases(name, requires_grad)]
    for make in (pool_cases, adaptive_cases):
        cases += [(f"{rank}d {what}", *rest) for rank in (1, 2, 3) for what, *rest in make(rank, requires_grad)]
    return cases


@pytest.mark.parametrize(("argument", "call"), [pytest.param(a, c, id=name) for name, a, c in all_cases()])
def test_bad_input(native: Target, argument: str, call: Callable[[Any], Any]) -> None:
    expected = outcome(lambda: call(F))
    assert isinstance(expected, Exception), "torch accepts this: the case is wrong"
    for _ in range(2):  # a refusal must not become a plan
        found = outcome(lambda: call(FC))
        assert type(found) is type(expected), f"{found!r}, torch: {expected!r}"
        assert argument in str(found), f"{found!r} does not name {argument}"


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_tensors_on_different_devices(name: str) -> None:
    """Torch itself reads through a null pointer here: there is nothing to compare with."""
    function, (x, w, b) = getattr(FC, name), conv_operands(name)
    with pytest.raises(RuntimeError, match="weight: expected it on cpu"):
        function(x, w.to("meta"))
    with pytest.raises(RuntimeError, match="bias: expected it on cpu"):
        function(x, w, b.to("meta"))
    expected = getattr(F, name)(x, w, padding=1).shape
    assert function(x.to("meta"), w.to("meta"), padding=1).shape == expected


def test_every_bad_input_while_a_gradient_is_recorded(native: Target) -> None:
    for name, _, call in all_cases(requires_grad=True):
        assert isinstance(outcome(lambda call=call: call(FC)), Exception), name


def _random_conv(name: str, rng: random.Random) -> dict[str, Any]:
    rank, transposed = int(name[-2]), "transpose" in name

    def axis_values(low: int, high: int, odd: Any) -> Any:
        value = [rng.randint(low, high) for _ in range(rank)]
        if rng.random() < 0.05:
            value[rng.randrange(rank)] = odd
        return rng.choice([value, tuple(value), value[0]])

    groups = rng.choice((1, 1, 2))
    c, k = groups * rng.randint(1, 2) + (rng.random() < 0.05), groups * rng.randint(1, 2)
    shape = (rng.randint(0, 2), c, rng.randint(0, 7), *(rng.randint(1, 7) for _ in range(rank - 1)))
    window = (rng.randint(1, 3), *(rng.randint(1, 4) for _ in range(rank - 1)))
    channels = (c, k // groups) if transposed else (k, max(c // groups, 1))
    return {
        "input": torch.ones(shape[rng.random() < 0.1 :]),
        "weight": torch.ones(*channels, *window),
        "bias": rng.choice((None, torch.ones(k + (rng.random() < 0.05)))),
        "stride": axis_values(1, 3, 0),
        "padding": axis_values(0, 2, -1) if transposed else rng.choice((axis_values(0, 2, -1), "same", "valid")),
        "dilation": axis_values(1, 2, 0),
        "groups": groups,
        **({"output_padding": rng.choice((0, axis_values(0, 1, -1)))} if transposed else {}),
    }


def _random_pool(rank: int, rng: random.Random) -> dict[str, Any]:
    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randint(low, high) for _ in range(rank))

    window = sizes(1, 4)
    return {
        "input": torch.rand(rng.randint(0, 2), rng.randint(0, 2), *sizes(1, 7)[1:], rng.randint(0, 7)),
        "kernel_size": rng.choice((window, window, (0, *window[1:]))),
        "stride": rng.choice((None, rng.randint(0, 3), sizes(1, 4))),
        "padding": rng.choice((0, 1, sizes(0, 1), rng.randint(-1, 2))),
        "ceil_mode": rng.random() < 0.5,
    }


def _random_adaptive(rank: int, rng: random.Random) -> dict[str, Any]:
    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randint(low, high) for _ in range(rank))

    return {
        "input": torch.rand(rng.randint(1, 2), rng.randint(1, 2), *sizes(1, 9)),
        "output_size": rng.choice((rng.randint(0, 5), sizes(1, 9), sizes(-1, 9))),
    }


def _compare(function: str, arguments: dict[str, Any]) -> str | None:
    ours, theirs = (outcome(lambda m=m: getattr(m, function)(**arguments)) for m in (FC, F))
    if isinstance(theirs, Exception):
        return None if type(ours) is type(theirs) else f"{arguments}: {ours!r}, torch {theirs!r}"
    if isinstance(ours, Exception) or ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-6):
        return f"{arguments}: {ours!r}, torch {theirs!r}"
    return None


RANDOM = {name: partial(_random_conv, name) for name in CONVOLUTIONS}
RANDOM |= {f"{kind}_pool{rank}d": partial(_random_pool, rank) for kind in ("max", "avg") for rank in (1, 2, 3)}
RANDOM |= {
    f"adaptive_{kind}_pool{rank}d": partial(_random_adaptive, rank) for kind in ("max", "avg") for rank in (1, 2, 3)
}


@pytest.mark.parametrize(("function", "make"), RANDOM.items())
def test_random_calls_agree_with_torch(function: str, make: Callable[[random.Random], dict[str, Any]]) -> None:
    """Verdict, exception type, shape and values, over good and bad arguments alike."""
    rng = random.Random(0)
    with fastconv.use_kernel("native"):
        wrong = [text for _ in range(1500) if (text := _compare(function, make(rng)))]
    assert not wrong, f"{len(wrong)} of 1500:\n" + "\n".join(wrong[:5])


# ---- our own functions ----
def test_settings_name_their_argument() -> None:
    with pytest.raises(ValueError, match="backend"):
        fastconv.use_backend("tpu")
    with pytest.raises(ValueError, match="kernel"):
        fastconv.use_kernel("winograd-9000")
    before = fastconv.settings.current
    with fastconv.use_backend("cpu"), fastconv.use_kernel("aten"):
        assert (fastconv.settings.current.backend, fastconv.settings.current.kernel) == ("cpu", "aten")
    assert fastconv.settings.current is before
    missing = [name for name, backend in fastconv.backends().items() if not backend.available]
    for name in missing:
        with pytest.raises(RuntimeError, match=name):
            fastconv.use_backend(name)


def test_plan_names_its_argument() -> None:
    with pytest.raises(ValueError, match="function"):
        fastconv.plan("conv9d", X, W)
    with pytest.raises(ValueError, match="pass_"):
        fastconv.plan("conv2d", X, W, pass_="sideways")
    with pytest.raises(RuntimeError, match="stride"):
        fastconv.plan("conv2d", X, W, stride=0)


def test_plan_and_explain_say_what_would_run(native: Target) -> None:
    x, w = X.to(native.device), W.to(native.device)
    for pass_ in ("fprop", "dgrad", "wgrad", "bgrad"):
        plan = fastconv.plan(FC.conv2d, x, w, pass_=pass_)
        assert not plan.is_aten and any(each.kernel == plan.kernel and each.accepted for each in plan.candidates)
        assert plan.kernel in fastconv.explain("conv2d", x, w, pass_=pass_)
    for pass_ in ("fprop", "dgrad", "gather"):
        assert not fastconv.plan("max_pool2d", x, 2, pass_=pass_).is_aten
    assert not fastconv.plan("avg_pool2d", x[0], kernel_size=2).is_aten
    for name in CONVOLUTIONS:
        x, w, b = (each.to(native.device) for each in conv_operands(name))
        passes = [fastconv.plan(name, x, w, b, pass_=pass_).pass_ for pass_ in ("fprop", "dgrad", "wgrad", "bgrad")]
        assert passes == [*(("dgrad", "fprop") if "transpose" in name else ("fprop", "dgrad")), "wgrad", "bgrad"]
        assert f"conv{name[-2:]}" in fastconv.explain(name, x, weight=w, stride=2)
        pool = f"max_pool{name[-2:]}"
        assert fastconv.plan(pool, x, 2, return_indices=True).kernel in fastconv.explain(pool, x, kernel_size=2)
        with pytest.raises(TypeError, match="kernel"):
            fastconv.plan(pool, x)


def test_a_forced_kernel_that_refuses_says_why() -> None:
    """The module's own message, not a silent replacement."""
    with fastconv.use_kernel("aten"):
        assert fastconv.plan("conv2d", X, W).is_aten
    plan = fastconv.plan("conv2d", X, W)
    assert [each.kernel for each in plan.candidates if each.accepted]
    assert all(each.reason for each in plan.candidates if not each.accepted)


def test_what_is_only_equal_to_a_known_argument_is_not_taken_for_it(native: Target) -> None:
    """1 == True == 1.0: a call that is served from memory must still tell them apart."""
    x, w = X.to(native.device), W.to(native.device)
    for _ in range(3):
        FC.conv2d(x, w, stride=1, padding=(1, 1))
        FC.max_pool2d(x, 2, ceil_mode=True)
        FC.max_pool2d(x, 2, ceil_mode=False)
    for stride in (True, 1.0, (1.0, 1), (True, 1)):
        expected = outcome(lambda s=stride: F.conv2d(x, w, stride=s, padding=(1, 1)))
        found = outcome(lambda s=stride: FC.conv2d(x, w, stride=s, padding=(1, 1)))
        assert type(found) is type(expected), stride
    for ceil_mode in (1, 0):
        with pytest.raises(TypeError, match="ceil_mode"):
            FC.max_pool2d(x, 2, ceil_mode=ceil_mode)


def test_run_survives_bad_addresses() -> None:

    with fastconv.use_kernel("native"):
        plan = fastconv.plan("max_pool2d", X, 2)
    with pytest.raises(TypeError, match="6 addresses"):
        plan.run(1, 2)
    with pytest.raises(TypeError):
        plan.run("a", 0, 0, 0, 0, 0)
    with pytest.raises((OverflowError, TypeError)):
        plan.run(-1, 0, 0, 0, 0, 0)
    with pytest.raises(RuntimeError, match="no memory"):
        plan.run(0, 0, 0, 0, 0, 0)
    with fastconv.use_kernel("aten"), pytest.raises(RuntimeError, match="aten"):
        fastconv.plan("max_pool2d", X, 2).run(1, 1, 0, 0, 0, 0)
