"""``python -m fastconv info`` and ``explain``: what they promise to print, and how they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastconv
from fastconv import machine, units
from fastconv.cli import explain as explain_command
from fastconv.cli import main

PACKAGE_PARENT = str(Path(fastconv.__file__).parents[1])


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def test_runs_as_a_module():
    command = [sys.executable, "-m", "fastconv", "--help"]
    done = subprocess.run(command, cwd=PACKAGE_PARENT, capture_output=True, text=True, check=True)
    for command in ("demo", "info", "explain"):
        assert command in done.stdout


def test_info_needs_no_extra():
    """The base install has torch and numpy only."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['rich', 'sklearn', 'matplotlib', 'typer', 'tabulate']));"
        "from fastconv.cli import main; main(['info']); main(['explain', 'conv'])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=PACKAGE_PARENT, capture_output=True, text=True, check=True)
    assert "backend cpu: ready" in done.stdout and "The plan" in done.stdout


def test_info_tells_every_backend_and_kernel(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert fastconv.__version__ in text
    for name, backend in fastconv.backends().items():
        assert f"backend {name}: " + ("ready" if backend.available else f"not available: {backend.reason}") in text
        for operation in ("conv", "pool", "separable"):
            for kernel, summary in backend.kernels(operation):
                assert kernel in text and summary in text


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {"versions", "machine", "backends"}
    assert facts["backends"]["cpu"]["available"] and "aten" in facts["backends"]["cpu"]["kernels"]["conv"]
    assert all(each["available"] or each["reason"] for each in facts["backends"].values())


@pytest.mark.parametrize("backend", ["cpu", "emulator", "cuda"])
@pytest.mark.parametrize(
    "problem",
    [
        *(("conv", "--pass", each, "--padding", "1") for each in ("fprop", "dgrad", "wgrad", "bgrad")),
        ("conv", "--groups", "64", "--kernel", "7x3", "--padding", "3x1", "--layout", "nhwc"),
        ("conv", "--rank", "1", "--size", "100", "--dtype", "bfloat16", "--bias"),
        *(("conv_transpose", "--pass", each, "--stride", "2", "--bias") for each in ("fprop", "dgrad", "wgrad")),
        ("conv_transpose", "--rank", "3", "--size", "4x8x8", "--stride", "1x2x2", "--output-padding", "0x1x1"),
        *(("max_pool", "--pass", each, "--ceil-mode") for each in ("fprop", "dgrad", "gather")),
        *(("avg_pool", "--pass", each, "--count-exclude-pad", "--padding", "1") for each in ("fprop", "dgrad")),
    ],
    ids=" ".join,
)
def test_explain_lists_every_candidate(capsys, backend, problem):
    if fastconv.backends()[backend].module is None:
        pytest.skip(f"backend {backend}: {fastconv.backends()[backend].reason}")
    text = explain(capsys, *problem, "--backend", backend)
    kernels = fastconv.backends()[backend].kernels("pool" if "pool" in problem[0] else "conv")
    accepted, _, rest = text.partition("The candidates")[2].partition("The plan")
    for name, _ in kernels:
        assert name in accepted
    chosen = rest.splitlines()[2].strip().split(":")[0]
    assert chosen in dict(kernels) and f"→  {chosen}" in accepted
    for section in ("What is computed", "The floor", "workspace"):
        assert section in text


def test_explain_gives_the_reason_of_a_refusal(capsys):
    text = explain(capsys, "conv", "--only", "aten", "--c", "4", "--k", "4", "--size", "8")
    assert "Refused:" in text and "kernel='aten' was asked for" in text


def test_explain_counts_as_the_problem_does(capsys):
    text = explain(
        capsys, "conv", "--n", "2", "--c", "3", "--k", "5", "--size", "7x9", "--kernel", "3", "--stride", "2"
    )
    assert "(24 × 27) · (27 × 5)" in text  # N·P·Q = 2·3·4, C·R·S = 3·3·3
    assert "2×3×7×9" in text and "5×3×3×3" in text and "2×5×3×4" in text
    assert "6.48 kFLOP" in text  # 2 · 2·5·3·4 · 27


def test_explain_shows_a_transposed_convolution_as_what_it_is(capsys):
    shape = ("--n", "2", "--c", "3", "--k", "5", "--size", "3x4", "--kernel", "3", "--stride", "2")
    text = explain(capsys, "conv_transpose", *shape, "--output-padding", "0x1")
    assert "fprop of a transposed convolution" in text and "gx[n,c,h,w] =" in text
    assert "2×5×7×10" in text and "3×5×3×3" in text and "2×3×3×4" in text
    import torch

    x, w = torch.zeros(2, 3, 3, 4), torch.zeros(3, 5, 3, 3)
    plan = fastconv.plan("conv_transpose2d", x, w, stride=2, output_padding=(0, 1))
    assert plan.pass_ == "dgrad" and f"dgrad of {plan.problem!r}" in " ".join(text.split())  # it is wrapped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv", "--size", "large"], "--size: expected a size such as"),
        (["conv", "--size", "8x8x8"], "--size: expected 1 or 2 numbers, got 3"),
        (["conv", "--pass", "sideways"], "--pass: invalid choice"),
        (["conv", "--kernel", "60"], "weight: kernel size 60x60"),
        (["conv", "--groups", "3"], "not divisible by groups=3"),
        (["conv", "--only", "warp_drive"], "'warp_drive' is not in this backend's table"),
        (["conv_transpose", "--output-padding", "1"], "--output-padding: expected less than the stride"),
        (["conv_transpose", "--padding", "90"], "input"),
        (["conv_transpose", "--pass", "bgrad"], "--pass: invalid choice"),
        (["max_pool", "--padding", "2"], "padding: expected at most half"),
        (["avg_pool", "--divisor", "0"], "divisor_override"),
        (["max_pool", "--k", "3"], "unrecognized arguments"),
        ([], "required: KIND"),
    ],
)
def test_explain_refuses_clearly(capsys, arguments, message):
    try:
        status = main(["explain", *arguments])
    except SystemExit as exit_:  # argparse's own errors
        status = exit_.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error


