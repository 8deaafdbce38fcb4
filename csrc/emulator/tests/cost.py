"""What the emulator costs on this machine, on one core: ``python csrc/emulator/tests/cost.py`` (needs ``_emutest``)."""

import time

import numpy as np

from fastconv import _emutest


def seconds(kernel: str, arrays: list[np.ndarray], *integers: int, **launch) -> float:
    """Processor time, the least of seven runs."""
    regions = [(array.ctypes.data, array.nbytes) for array in arrays]
    times = []
    for _ in range(7):
        start = time.process_time()
        _emutest.run(kernel, regions, list(integers), **launch)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Prints one line a figure."""
    x, y = np.ones(1024, np.float32), np.zeros(1024, np.float32)
    _emutest.configure(threads=1)
    for count in (False, True):
        _emutest.configure(count=count)
        print(f"counters {'on' if count else 'off'}")
        block = (256, 1, 1)
        per_block = seconds("empty", [], block=block, grid=(1000, 1, 1)) / 1000
        print(f"  empty block of 256 threads    {per_block * 1e6:8.2f} us")
        for threads in (256, 1024):
            per_switch = seconds("barriers", [], 1000, block=(threads, 1, 1)) / 1000 / threads
            print(f"  a switch, {threads:4} threads        {per_switch * 1e9:8.2f} ns")
        rate = 4 * 2000 * 4096 / seconds("tensor", [x], 2000, block=(128, 1, 1))
        print(f"  mma.m16n8k16 from registers   {rate / 1e9:8.2f} GFLOP/s")
        for kernel, arrays in (("loads", [x, y]), ("shared_loads", [x])):
            per_load = seconds(kernel, arrays, 1000, block=block) / 256 / 1000
            print(f"  {kernel:12} and an FMA       {per_load * 1e9:8.2f} ns")


if __name__ == "__main__":
    main()
