"""The emulator finds what it promises to find: every mistake is planted, and must be diagnosed in words that name the
kernel, the block, the thread, the line and what is wrong. The correct twin of each kernel passes under every schedule.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from kernel_lab import MODES, configured, emulate, lab

SOURCE = Path(__file__).parent.parent / "csrc" / "emulator" / "tests" / "mistakes.cu"
ALL = tuple(MODES)


@dataclass(frozen=True)
class Lab:
    """How to run one kernel of mistakes.cu: two arrays of ``count`` float32, the second one the output."""

    count: int
    launch: dict = field(default_factory=dict)


LABS = {
    "stage_tile": Lab(2 * 3 * 64, {"grid": (3, 1, 1), "block": (64, 1, 1), "shared_bytes": 64 * 4}),
    "pipeline": Lab(8 * 64 * 4, {"block": (64, 1, 1), "shared_bytes": 3 * 64 * 16}),
    "alignment": Lab(33 * 4, {"block": (32, 1, 1), "shared_bytes": 33 * 16}),
    "barriers_diverge": Lab(1, {"block": (128, 1, 1)}),
    "warps_diverge": Lab(48, {"block": (48, 1, 1)}),
    "matrices": Lab(32 * 4, {"block": (32, 1, 1), "shared_bytes": 32 * 16}),
    "global_races": Lab(65, {"grid": (2, 1, 1), "block": (32, 1, 1)}),
    "static_limit": Lab(1, {"block": (32, 1, 1), "shared_bytes": 4096}),
}


def run(kernel: str, mistake: int, mode: str = "forward", **settings) -> tuple[np.ndarray, np.ndarray]:
    """One launch under a mode, with the race checker unless told otherwise: the input and the output."""
    setup = LABS[kernel]
    # Far from each other: what is past the one must not happen to be in the other.
    memory = np.zeros(8192, np.float32)
    x, y = memory[1024:][: setup.count], memory[5120:][: setup.count]
    x[:] = np.arange(setup.count)
    with configured(**{**MODES[mode], "race_check": True, **settings}):
        emulate(kernel, [x, y], [mistake], **setup.launch)
    return x, y


@pytest.mark.parametrize("race_check", [False, True], ids=["plain", "race-check"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", LABS)
def test_the_correct_twin_passes(kernel: str, mode: str, race_check: bool):
    x, y = run(kernel, 0, mode, race_check=race_check)
    expected = {
        "stage_tile": lambda: x.reshape(-1, 64)[:, ::-1],
        "pipeline": lambda: np.roll(x.reshape(8, 64, 4), -1, axis=1),
        "alignment": lambda: np.where(np.arange(33 * 4) < 32 * 4, x, 0),
    }
    if kernel in expected:
        np.testing.assert_array_equal(y, expected[kernel]().reshape(-1))


# kernel, number of the mistake, its name, what the diagnosis says, the text of the line it names (or of one of them).
MISTAKES = [
    ("stage_tile", 1, "dropped sync_threads", r"race on shared memory at byte \d+: .* have no barrier between them"),
    (
        "stage_tile",
        2,
        "dropped loop-end sync_threads",
        r"race on shared memory at byte \d+: .* no barrier between them",
    ),
    (
        "stage_tile",
        3,
        "row one out in a load",
        r"load of 4 bytes out of bounds: \d+ bytes past the end of array 0 \(1536",
    ),
    (
        "stage_tile",
        4,
        "row one out in a store",
        r"store of 4 bytes out of bounds: \d+ bytes past the end of array 1 \(1536",
    ),
    (
        "stage_tile",
        5,
        "load past the dynamic shared size",
        r"shared load of 4 bytes out of bounds: at byte 256 of .* 256 bytes",
    ),
    (
        "stage_tile",
        6,
        "store past the dynamic shared size",
        r"shared store of 4 bytes out of bounds: at byte 256 of .* 256",
    ),
    (
        "pipeline",
        1,
        "dropped cp.async wait",
        r"which a cp.async of thread \d+ at csrc/.*:\d+ is still writing: .* has not waited",
    ),
    ("pipeline", 2, "cp.async wait for one group too few", r"which a cp.async of thread \d+ .* has not waited for it"),
    ("pipeline", 3, "cp.async wait after the use", r"which a cp.async of thread \d+ .* has not waited for it"),
    ("pipeline", 4, "dropped cp.async commit", r"which a cp.async of thread \d+ .* has not even committed it"),
    ("pipeline", 5, "cp.async wait without a barrier", r"race on shared memory|is still writing"),
    ("pipeline", 6, "stage refilled while it is read", r"race on shared memory|is still writing"),
    (
        "alignment",
        1,
        "misaligned global load",
        r"misaligned load of 16 bytes at byte \d+ of array 0: the address is 4 past",
    ),
    (
        "alignment",
        2,
        "misaligned global store",
        r"misaligned store of 16 bytes at byte \d+ of array 1: the address is 4 past",
    ),
    ("alignment", 3, "misaligned shared load", r"misaligned shared load of 16 bytes at byte \d+"),
    ("alignment", 4, "misaligned shared store", r"misaligned shared store of 16 bytes at byte \d+"),
    ("alignment", 5, "misaligned cp.async source", r"misaligned load of 16 bytes at byte \d+ of array 0"),
    (
        "alignment",
        6,
        "misaligned cp.async destination",
        r"cp.async: misaligned: byte \d+ of shared memory is no multiple of 16",
    ),
    (
        "alignment",
        7,
        "misaligned ldmatrix row",
        r"ldmatrix: misaligned: byte \d+ of shared memory is no multiple of 16",
    ),
    (
        "barriers_diverge",
        1,
        "divergent barrier",
        r"divergent barrier: this thread is in sync_threads here, \d+ others are in",
    ),
    (
        "barriers_diverge",
        2,
        "barrier after a thread returned",
        r"threads? (have returned|wait for it in sync_threads here)|returned, but",
    ),
    (
        "barriers_diverge",
        3,
        "half the block skips a barrier",
        r"threads have returned|this thread returned, but \d+ threads wait",
    ),
    (
        "barriers_diverge",
        4,
        "named barrier expects too many",
        r"deadlock: .* 64 wait in a named barrier at csrc/.*; 64 have returned",
    ),
    (
        "barriers_diverge",
        5,
        "named barrier, two counts",
        r"named barrier 1: this thread expects|deadlock: .* in a named barrier",
    ),
    ("barriers_diverge", 6, "named barrier 0", r"named barrier 0: expected 1 to 15"),
    (
        "barriers_diverge",
        7,
        "named barrier, count no multiple of 32",
        r"a count of 33 threads; expected a multiple of 32",
    ),
    (
        "warps_diverge",
        1,
        "mask names absent lanes",
        r"shuffle_xor: the mask 0xffffffff names lanes that are not there: 0xffff0000",
    ),
    (
        "warps_diverge",
        2,
        "mask names a returned lane",
        r"names lanes that are not there|lane 31 returned, but the mask of this shuffle",
    ),
    ("warps_diverge", 3, "mask without the caller", r"the mask 0x[0-9a-f]{8} does not name the calling lane 1"),
    (
        "warps_diverge",
        4,
        "masks that disagree",
        r"divergent warp: the mask here is .*, but lanes .* wait for this one in ballot",
    ),
    (
        "warps_diverge",
        5,
        "lanes in different collectives",
        r"divergent warp: other lanes of the mask .* are in shuffle",
    ),
    (
        "warps_diverge",
        6,
        "shuffle from a lane outside the mask",
        r"shuffle from lane 0, which the mask .* does not name",
    ),
    (
        "warps_diverge",
        7,
        "missing sync_warp",
        r"race on shared memory at byte \d+ \(static\): .* no barrier between them",
    ),
    (
        "matrices",
        1,
        "ldmatrix past the shared memory",
        r"ldmatrix of 16 bytes at byte 512 of shared memory, out of bounds",
    ),
    ("matrices", 2, "ldmatrix without sync_warp", r"race on shared memory|is still writing"),
    (
        "matrices",
        3,
        "ldmatrix before the cp.async wait",
        r"ldmatrix of byte \d+ of shared memory, which a cp.async of thread",
    ),
    (
        "matrices",
        4,
        "ldmatrix at shared address 0",
        r"ldmatrix of 16 bytes at byte -\d+ of shared memory, out of bounds",
    ),
    (
        "matrices",
        5,
        "ldmatrix by half a warp",
        r"names lanes that are not there|returned, but the mask of this ldmatrix names it",
    ),
    (
        "global_races",
        1,
        "two blocks write one place",
        r"race on array 1 at byte \d+: block \d thread \d+ has written it",
    ),
    (
        "global_races",
        2,
        "two threads write one place",
        r"race on array 1 at byte \d+: thread \d+ of this block has written it",
    ),
    (
        "global_races",
        3,
        "load of what this launch wrote",
        r"load of array 1 at byte \d+ goes through the read-only path, but block",
    ),
    ("global_races", 4, "atomic and plain store", r"race on array 1 at byte 25[6-9]: "),
    ("static_limit", 1, "static shared memory over 48 KB", r"static shared memory of \d+ bytes, the limit is 49152"),
    (
        "static_limit",
        2,
        "more dynamic shared memory than launched",
        r"dynamic_shared: bytes 64 to 4160 asked for, the launch gives 4096",
    ),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kernel", "mistake", "diagnosis"), [pytest.param(k, m, d, id=n) for k, m, n, d in MISTAKES])
def test_a_planted_mistake_is_diagnosed(kernel: str, mistake: int, diagnosis: str, mode: str):
    with pytest.raises(RuntimeError) as caught:
        run(kernel, mistake, mode)
    message = str(caught.value)
    assert re.search(diagnosis, message), message
    where = rf"^kernel {kernel}, block \(\d, 0, 0\), thread \(\d+, 0, 0\) \[warp \d+ lane \d+\], (csrc/[\w/.]+):(\d+): "
    place = re.match(where, message)
    assert place, message
    # The line named is one of that kernel, and it holds a call of a primitive.
    assert place[1] == "csrc/emulator/tests/mistakes.cu"
    body = SOURCE.read_text().splitlines()
    line = int(place[2]) - 1
    opening = max(i for i in range(line + 1) if body[i].startswith("FC_TEST_KERNEL"))
    assert f"({kernel})" in body[opening]
    assert "(" in body[line]


def test_every_mistake_of_every_kernel_is_planted():
    source = SOURCE.read_text()
    for kernel in set(LABS) - {"static_limit"}:
        body = source[source.index(f"FC_TEST_KERNEL({kernel})") :]
        names = re.search(r"enum \{ correct, ([\w, \n]+?) \}", body)[1].split(",")
        assert sorted(m for k, m, *_ in MISTAKES if k == kernel) == list(range(1, len(names) + 1)), kernel


@pytest.mark.parametrize(
    ("launch", "diagnosis"),
    [
        ({"block": (1025, 1, 1)}, "a block is limited to 1024 threads"),
        ({"block": (32, 32, 2)}, "a block is limited to 1024 threads"),
        ({"block": (1, 1, 65)}, "and to 64 in z"),
        ({"grid": (1, 65536, 1)}, r"grid\.y and grid\.z are limited to 65535"),
        ({"grid": (1, 1, 65536)}, r"grid\.y and grid\.z are limited to 65535"),
        ({"grid": (2**31, 1, 1)}, r"grid\.x is limited to 2147483647"),
        ({"grid": (0, 1, 1)}, "an extent of zero"),
        ({"shared_bytes": 227 * 1024 + 1}, "a block is limited to 232448 bytes of shared memory"),
    ],
    ids=str,
)
def test_a_launch_over_the_limits_is_refused(launch: dict, diagnosis: str):
    with pytest.raises(RuntimeError, match=f"^kernel empty with grid .*{diagnosis}"):
        emulate("empty", [], **launch)


def test_what_relu_hides_from_nan_poison_garbage_shows():
    """fmaxf(NaN, 0) is 0: reading uninitialised shared memory can look right. The garbage is finite, and large."""
    y = np.zeros(64, np.float32)
    launch = {"block": (64, 1, 1), "shared_bytes": 256}
    with configured(poison="nan"):
        emulate("uninitialised", [y, y], [0], **launch)
    assert (y == 0).all()
    with configured(poison="garbage"):
        emulate("uninitialised", [y, y], [0], **launch)
    assert (y > 1).all() and np.isfinite(y).all()
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isfinite(y.view(dtype)).all()


def test_no_region_no_access():
    with pytest.raises(RuntimeError, match=r"load of 4 bytes out of bounds"):
        emulate("copy_4", [np.zeros(0, np.float32)])


def test_the_race_checker_takes_no_memory_for_what_is_not_touched():
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    regions = [(x.ctypes.data, 1 << 33), (x.ctypes.data, 1), (y.ctypes.data, 1 << 33)]
    with configured(race_check=True) as module:
        module.run("copy_4", regions)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("schedule", "ran"), [("forward", range(2)), ("reverse", range(2, 4))])
def test_some_blocks_of_a_grid(schedule: str, ran: range):
    """The first in the schedule's order; the grid itself is whole."""
    x, y = np.arange(256, dtype=np.float32), np.full(256, -1, np.float32)
    with configured(schedule=schedule, blocks=2):
        emulate("strided_copy_4", [x, y], [1, 0, 1], grid=(4, 1, 1), block=(64, 1, 1))
    mine = np.isin(np.arange(256) // 64, ran)
    np.testing.assert_array_equal(y, np.where(mine, x, -1))


def test_an_error_leaves_the_emulator_usable():
    for _ in range(3):
        with pytest.raises(RuntimeError, match="race"):
            run("stage_tile", 1)
        x, y = run("stage_tile", 0)
        np.testing.assert_array_equal(y, x.reshape(-1, 64)[:, ::-1].reshape(-1))


@pytest.mark.parametrize("mode", MODES)
def test_a_diagnosis_is_reproducible(mode: str):
    """One OS thread, the same settings: the same words."""
    messages = set()
    for _ in range(3):
        with pytest.raises(RuntimeError) as caught:
            run("stage_tile", 2, mode, threads=1)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_settings_are_checked_and_restored():
    module = lab("_emutest")
    before = module.configure()
    with pytest.raises(RuntimeError, match="schedule: expected forward, reverse or random, got 'sideways'"):
        module.configure(schedule="sideways")
    with pytest.raises(RuntimeError, match="poison: expected nan or garbage, got 'arsenic'"):
        module.configure(poison="arsenic")
    with configured(schedule="random", seed=7, poison="garbage", race_check=True, count=False, threads=3, blocks=5):
        assert module.configure() == {
            "schedule": "random",
            "seed": 7,
            "poison": "garbage",
            "race_check": True,
            "count": False,
            "threads": 3,
            "blocks": 5,
        }
    assert module.configure() == before


def _configured_by(**variables: str) -> subprocess.CompletedProcess:
    """The settings of a process with these environment variables, printed."""
    script = (
        "import importlib.util as util, sys\n"
        "spec = util.spec_from_file_location('_emutest', sys.argv[1])\n"
        "module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.configure())"
    )
    command = [sys.executable, "-c", script, lab("_emutest").__file__]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def test_settings_from_the_environment():
    done = _configured_by(
        FASTCONV_EMULATOR_SCHEDULE="random",
        FASTCONV_EMULATOR_SEED="5",
        FASTCONV_EMULATOR_POISON="garbage",
        FASTCONV_EMULATOR_RACE_CHECK="1",
        FASTCONV_EMULATOR_COUNT="0",
        FASTCONV_EMULATOR_THREADS="2",
    )
    assert "'schedule': 'random', 'seed': 5, 'poison': 'garbage', 'race_check': True, 'count': False" in done.stdout
    assert "'threads': 2" in done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SCHEDULE", "sideways", "schedule: expected forward, reverse or random, got 'sideways'"),
        ("SEED", "-1", "expected a non-negative integer, got '-1'"),
        ("THREADS", "two", "expected a non-negative integer, got 'two'"),
    ],
)
def test_a_wrong_environment_variable_is_named(variable: str, value: str, message: str):
    done = _configured_by(**{f"FASTCONV_EMULATOR_{variable}": value})
    assert done.returncode != 0
    assert f"FASTCONV_EMULATOR_{variable}: " in done.stderr and message in done.stderr
