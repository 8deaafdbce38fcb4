"""Pins overrule the planner for one problem, survive in files, and never outlive what they are about."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import Target

import fastconv
from fastconv import convolution, pins, plans, settings
from fastconv import functional as FC
from fastconv.testing import integer_tensor

Tensor = torch.Tensor
LAST = torch.channels_last


@pytest.fixture(autouse=True)
def unpinned() -> Iterator[None]:
    """Every test starts and ends without pins."""
    plans.unpin()
    yield
    plans.unpin()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(pass, kernel) of every launch of a convolution that is not aten, as it happens."""
    launches: list[tuple[str, str]] = []

    def spied(plan: Any, *where: Any) -> Callable[..., Tensor]:
        launch = original(plan, *where)

        def run(*operands: Any) -> Tensor:
            launches.append((plan.pass_, plan.kernel))
            return launch(*operands)

        return run

    original = convolution.conv_launch
    monkeypatch.setattr(convolution, "conv_launch", spied)
    return launches


@pytest.fixture
def operands() -> tuple[Tensor, Tensor]:
    """Small enough for the emulator; of integers, so that every kernel has one answer."""
    return integer_tensor((2, 8, 6, 6), seed=1), integer_tensor((8, 8, 3, 3), seed=2)


@pytest.fixture
def emulator() -> Iterator[None]:
    if not fastconv.backends()["emulator"].available:
        pytest.skip(fastconv.backends()["emulator"].reason)
    with fastconv.use_backend("emulator"):
        yield


# ---- what a pin does ----
def test_a_pin_holds_for_calls_that_were_planned_before(emulator, operands, ran):
    before = [FC.conv2d(*operands) for _ in range(3)]  # planned, then remembered by repeats.py
    free = ran[-1][1]
    pinned = next(name for name in ("direct_64x64", "direct_16x128") if name != free)
    plan = plans.pin("conv2d", *operands, kernel=pinned)
    assert plan.kernel == pinned and plan.unpinned == free and "pinned" in plan.explain()
    assert torch.equal(FC.conv2d(*operands), before[0])
    plans.unpin("conv2d", *operands)
    FC.conv2d(*operands)
    assert ran == [("fprop", free)] * 3 + [("fprop", pinned), ("fprop", free)]


def test_a_backward_keeps_the_plan_of_its_forward(emulator, operands, ran):
    x, w = operands[0].requires_grad_(), operands[1]
    free = fastconv.plan("conv2d", x, w, pass_="dgrad").kernel
    y = FC.conv2d(x, w)
    plans.pin("conv2d", x, w, pass_="dgrad", kernel="direct_128x64")
    torch.autograd.grad(y.sum(), x)
    torch.autograd.grad(FC.conv2d(x, w).sum(), x)
    assert free != "direct_128x64" and [kernel for pass_, kernel in ran if pass_ == "dgrad"] == [free, "direct_128x64"]


def test_a_pin_is_about_one_problem_pass_layout_dtype_and_math(emulator, operands):
    x, w = operands
    others: list[tuple[Any, ...]] = [
        (x, w, None, 2),
        (x, w, None, 1, 1),
        (x[:, :, :5], w),
        (x, w[:4]),
        (x.double(), w.double()),
        (x.contiguous(memory_format=LAST), w),
    ]
    free = [fastconv.plan("conv2d", *each).kernel for each in others]
    assert plans.pin("conv2d", x, w, kernel="direct_128x64").unpinned != "direct_128x64"
    assert [fastconv.plan("conv2d", *each).kernel for each in others] == free
    assert "direct_128x64" not in free
    assert fastconv.plan("conv2d", x, w, pass_="wgrad").kernel != "direct_128x64"
    with fastconv.precision("tf32"):
        assert fastconv.plan("conv2d", x, w).kernel != "direct_128x64"
    assert fastconv.plan("conv2d", x, w, torch.zeros(8)).kernel == "direct_128x64"  # a bias is no other problem


def test_pooling_can_be_pinned(native: Target):
    x = integer_tensor((2, 3, 9, 9), seed=0, device=native.device)
    plan = fastconv.plan("max_pool2d", x, 3, 2)
    other = next(each.kernel for each in plan.candidates if each.accepted and each.kernel not in ("aten", plan.kernel))
    assert plans.pin("max_pool2d", x, 3, 2, kernel=other).kernel == other
    assert torch.equal(FC.max_pool2d(x, 3, 2), torch.nn.functional.max_pool2d(x, 3, 2))


