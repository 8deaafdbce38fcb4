"""The demo from end to end, the race's bookkeeping, and the examples."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest
import torch

from fastconv.cli import main

pytest.importorskip("sklearn", reason="the demo needs fastconv[demo]")
pytest.importorskip("rich", reason="the demo needs fastconv[demo]")
pytest.importorskip("matplotlib", reason="the demo needs fastconv[demo]")

from fastconv.demo.lenet import LeNet5, load_digits
from fastconv.demo.training import Contestant, Race, batches, difference

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quick_demo(tmp_path, capsys):
    status = main(["demo", "--quick", "--backend", "cpu", "--kernel", "native", "--json", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert status == 0 and figures["passed"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert figures["test_accuracy"]["fastconv"] == pytest.approx(figures["test_accuracy"]["torch.nn"], abs=0.02)
    # A few dozen steps of the same float32 training: the two nets part no further than torch does from float64.
    apart, control = (figures["largest_differences"][f"{a} - {b}"] for a, b in
                      (("fastconv", "torch.nn"), ("torch.nn", "float64")))  # fmt: skip
    assert 0 < apart < 10 * control
    for layer in ("c1", "s2", "c3", "s4", "c5"):
        assert layer in text
    assert all("aten" not in layer.values() for layer in figures["kernels"])


def test_below_the_threshold_is_a_failure(tmp_path, capsys):
    arguments = ["--quick", "--epochs", "1", "--batch-size", "240", "--threshold", "0.999"]
    assert main(["demo", *arguments, "--backend", "cpu", "--out", str(tmp_path)]) == 1
    assert "is below 0.999" in capsys.readouterr().err


def test_missing_extra_is_one_line(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find_spec(name))
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "fastconv: error: the demo needs rich: pip install fastconv[demo]\n"


@pytest.mark.parametrize(("name", "message"), [("warp_drive", "expected one of"), ("depthwise", "not depthwise")])
def test_a_kernel_that_cannot_be_had(name, message, tmp_path, capsys):
    assert main(["demo", "--quick", "--backend", "cpu", "--kernel", name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastconv: error: kernel: ") and message in error


@pytest.mark.parametrize("option", [["--epochs", "0"], ["--epochs", "many"], ["--backend", "abacus"]])
def test_bad_options(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["demo", *option])
    assert option[0] in capsys.readouterr().err


def test_digits_are_split_without_overlap():
    data = load_digits()
    assert len(data.train_labels) + len(data.test_labels) == 1797 and len(data.test_labels) == 360
    assert data.train_images.shape[1:] == (1, 32, 32)
    seen = {image.numpy().tobytes() for image in data.train_images}
    repeated = sum(image.numpy().tobytes() in seen for image in data.test_images)
    assert repeated <= 2  # the set itself may hold a digit twice
    assert (data.test_labels.bincount() >= 34).all()  # stratified: each digit is a tenth


def test_a_race_of_equals_never_parts():
    """The bookkeeping itself adds no difference: two contestants with the same operators stay equal to the bit."""
    torch.manual_seed(0)
    data = load_digits()._replace(test_images=torch.zeros(1, 1, 32, 32), test_labels=torch.zeros(1, dtype=torch.long))
    data = data._replace(train_images=data.train_images[:48], train_labels=data.train_labels[:48])
    nets = [LeNet5(torch.nn), LeNet5(torch.nn)]
    nets[1].load_state_dict(nets[0].state_dict())
    race = Race([Contestant("a", nets[0]), Contestant("b", nets[1])], [("a", "b")])
    steps = []
    assert list(race.train(data, 2, 16, seed=1, advance=lambda: steps.append(1))) == [1, 2]
    assert len(steps) == 6 and race.differences["a", "b"] == [0.0] * 6
    assert race["a"].losses == race["b"].losses and len(race["a"].epoch_losses) == 2


def test_difference_is_of_the_worst_tensor():
    a, b = LeNet5(torch.nn), LeNet5(torch.nn)
    a.load_state_dict(b.state_dict())
    with torch.no_grad():
        a.c3.bias[2] += 0.25 * b.c3.bias.abs().max()
    assert difference(a, b) == pytest.approx(0.25, rel=1e-5)


def test_batches_cover_an_epoch():
    data = load_digits()
    found = list(batches(data, 100, torch.Generator().manual_seed(3)))
    assert [len(labels) for _, labels in found] == [100] * 14 + [37]
    assert torch.cat([labels for _, labels in found]).bincount().tolist() == data.train_labels.bincount().tolist()


def test_example_swap(capsys):
    assert runpy.run_path(str(EXAMPLES / "swap.py"))["main"]() < 1e-5
    assert "6 of 6" in capsys.readouterr().out


def test_example_lenet(capsys):
    assert runpy.run_path(str(EXAMPLES / "lenet.py"))["main"](2) > 0.8
    assert "epoch 2" in capsys.readouterr().out
