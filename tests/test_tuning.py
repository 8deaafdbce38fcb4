"""``fastconv.tune`` times every kernel that accepts, pins the fastest, and changes nothing else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

import fastconv
from fastconv import convolution, plans, timing, tuning
from fastconv import functional as FC

Tensor = torch.Tensor
DEPTHWISE = torch.zeros(2, 8, 12, 12), torch.zeros(8, 1, 3, 3), None, 1, 1, 1, 8


@pytest.fixture(autouse=True)
def unpinned() -> Iterator[None]:
    """Every test starts and ends without pins."""
    plans.unpin()
    yield
    plans.unpin()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """kernel -> the microseconds that tune is told, for any problem; 100 for a kernel that is not there."""
    times: dict[str, float] = {}
    racing: list[list[str]] = []
    race = tuning._Met.race

    def noted(self: Any, *limits: Any) -> Any:
        racing.append([each.kernel for each in self.plan().candidates if each.accepted])
        return race(self, *limits)

    def measure(calls: Sequence[Callable[[], object]], *_: Any) -> list[timing.Samples]:
        for call in calls:
            call()  # it must at least run
        return [timing.Samples((times.get(kernel, 100.0),), 1) for kernel in racing[-1]]

    monkeypatch.setattr(tuning._Met, "race", noted)
    monkeypatch.setattr(tuning, "measure", measure)
    return times


def test_a_planted_wrong_choice_is_found(monkeypatch):
    """By the clock: the kernel that the planner prefers is made to sleep."""
    assert fastconv.plan("conv2d", *DEPTHWISE).kernel == "depthwise"
    launch = convolution.conv_launch

    def slow(plan: Any, *where: Any) -> Callable[..., Tensor]:
        run = launch(plan, *where)
        return run if plan.kernel != "depthwise" else lambda *operands: (time.sleep(0.02), run(*operands))[1]

    monkeypatch.setattr(convolution, "conv_launch", slow)
    report = fastconv.tune("conv2d", *DEPTHWISE, budget=0.1, rounds=5)
    (found,) = report.tuned
    assert found.planned == "depthwise" != found.pin.kernel and report.changed == [found]
    assert fastconv.plan("conv2d", *DEPTHWISE).kernel == found.pin.kernel


def test_the_fastest_is_pinned_and_reported(clock):
    clock.update(direct=20.0, depthwise=50.0)
    report = fastconv.tune("conv2d", *DEPTHWISE)
    (found,) = report.tuned
    assert (found.planned, found.pin.kernel, found.gain) == ("depthwise", "direct", 2.5)
    assert {trial.kernel for trial in found.trials} == {"direct", "blocked", "interleaved", "depthwise", "aten"}
    text = str(report)
    assert "→  direct" in text and "the planner's choice" in text and "2.50 times as fast" in text
    for trial in found.trials:
        assert trial.predicted == next(
            each.cost.microseconds
            for each in plans.plan("conv2d", *DEPTHWISE).candidates
            if each.kernel == trial.kernel
        )


def test_noise_does_not_overrule_the_planner(clock):
    clock.update(direct=98.0, depthwise=100.0)
    assert fastconv.tune("conv2d", *DEPTHWISE).tuned[0].pin.kernel == "depthwise"


def model() -> torch.nn.Sequential:
    layers = [
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.AvgPool2d(2),
    ]
    return fastconv.convert(torch.nn.Sequential(*layers, torch.nn.Flatten()))


def test_a_model_is_tuned_with_its_backward(clock):
    net, x = model(), torch.randn(2, 3, 14, 14)
    report = fastconv.tune(net, x)
    passes = [(each.pin.operation, each.pin.pass_) for each in report.tuned]
    conv, pool = ("fprop", "dgrad", "wgrad", "bgrad"), ("fprop", "dgrad")
    expected = [("conv", each) for each in conv] + [("pool", each) for each in pool]
    assert sorted(passes) == sorted(expected * 2) and len(plans.pinned()) == len(passes)
    assert all(each.grad is None for each in net.parameters())
    with torch.no_grad():
        assert {each.pin.pass_ for each in fastconv.tune(net, x).tuned} == {"fprop"}


def test_a_function_is_tuned_by_what_it_runs(clock):
    x, w = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)

    def step() -> None:
        for _ in range(2):
            FC.avg_pool2d(FC.conv2d(x, w), 2)
        torch.nn.functional.conv2d(x, w, stride=2)  # not ours

    assert len(fastconv.tune(step).tuned) == 2


def test_a_transposed_convolution_is_tuned_as_the_convolution_it_transposes(clock):
    net = fastconv.convert(torch.nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1))
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    clock.update(direct=10.0)
    report = fastconv.tune(net, x)
    assert {each.pin.pass_: each.pin.kernel for each in report.tuned} == dict.fromkeys(
        ("dgrad", "fprop", "wgrad", "bgrad"), "direct"
    )
    call = "conv_transpose2d", x, net.weight, net.bias, 2, 1, 1
    for pass_ in ("fprop", "dgrad", "wgrad", "bgrad"):
        assert fastconv.plan(*call, pass_=pass_).kernel == "direct"
        plans.unpin(*call, pass_=pass_)
    assert plans.pinned() == []


@pytest.mark.parametrize("fast", ["vector", "aten"])
def test_pooling_with_a_gradient_is_ours_or_torchs_in_both_passes(clock, fast):
    clock.update({fast: 10.0})
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    for pool in (FC.max_pool2d, FC.avg_pool2d):
        found = {each.pin.pass_: each.pin.kernel for each in fastconv.tune(pool, x, 3).tuned}
        assert found == {"fprop": fast, "dgrad": fast}


def test_both_or_neither():
    times = [{"aten": 10.0, "direct": 20.0, "vector": 30.0}, {"aten": 50.0, "direct": 30.0}]
    natives = [{"direct": 20.0, "vector": 30.0}, {"direct": 30.0}]
    assert tuning._both_or_neither(["aten", "vector"], times) == natives  # 50 against 60
    times[1]["aten"] = 41.0  # 51 is within the noise of 50: what is planned stays
    assert tuning._both_or_neither(["direct", "direct"], times) == natives
    assert tuning._both_or_neither(["aten", "direct"], times) == [{"aten": 10.0}, {"aten": 41.0}]


class GPU:
    """Of a pass on a GPU, as much as choosing needs: PyTorch's operator is the last resort there."""

    both_or_neither = False
    problem = "a problem"

    def plan(self) -> Any:
        return type("Plan", (), {"kernel": "igemm"})

    def pin(self, kernel: str) -> Any:
        return type("Pin", (), {"kernel": kernel})


