"""The fragment layouts of csrc/device against CuTe's, element by element: a second opinion on PTX that needs no GPU.

Kernel and emulator could share one misreading of a layout; CuTe is NVIDIA's own reading, as an executable host program.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from kernel_lab import Fragments, emulate, fragments

pytestmark = pytest.mark.slow  # nvcc takes half a minute over CuTe's headers

MMA = {
    "m16n8k16_f16": 16,
    "m16n8k16_bf16": 16,
    "m16n8k8_f16": 8,
    "m16n8k8_bf16": 8,
    "m16n8k8_tf32": 8,
    "m16n8k4_tf32": 4,
}
LDMATRIX = {"x1": 1, "x2": 2, "x4": 4, "x1_trans": 1, "x2_trans": 2, "x4_trans": 4}


def _nvcc() -> str:
    found = shutil.which("nvcc")
    for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        candidate = Path(root or "") / "bin" / "nvcc"
        if not found and root and candidate.exists():
            found = str(candidate)
    if not found:
        pytest.skip("no nvcc: it compiles CuTe's headers, a host compiler alone does not")
    return found


def _headers() -> Path:
    package = importlib.util.find_spec("cutlass_library")
    if package is None:
        pytest.skip("no CuTe headers: pip install --no-deps nvidia-cutlass")
    return Path(package.submodule_search_locations[0]) / "source" / "include"


@pytest.fixture(scope="module")
def cute(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[np.ndarray]]:
    """The tables that tests/cute_layouts.cu prints, by name."""
    compiler, headers = _nvcc(), _headers()
    program = tmp_path_factory.mktemp("cute") / "layouts"
    source = Path(__file__).with_name("cute_layouts.cu")
    subprocess.run([compiler, "-std=c++17", "-I", str(headers), "-o", str(program), str(source)], check=True)
    tables: dict[str, list[np.ndarray]] = {}
    for line in subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.startswith(("mma", "ldmatrix")):
            tables[line.split()[1]] = rows = []
        else:
            rows.append(np.array(line.split(), int).reshape(32, -1))
    return tables


def _cute_fragments(tables: list[np.ndarray]) -> Fragments:
    a, b, d = tables
    return Fragments((a % 16, a // 16), (b // 8, b % 8), (d % 16, d // 16))  # CuTe's B is (column, row)


@pytest.mark.parametrize("name", MMA)
def test_mma_layout_is_as_stated(cute: dict[str, list[np.ndarray]], name: str):
    """What csrc/device/mma.h says, which the conformance tests pack by."""
    stated, theirs = fragments(MMA[name], 1 if "tf32" in name else 2), _cute_fragments(cute[name])
    for ours, other in zip((stated.a, stated.b, stated.d), (theirs.a, theirs.b, theirs.d), strict=True):
        for axis in (0, 1):
            np.testing.assert_array_equal(np.broadcast_to(ours[axis], other[axis].shape), other[axis])


@pytest.mark.parametrize("name", MMA)
def test_mma_multiplies_matrices_packed_by_cute(cute: dict[str, list[np.ndarray]], name: str):
    """What the emulator does, on small integers."""
    layout, k = _cute_fragments(cute[name]), MMA[name]
    rng = np.random.default_rng(k)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((16, k), (k, 8)))
    if name.endswith("_f16"):
        registers = layout.pack(a.astype(np.float16), b.astype(np.float16))
    elif name.endswith("_bf16"):
        registers = layout.pack(*((x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)))
    else:
        registers = layout.pack(a, b)
    d = np.zeros((32, 4), np.float32)
    emulate(f"mma_{name}", [*registers, d], [0], block=(32, 1, 1))
    np.testing.assert_array_equal(layout.unpack(d), a @ b)


@pytest.mark.parametrize("name", LDMATRIX)
def test_ldmatrix_layout(cute: dict[str, list[np.ndarray]], name: str):
    tile = np.arange(256, dtype=np.uint16)
    out = np.zeros(32 * LDMATRIX[name], np.uint32)
    emulate(f"ldmatrix_{name}", [tile, np.zeros(1), out], block=(32, 1, 1))
    element = cute[name][0]
    row_of_lane = 5 * np.arange(32) % 32  # the row whose address that lane gives, in the conformance kernel
    np.testing.assert_array_equal(
        out.view(np.uint16).reshape(32, -1), tile[row_of_lane[element // 8] * 8 + element % 8]
    )