def test_a_refused_pin_says_why(emulator, operands):
    with pytest.raises(RuntimeError, match=r"kernel: .*\n  igemm_64x64: the precision asked for is ieee"):
        plans.pin("conv2d", *operands, kernel="igemm_64x64")
    with pytest.raises(RuntimeError, match="kernel: 'warp_drive' is not in this backend's table"):
        plans.pin("conv2d", *operands, kernel="warp_drive")
    with pytest.raises(ValueError, match="pass_: expected fprop"):
        plans.pin("conv2d", *operands, kernel="direct_64x64", pass_="sideways")
    with pytest.raises(RuntimeError, match="kernel: only PyTorch can run this"):
        plans.pin("conv2d", *(each.long() for each in operands), kernel="direct")
    assert plans.pinned() == []


def test_a_pin_that_a_call_cannot_follow_is_reported(emulator, operands, monkeypatch):
    about = plans._pin(plans._route("conv2d", operands, {}), "fprop", "gone")
    settings.change(pins=frozenset([about]))  # as if the table had lost the kernel since
    with pytest.warns(UserWarning, match=r"pin: gone cannot run conv2d .* \(not in the table\); direct_\w+ does"):
        FC.conv2d(*operands)


def test_use_kernel_goes_before_pins_and_blocks_do_not_end_them(emulator, operands):
    with fastconv.precision("ieee"):
        plans.pin("conv2d", *operands, kernel="direct_128x64")
        with fastconv.use_kernel("direct_16x128"):
            assert fastconv.plan("conv2d", *operands).kernel == "direct_16x128"
        with fastconv.use_kernel("native"):
            assert fastconv.plan("conv2d", *operands).kernel == "direct_128x64"
    assert fastconv.plan("conv2d", *operands).kernel == "direct_128x64"


def test_without_pins_the_old_settings_are_back():
    before = settings.current
    x, w = torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3)
    plans.pin("conv2d", x, w, kernel="direct")
    assert settings.current is not before
    plans.unpin()
    assert settings.current is before  # and so are the plans that were made under them


