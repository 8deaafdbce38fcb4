"""The benchmark's bookkeeping: what is timed is what is named, and what is written can be read. No time is asserted."""

import csv
import json
import re
import time

import pytest
import torch
from torch.nn import functional as torch_functional

import fastconv
from bench import counters, environment, gpu, layers, overhead, report, resources, suite, timers
from bench.__main__ import main
from bench.cases import Case

pytest.importorskip("matplotlib", reason="the benchmark's chart needs fastconv[bench]")

TINY_CONV = layers.Layer("tiny conv", "conv", 2, 4, 4, 9, 3, stride=2, padding=1, k=6, groups=2)
TINY_BIAS = TINY_CONV.on("cpu", bias=True)
TINY_POOL = layers.Layer("tiny pool", "max", 2, 4, 4, 8, 2, 2)


@pytest.fixture
def tiny_suite(monkeypatch):
    monkeypatch.setitem(layers.SUITES, "quick", (TINY_CONV, TINY_POOL))


def test_writes_four_files(tiny_suite, tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--rounds", "2", "--passes", "forward,backward,gx,gw"]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["schema"] == report.SCHEMA
    assert {"device", "date", "commit", "threads", "versions"} <= set(document["environment"])
    rows = document["rows"]
    # conv in four passes, pooling in two, both in two layouts
    assert [(row["layer"], row["pass"], row["layout"]) for row in rows] == [
        (layer, pass_, layout)
        for layer, passes in (
            ("tiny conv", ("forward", "backward", "gx", "gw")),
            ("tiny pool", ("forward", "backward")),
        )
        for pass_ in passes
        for layout in ("nchw", "nhwc")
    ]
    for row in rows:
        assert not row["note"] and row["kernel"]
        assert row["ratio"] == pytest.approx(row["torch_us"] / row["fastconv_us"])
        assert row["fastconv_us"] == row["fastconv_best_us"] <= row["fastconv_median_us"]
        assert row["gflops"] > 0 and row["gbytes"] > 0 and row["floor_us"] > 0
        assert row["error"] < 1e-5 and row["torch_error"] < 1e-5
    with (tmp_path / "results.csv").open() as file:
        assert [line["layer"] for line in csv.DictReader(file)] == [row["layer"] for row in rows]
    markdown = (tmp_path / "results.md").read_text()
    assert markdown.count("| tiny conv |") == 8 and "geometric mean" in markdown
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_refusal_is_a_note_not_a_crash():
    """bfloat16 average pooling, say, may be unknown to an old torch: the row says so and the suite goes on."""
    impossible = layers.Layer("no such layer", "conv", 1, 1, 4, 3, 5, k=4)
    rows = list(suite.run([impossible, TINY_POOL], suite.Options(rounds=1, passes=("forward",), layouts=("nchw",))))
    assert "weight: kernel size 5x5" in rows[0].note and rows[0].ratio is None
    assert rows[1].ratio
    assert any("not measured" in line for line in report.summary(rows))
    assert "no such layer" not in report.table(rows)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("layer", [TINY_CONV, TINY_BIAS, TINY_POOL], ids=lambda layer: layer.shape)
def test_cases_compute_what_they_name(layer, layout):
    for pass_ in ("forward", "backward", "gx", "gw"):
        case = Case(layer, pass_, layout, "float64", "cpu")
        if not case.exists:
            assert (layer.kind, pass_) in (("max", "gx"), ("max", "gw"))
            continue
        ours, theirs = (case.call(functional)() for functional in (fastconv.functional, torch_functional))
        tensors = case.tensors()
        expected = {"forward": None, "backward": tensors, "gx": tensors[:1], "gw": tensors[1:2]}[pass_]
        if expected is not None:
            assert [each.shape for each in ours] == [each.shape for each in expected]
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
        assert max(case.errors(lambda ours=ours: ours)) < 1e-14
        assert case.errors(lambda theirs=theirs: [each + 1 for each in theirs])[0] > 0.01


def test_tensors_are_the_same_numbers_in_both_layouts():
    nchw, nhwc = (TINY_CONV.tensors("cpu", torch.float32, layout) for layout in ("nchw", "nhwc"))
    for a, b in zip(nchw, nhwc, strict=True):
        assert torch.equal(a, b) and a.is_contiguous() and b.is_contiguous(memory_format=torch.channels_last)


def test_bias_is_of_convolutions(tiny_suite, tmp_path):
    assert main(["--out", str(tmp_path), "--rounds", "1", "--bias", "--passes", "backward", "--layouts", "nchw"]) == 0
    conv, pool = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert conv["shape"].endswith("/2 groups 2 + bias") and conv["kernel"].count(" + ") == 2
    assert "bias" not in pool["shape"]


def test_kernel_is_forced(tiny_suite, tmp_path):
    assert main(["--out", str(tmp_path), "--rounds", "1", "--kernel", "aten", "--passes", "forward"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["kernel"] for row in rows} == {"aten"}
    assert fastconv.plan("conv2d", torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)).kernel  # the force is over


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "no such"], "nothing in suite quick matches 'no such'"),
        (["--kernel", "warp_drive"], "'warp_drive'"),
        (["--passes", "sideways"], "expected a list of forward, backward, gx, gw"),
        (["--suite", "slow"], "invalid choice"),
        (["--clock", "cpu"], "clock: cpu sees the calling thread alone"),
        (["counters", "--layers", "no such"], "nothing in suite quick matches 'no such'"),
    ],
)
def test_bad_options(capsys, arguments, message):
    if arguments[0] == "counters" and not fastconv.backends()["emulator"].available:
        pytest.skip(fastconv.backends()["emulator"].reason)
    try:
        status = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2 and message in capsys.readouterr().err