def test_what_the_planner_has_no_price_for_is_a_yardstick():
    trials = [tuning.Trial("igemm", 9.0, 50.0), tuning.Trial("direct", 20.0, 40.0), tuning.Trial("aten", None, 5.0)]
    (found,) = tuning._choose([GPU()], [trials])
    assert (found.pin.kernel, found.planned, found.trials) == ("direct", "igemm", trials)
    assert tuning._choose([GPU()], [trials[2:]]) == []  # nothing of ours takes it


def test_what_pytorch_alone_can_run_is_said(clock):
    x = torch.ones(1, 2, 5, 5, dtype=torch.int64)
    report = fastconv.tune("conv2d", x, torch.ones(2, 2, 3, 3, dtype=torch.int64))
    assert report.tuned == [] and "no kernel takes torch.int64" in str(report)


def test_it_refuses_where_time_means_nothing():
    if fastconv.backends()["emulator"].available:
        with fastconv.use_backend("emulator"), pytest.raises(RuntimeError, match=r"^backend: the emulator's time says"):
            fastconv.tune("conv2d", *DEPTHWISE)
    with (
        fastconv.use_kernel("direct"),
        pytest.raises(RuntimeError, match=r"^kernel: use_kernel\('direct'\) is in force"),
    ):
        fastconv.tune("conv2d", *DEPTHWISE)
    with pytest.raises(ValueError, match=r"^function: expected a callable or one of conv1d"):
        fastconv.tune("conv", *DEPTHWISE)
    with pytest.raises(ValueError, match=r"^function: ReLU\(\) ran no convolution"):
        fastconv.tune(torch.nn.ReLU(), DEPTHWISE[0])
    with pytest.raises(RuntimeError, match=r"^conv2d: input: expected 8 channels"):
        fastconv.tune("conv2d", torch.zeros(1, 4, 5, 5), DEPTHWISE[1], groups=8)


def test_the_old_pin_has_no_say_in_the_next_race(clock):
    plans.pin("conv2d", *DEPTHWISE, kernel="blocked")
    (found,) = fastconv.tune("conv2d", *DEPTHWISE).tuned
    assert found.planned == found.pin.kernel == "depthwise" and len(plans.pinned()) == 1


def test_progress_is_optional(clock, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert len(fastconv.tune("conv2d", *DEPTHWISE).tuned) == 1


@pytest.mark.cuda
def test_on_a_gpu():
    if not fastconv.backends()["cuda"].available:
        pytest.skip(fastconv.backends()["cuda"].reason)
    x = torch.randn(8, 64, 28, 28, device="cuda", dtype=torch.half).contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, device="cuda", dtype=torch.half).requires_grad_()
    report = fastconv.tune("conv2d", x, w, padding=1)
    assert {each.pin.pass_ for each in report.tuned} == {"fprop", "dgrad", "wgrad"}
    for each in report.tuned:
        assert each.pin.kernel != "aten" and all(0 < trial.measured < 1e6 for trial in each.trials)
        assert each.measured(each.pin.kernel) <= each.measured(each.planned)
    print(report)
