"""Timing things against each other: alternating rounds in one process, medians. Absolute times alone say little."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

BUSY = 0.9  # CPU seconds a second, and thread, below which other processes used the cores


def alternating(
    calls: Mapping[Hashable, Callable[[], Any]], rounds: int, runs: int, warm_up: int = 0, pause: float = 0.0,
    progress: Callable[[str], Any] = lambda what: None,
) -> dict[Hashable, dict[str, Any]]:
    """Time every call in each of `rounds` rounds; every second round goes backwards, so that none always follows the
    same other.

    Args:
        runs: Measured runs of a call in a round, after `warm_up` unmeasured ones.
        pause: Seconds before a call's runs: idle worker threads of the engine before stop spinning.

    Returns:
        For each key: ms (the median over all runs), ms_min, ms_rounds (each round's median), cpu_ms (the median) and
        cpu_per_wall (CPU seconds a second: the threads in use).
    """
    wall: dict[Hashable, list[list[float]]] = {key: [] for key in calls}
    cpu: dict[Hashable, list[float]] = {key: [] for key in calls}
    for number in range(rounds):
        for key in list(calls) if number % 2 == 0 else list(calls)[::-1]:
            time.sleep(pause)
            for _ in range(warm_up):
                calls[key]()
            wall[key].append([])
            for _ in range(runs):
                cpu_start, start = time.process_time(), time.perf_counter()  # so: asking for CPU time takes a while
                calls[key]()
                wall[key][-1].append(time.perf_counter() - start)
                cpu[key].append(time.process_time() - cpu_start)
            progress(f"round {number + 1}/{rounds}")
    return {key: _figures(wall[key], cpu[key]) for key in calls}


def _figures(wall: list[list[float]], cpu: list[float]) -> dict[str, Any]:
    every = [seconds for of_round in wall for seconds in of_round]
    return {
        "ms": 1000 * statistics.median(every),
        "ms_min": 1000 * min(every),
        "ms_rounds": [round(1000 * statistics.median(of_round), 4) for of_round in wall],
        "cpu_ms": 1000 * statistics.median(cpu),
        "cpu_per_wall": round(sum(cpu) / sum(every), 3),
    }