def test_select():
    assert [each.name for each in layers.select("quick", "vgg, STEM")] == ["ResNet-50 stem 7×7/2", "VGG 3×3"]
    assert len(layers.select("quick")) == len(layers.QUICK) == len({each.name for each in layers.QUICK})


def test_suites_of_depthwise_and_grouped_layers():
    depthwise, grouped = layers.SUITES["depthwise"], layers.SUITES["grouped"]
    assert all(layer.groups == layer.c for layer in depthwise) and {layer.kernel for layer in depthwise} >= {3, 31}
    assert all(1 < layer.groups < layer.c for layer in grouped) and {layer.c // layer.groups for layer in grouped} >= {
        4
    }
    assert grouped[0].with_batch(5).on("cuda").n == 5 and grouped[0].with_batch(None) == grouped[0]


def test_every_network_is_a_suite():
    networks = {"resnet-50", "vgg-16", "densenet-121", "efficientnet-b0", "convnext-t", "u-net", "deeplab"}
    networks |= {"mobilenetv2", "replknet-31", "resnext", "efficientnet-b1-b7"}
    assert layers.SUITES.keys() == networks | {"quick", "pooling", "depthwise", "grouped"}
    for suite_layers in layers.SUITES.values():
        assert len(suite_layers) == len({each.name for each in suite_layers})
    (stem,) = layers.select("resnet-50", "3-64")
    assert stem.shape == "1×3×224² 7×7 →64/2" and stem.on("cuda", bias=True).n == 32


@pytest.mark.parametrize("layer", layers.QUICK, ids=lambda layer: layer.name)
def test_suite_layers_are_real(layer):
    """Every layer of the suite, and its small form for the emulator, is one that torch accepts."""
    for each in (layer.small(), layer.small(channels=8, size=8)):
        tensors = each.tensors("cpu", torch.float32, "nchw")
        assert getattr(torch_functional, each.function)(*tensors, *each.arguments).numel() > 0
    assert layer.c % layer.groups == 0 and layer.k % layer.groups == 0
    assert layer.on("cuda").n == layer.n_gpu and layer.small().n == 1