def test_missing_backend_is_one_line(capsys, monkeypatch):
    missing = fastconv.backends()["cpu"].__class__("cuda", None, False, "fastconv._cuda is not built: no nvcc")
    monkeypatch.setattr("fastconv.cli.errors.backends", lambda: {"cuda": missing})
    assert main(["explain", "conv", "--backend", "cuda"]) == 1
    assert capsys.readouterr().err == "fastconv: error: backend cuda: fastconv._cuda is not built: no nvcc\n"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (45_600_000, "45.6 MB"), (9.999e11, "1.00 TB")]
)
def test_si(value, text):
    assert units.si(value, "B") == text


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25 µs"), (999.7, "1.00 ms"), (4.56e6, "4.56 s")])
def test_microseconds(value, text):
    assert units.microseconds(value) == text


def test_floor_is_the_larger_bound():
    toy = machine.Machine("toy", flops_per_second=1e9, bytes_per_second=1e6, source="made up")
    assert toy.floor(2e6, 1e3) == machine.Floor(arithmetic=2000.0, memory=1000.0)
    assert toy.floor(2e6, 1e3).bound == "arithmetic" and toy.floor(2e6, 1e3).microseconds == 2000.0
    assert toy.floor(1e6, 2e3).bound == "memory"
    assert machine.gpu("bfloat16", "NVIDIA H200").bytes_per_second > machine.gpu("bfloat16").bytes_per_second


RESNET = ("conv", "--n", "32", "--c", "64", "--k", "64", "--size", "56", "--kernel", "3", "--padding", "1")


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
def test_explain_reads_like_a_page(capsys, pass_):
    """A layer of ResNet-50: the floor, figures for every candidate, a reason for each that is not the choice."""
    if fastconv.backends()["emulator"].module is None:
        pytest.skip(fastconv.backends()["emulator"].reason)
    problem = (*RESNET, "--dtype", "float16", "--layout", "nhwc", "--pass", pass_, "--backend", "emulator")
    text = explain(capsys, *problem)
    lines = text.splitlines()
    assert max(map(len, lines)) < 100 and len(lines) < 70
    assert "7.40 GFLOP" in text and "25.8 MB" in text and "295, so this is memory-bound" in text
    (choice,) = (line for line in lines if line.startswith("  →"))
    name = choice.split()[1]
    for column in ("DRAM", "L2", "cycles", "waves", "resident"):
        assert column in text
    rows = [line.split() for line in lines if "µs" in line and line.endswith(("(registers)", "(shared memory)"))]
    assert len(rows) >= 5 and all(len(row) >= 12 for row in rows)
    for kernel in dict(fastconv.backends()["emulator"].kernels("conv")):
        assert text.count(f"    {kernel} ") + text.count(f"→  {kernel}") + text.count(f"  {kernel}:") >= 1, kernel
    passed_over = text.partition("Passed over:")[2].partition("Refused:")[0]
    assert (
        passed_over.count("% longer: ") + passed_over.count("times as long: ") == len(rows) - 1
        and name not in passed_over
    )
    (runner_up,) = (line for line in lines if line.startswith("  runner-up"))
    assert runner_up.split()[1].rstrip(",") == passed_over.split()[0] and "% longer" in runner_up


def test_explain_says_why_a_kernel_is_passed_over():
    def cost(microseconds: float, cycles: float, traffic: float) -> SimpleNamespace:
        return SimpleNamespace(cost=SimpleNamespace(microseconds=microseconds, cycles=cycles, bytes=traffic))

    plan = SimpleNamespace(kernel="igemm_64x64", cost=cost(10, 1000, 500).cost)
    reasons = {
        "adds up in another order than igemm_64x64, the choice for a batch of 32": cost(9, 1000, 500),
        "takes 50% longer: 1.50 × the cycles": cost(15, 1500, 500),
        "takes 20% longer: 2 × the DRAM bytes": cost(12, 900, 1000),
        "takes 4 times as long: a less efficient main loop": cost(40, 1000, 500),
    }
    for reason, other in reasons.items():
        assert explain_command._why_not(plan, other).startswith(reason)


def test_tf32_is_judged_by_its_own_roof(capsys):
    by_math = {math: explain(capsys, *RESNET, "--math", math, "--backend", "emulator") for math in ("ieee", "tf32")}
    assert "67 TFLOP/s" in by_math["ieee"] and "495 TFLOP/s" in by_math["tf32"]


def test_every_page_is_narrow(capsys):
    for problem in (("conv", "--rank", "3", "--size", "14"), ("max_pool",), ("avg_pool", "--count-exclude-pad")):
        for pass_ in ("fprop", "dgrad"):
            for backend in ("cpu", "emulator"):
                if fastconv.backends()[backend].module is not None:
                    text = explain(capsys, *problem, "--pass", pass_, "--backend", backend)
                    assert max(map(len, text.splitlines())) < 100, text
