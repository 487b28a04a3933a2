"""How much memory a network adds to a process, for `burn-timm bench`; the process that is measured runs this file."""

import gc
import json
import sys
from pathlib import Path

from ..memory import in_own_process, peak, reset_peak, resident
from .engines import ENGINES, noise


def memory_added(
    engine: str, prepared: Path, tiny: Path, threads: int, shape: tuple[int, int, int, int],
) -> dict[str, int]:
    """Bytes that opening and running a network adds: memory_bytes, those that stay, and memory_peak_bytes.

    Args:
        tiny: Another network, prepared for the same engine: it is opened before, so that the engine's libraries, and
            what they compile once, do not count.

    Raises:
        BurnError: It cannot be measured here, or the process failed.
    """
    job = {"engine": engine, "prepared": str(prepared), "tiny": str(tiny), "threads": threads, "shape": shape}
    return in_own_process(["-m", __name__, json.dumps(job)])


TINY_SHAPE = (1, 3, 32, 32)


def _measure(engine: str, prepared: str, tiny: str, threads: int, shape: list[int]) -> dict[str, int]:
    open_network = ENGINES[engine].open
    open_network(Path(tiny), threads, noise(TINY_SHAPE))()
    images = noise(tuple(shape))
    gc.collect()
    before = resident()
    reset_peak()
    run = open_network(Path(prepared), threads, images)
    for _ in range(3):
        run()
    gc.collect()
    after = resident()
    return {"memory_bytes": after - before, "memory_peak_bytes": max(peak(), after) - before}


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