def test_counters(tmp_path, capsys):
    emulator = fastconv.backends()["emulator"]
    if not emulator.available:
        pytest.skip(f"backend emulator: {emulator.reason}")
    path = tmp_path / "counts.json"
    arguments = ["counters", "--layers", "ResNet-50 3×3", "--channels", "8", "--size", "8", "--json", str(path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    counts = json.loads(path.read_text())
    assert {(each["pass_"], each["layout"]) for each in counts} == {
        (pass_, layout) for pass_ in counters.PASSES for layout in ("nchw", "nhwc")
    }
    for each in counts:
        assert each["load_sectors"] > 0 and each["store_sectors"] > 0
        assert each["kernel"] in printed
        assert each["load_over_ideal"] >= 1 and each["store_over_ideal"] >= 1
    assert main(arguments) == 0
    assert json.loads(path.read_text()) == counts  # exact and repeatable


def test_rivals_take_turns():
    """Calls that are slow enough to be repeated once each: first a warm-up, two trials, then the rounds."""
    order = []

    def call(name):
        order.append(name)
        time.sleep(5e-3)

    samples = timers.measure([lambda: call("a"), lambda: call("b")], "cpu", rounds=4)
    assert "".join(order) == "aaabbb" + "ba" + "ab" + "ba" + "ab"
    assert [(len(each.microseconds), each.repetitions) for each in samples] == [(4, 1), (4, 1)]


def test_cpu_clock_does_not_count_what_others_run():
    asleep, _ = timers.measure([lambda: time.sleep(0.01)] * 2, "cpu", rounds=1, clock="cpu")
    assert asleep.best < 5e3  # 10 ms asleep are no work, whatever the machine is like


def test_samples():
    samples = timers.Samples((3.0, 1.0, 7.0), repetitions=5)
    assert samples.best == 1.0 and samples.median == 3.0


def test_gpu_entry_says_what_is_missing(capsys):
    cuda = fastconv.backends()["cuda"]
    if cuda.available:
        pytest.skip("there is a GPU: `make gpu` itself is the test")
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == f"bench.gpu: error: {cuda.reason}\n"


def test_environment():
    facts = environment.describe("cpu")
    assert facts["threads"] == torch.get_num_threads() and facts["versions"]["torch"] == torch.__version__
    assert environment.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    json.dumps(facts)


def test_the_planners_registers_are_held_to_what_was_built():
    table = '{"gemm<.*, false", 176}, {"gemm<.*, true", 192}'

    def built(architecture: str, **registers: int) -> list[resources.Usage]:
        names = {"plain": "gemm<f16, false>", "dgrad": "gemm<f16, true>", "wide": "gemm<float, false>"}
        return [resources.Usage(architecture, names[name], count, 0, 0, 0) for name, count in registers.items()]

    assert resources.misjudged(built("sm_90a", plain=160, wide=170, dgrad=192), table) == []
    assert resources.misjudged(built("sm_80", plain=9), table) == []  # not what the table is of
    (wrong,) = resources.misjudged(built("sm_90a", plain=177, dgrad=190), table)
    assert wrong == "registers.h: 'gemm<.*, false': 176 planned, was built with 177 registers"
    (wrong,) = resources.misjudged(built("sm_90a", plain=170), table)
    assert wrong == "registers.h: 'gemm<.*, true': 192 planned, is no kernel's name"
    lines = resources.TABLE_LINE.findall(resources.TABLE.read_text())
    assert len(lines) >= 28 and all(re.compile(kernels) and int(count) % 8 == 0 for kernels, count in lines)


def test_what_choosing_costs_is_measured():
    rows = overhead.choosing(problems=3)
    assert any(name.startswith("cpu") for name, *_ in rows) and all(0 < median <= most for _, median, most in rows)
    assert len(overhead.first_calls(problems=3)) == 3
