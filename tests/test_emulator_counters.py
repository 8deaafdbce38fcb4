"""The emulator's counters say what the hardware would: figures known by hand, the same under every schedule and on any
number of OS threads.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_lab import MODES, configured, emulate, lab


def count(
    kernel: str, integers=(), floats: int = 1 << 14, mode: str = "forward", offset: int = 0, threads: int = 1, **launch
):
    """The counters of one launch; arrays of float32 that start ``offset`` elements past a multiple of 64 bytes."""
    memory = np.zeros(2 * floats + 64, np.float32)
    start = -memory.ctypes.data // 4 % 16
    arrays = [memory[start + offset :][:floats], memory[start + floats :][:floats]]
    with configured(**MODES[mode], count=True, threads=threads) as module:
        module.reset_counters()
        emulate(kernel, arrays, list(integers), **launch)
        return module.counters()[kernel]


WARP = {"block": (32, 1, 1)}


@pytest.mark.parametrize(
    ("kernel", "stride", "first", "sectors", "ideal"),
    [
        ("strided_copy_4", 1, 0, 4, 4),  # 128 bytes in a row
        ("strided_copy_4", 1, 1, 5, 4),  # off by an element: one sector more
        ("strided_copy_4", 2, 0, 8, 4),
        ("strided_copy_4", 8, 0, 32, 4),  # a sector a lane
        ("strided_copy_4", 100, 3, 32, 4),
        ("strided_copy_4", 0, 0, 1, 1),  # a broadcast
        ("strided_copy_2", 1, 0, 2, 2),
        ("strided_copy_2", 1, 1, 3, 2),
        ("strided_copy_16", 1, 0, 16, 16),
        ("strided_copy_16", 1, 1, 17, 16),
        ("strided_copy_16", 2, 0, 32, 16),
    ],
)
def test_sectors_of_a_load(kernel: str, stride: int, first: int, sectors: int, ideal: int):
    counted = count(kernel, [stride, first, 1], **WARP)
    size = int(kernel.rsplit("_", 1)[1])
    once = {"requests": 1, "bytes": 32 * size}
    assert counted["global_load"] == once | {"sectors": sectors, "ideal": ideal, "distinct": sectors}
    assert counted["global_store"] == once | {"sectors": size, "ideal": size, "distinct": size}


def test_a_tensor_that_starts_off_a_sector_costs_one_more():
    assert count("strided_copy_4", [1, 0, 1], **WARP)["global_load"]["sectors"] == 4
    assert count("strided_copy_4", [1, 0, 1], offset=1, **WARP)["global_load"]["sectors"] == 5


def test_a_loop_makes_a_request_a_turn_and_warps_do_not_mix():
    counted = count("strided_copy_4", [1, 0, 7], grid=(3, 1, 1), block=(96, 1, 1))
    requests = 3 * 3 * 7
    assert counted["global_load"] == {
        "requests": requests,
        "sectors": 4 * requests,
        "ideal": 4 * requests,
        "distinct": 4 * requests,
        "bytes": 128 * requests,
    }
    assert (counted["launches"], counted["blocks"], counted["threads"]) == (1, 3, 288)


def test_lanes_that_are_off_make_no_traffic():
    counted = count("ragged", **WARP)["global_load"]
    # 16 even lanes; then turns of 24, 16 and 8 lanes. Each touches all 4 sectors, where 2, 3, 2 and 1 could do.
    # The block asked for 4 of them only, over and over.
    assert counted == {
        "requests": 4,
        "sectors": 16,
        "ideal": 2 + 3 + 2 + 1,
        "distinct": 4,
        "bytes": 4 * (16 + 24 + 16 + 8),
    }


def test_a_predicate_inside_keeps_lanes_in_step():
    counted = count("alternating", **WARP)
    for space in ("global_load", "global_store"):
        assert counted[space] == {"requests": 4, "sectors": 16, "ideal": 8, "distinct": 16, "bytes": 4 * 16 * 4}


@pytest.mark.parametrize(
    ("size", "stride", "wavefronts", "ideal"),
    [
        (4, 1, 1, 1),
        (4, 2, 2, 1),  # every second bank, twice
        (4, 32, 32, 1),  # one bank
        (4, 33, 1, 1),  # padded: all banks again
        (4, 0, 1, 1),
        (2, 1, 1, 1),  # two lanes a word
        (2, 2, 1, 1),
        (8, 1, 2, 2),  # half a warp at a time
        (8, 2, 4, 2),
        (16, 1, 4, 4),  # a quarter of a warp at a time
        (16, 8, 32, 4),
        (16, 9, 4, 4),
    ],
)
def test_wavefronts(size: int, stride: int, wavefronts: int, ideal: int):
    counted = count(f"shared_strides_{size}", [stride], shared_bytes=32 * max(stride, 1) * size, **WARP)
    broadcast = 1
    assert counted["shared_store"]["wavefronts"] == wavefronts
    assert counted["shared_load"]["wavefronts"] == wavefronts + broadcast
    assert counted["shared_load"]["ideal"] == ideal + broadcast
    assert counted["shared_load"]["requests"] == 2


@pytest.mark.parametrize("column", [0, 5])
def test_a_swizzle_frees_ldmatrix_of_conflicts(column: int):
    def wavefronts(swizzled: int) -> int:
        return count("matrix_rows", [swizzled, column], shared_bytes=32 * 128, **WARP)["shared_load"]["wavefronts"]

    assert wavefronts(0) == 32
    assert wavefronts(1) == 4


def test_what_else_is_counted():
    counted = count("totals", grid=(2, 1, 1), block=(64, 1, 1))
    assert counted["mma"] == 4
    assert counted["mma_flops"] == 4 * 2 * 16 * 8 * 16
    assert counted["barriers"] == 4
    assert counted["global_atomic"] == {"requests": 4, "sectors": 4, "ideal": 4, "distinct": 2, "bytes": 2 * 64 * 4}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_the_same_under_every_schedule_and_number_of_threads(mode: str, threads: int):
    for kernel, integers, launch in (
        ("strided_copy_4", [3, 1, 5], {"grid": (5, 1, 1), "block": (64, 1, 1)}),
        ("alternating", [], {"grid": (5, 1, 1), "block": (64, 1, 1)}),
        ("ragged", [], {"grid": (5, 1, 1), "block": (64, 1, 1)}),
    ):
        assert count(kernel, integers, mode=mode, threads=threads, **launch) == count(kernel, integers, **launch)


def test_counters_add_up_and_reset():
    x = np.zeros(64, np.float32)
    with configured(count=True) as module:
        module.reset_counters()
        for _ in range(3):
            emulate("copy_4", [x, x, x])
        assert module.counters()["copy_4"]["launches"] == 3
        assert module.counters()["copy_4"]["global_load"]["requests"] == 6
        module.reset_counters()
        assert module.counters() == {}
    with configured(count=False):
        emulate("copy_4", [x, x, x])
        counted = lab("_emutest").counters()["copy_4"]
        assert counted["blocks"] == 1
        assert counted["global_load"]["requests"] == 0