def test_threads_lose_no_pin():
    def work(width: int) -> None:
        for height in range(4, 24):
            plans.pin("avg_pool2d", torch.empty(1, 1, height, width), 2, kernel="direct")

    threads = [threading.Thread(target=work, args=(width,)) for width in range(4, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans.pinned()) == 20 * 8


# ---- batches ----
def half(n: int) -> tuple[Tensor, Tensor]:
    """Operands for which both families of GEMM kernels compete."""
    x, w = torch.randn(n, 16, 6, 6), torch.randn(16, 16, 3, 3)
    return x.half().contiguous(memory_format=LAST), w.half()


@pytest.mark.parametrize("pass_", ["fprop", "dgrad"])
def test_a_pin_takes_its_family_to_every_batch(emulator, pass_):
    free = {n: fastconv.plan("conv2d", *half(n), pass_=pass_).kernel for n in (1, 2, 7, 32)}
    assert all(kernel.startswith("igemm") for kernel in free.values())
    plans.pin("conv2d", *half(2), pass_=pass_, kernel="direct_64x64")
    held = {n: fastconv.plan("conv2d", *half(n), pass_=pass_).kernel for n in free}
    assert held[2] == "direct_64x64" and all(kernel.startswith("direct") for kernel in held.values()), held
    # The other family's pin at another batch is the last word for all of them.
    plans.pin("conv2d", *half(7), pass_=pass_, kernel="igemm_64x128")
    held = {n: fastconv.plan("conv2d", *half(n), pass_=pass_).kernel for n in free}
    assert held[7] == "igemm_64x128" and all(kernel.startswith("igemm") for kernel in held.values()), held
    assert len(plans.pinned()) == 1
    # The same family's stands beside it.
    plans.pin("conv2d", *half(2), pass_=pass_, kernel="igemm_64x64")
    assert {pin.batch: pin.kernel for pin in plans.pinned()} == {2: "igemm_64x64", 7: "igemm_64x128"}


def test_a_samples_bits_do_not_depend_on_the_batch_of_the_pin(emulator):
    torch.manual_seed(0)
    x, w = half(3)
    plans.pin("conv2d", x, w, kernel="direct_64x64")
    whole = FC.conv2d(x, w)
    for i in range(3):
        assert torch.equal(FC.conv2d(x[i : i + 1], w)[0], whole[i])


def test_wgrad_sums_over_the_batch_so_its_pins_hold_for_one(emulator):
    free = fastconv.plan("conv2d", *half(7), pass_="wgrad").kernel
    plans.pin("conv2d", *half(2), pass_="wgrad", kernel="direct_64x64")
    assert free.startswith("igemm") and fastconv.plan("conv2d", *half(7), pass_="wgrad").kernel == free


# ---- files ----
def test_what_is_saved_is_loaded(emulator, operands, tmp_path):
    x = integer_tensor((2, 3, 9, 9), seed=0)
    plans.pin("conv2d", *operands, padding="same", kernel="direct_128x64", pass_="wgrad")
    plans.pin("avg_pool2d", x, 3, ceil_mode=True, kernel="pool_direct")
    plans.pin("avg_pool2d", x, 3, divisor_override=2, kernel="pool_direct")
    saved = plans.pinned()
    plans.save(tmp_path / "plans.json")
    plans.unpin()
    assert fastconv.plan("conv2d", *operands, padding="same", pass_="wgrad").kernel != "direct_128x64"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = plans.load(tmp_path / "plans.json")
    assert sorted(loaded, key=str) == saved == plans.pinned() and len(saved) == 3
    assert fastconv.plan("conv2d", *operands, padding="same", pass_="wgrad").kernel == "direct_128x64"
    assert [path.name for path in tmp_path.iterdir()] == ["plans.json"]


def edited(path, edit: Callable[[dict[str, Any]], None]):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def file(emulator, operands, tmp_path):
    """A file with one pin, which is not in force."""
    plans.pin("conv2d", *operands, kernel="direct_128x64")
    plans.save(tmp_path / "plans.json")
    plans.unpin()
    return tmp_path / "plans.json"


def test_a_file_of_another_version_is_loaded_with_a_warning(file):
    edited(file, lambda content: content.update(fastconv="0.0.1"))
    with pytest.warns(UserWarning, match=r"made by fastconv 0\.0\.1, this is"):
        assert len(plans.load(file)) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kernel": "gone"}, "'gone' is not in this backend's table"),
        ({"kernel": "igemm_64x64"}, "kernel: no kernel accepts"),
        ({"pass_": "sideways"}, "pass"),
        ({"math": "sloppy"}, "math"),
    ],
    ids=lambda change: "_".join(change) if isinstance(change, dict) else "",
)
def test_a_pin_that_this_version_cannot_have_is_ignored(file, operands, change, reason):
    edited(file, lambda content: content["pins"][0].update(change))
    with pytest.warns(UserWarning, match=f"not pinned: .*{reason}"):
        assert plans.load(file) == []
    assert plans.pinned() == [] and FC.conv2d(*operands).shape == (2, 8, 4, 4)


def test_pins_of_a_device_that_is_not_here_have_no_effect_but_are_kept(file, operands):
    edited(file, lambda content: content["pins"][0].update(backend="cuda", device="NVIDIA Z999"))
    with pytest.warns(
        UserWarning, match=r"1 pins have no effect, they are for cuda \(NVIDIA Z999\), which is not here"
    ):
        assert plans.load(file) == []
    assert fastconv.plan("conv2d", *operands).kernel != "direct_128x64"
    plans.save(file)
    assert json.loads(file.read_text())["pins"][0]["device"] == "NVIDIA Z999"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 99, "fastconv": "9", "pins": []}',
        '{"format": 1, "fastconv": "9", "pins": [{}]}',
        '{"format": 1, "fastconv": "9", "pins": [7]}',
        '{"format": 1, "fastconv": "9", "pins": [{"operation": "sort"}]}',
    ],
)
def test_what_is_no_file_of_pins_is_refused(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"^path: .*bad\.json' is no file of pins: \S"):
        plans.load(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        plans.load(tmp_path / "absent.json")


def test_a_malformed_pin_is_refused_whole(file):
    edited(file, lambda content: content["pins"][0]["problem"].pop("stride"))
    with pytest.raises(ValueError, match="is no file of pins: 'stride'"):
        plans.load(file)
    assert plans.pinned() == []


def test_a_problem_is_all_that_its_pin_says():
    """Every attribute that a problem has is a field of its pin, or follows from those that are."""
    module = fastconv.backends()["cpu"].module
    derived = {"rank", "output", "offset_bytes", "flops", "bytes"}
    for operation, cls in (("conv", module.ConvProblem), ("pool", module.PoolProblem)):
        public = {name for name in vars(cls) if not name.startswith("_")}
        assert public - derived == set(pins.FIELDS[operation])
