"""Timing networks against each other: alternating rounds in one process, medians."""

import contextlib
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checkpoints import architecture_of, load_model
from ..errors import BurnError, one_line
from .engines import ENGINES, OURS, Engine, Run
from .memory import memory_added

_PAUSE = 0.02  # seconds: idle worker threads of the engine before stop spinning


def bench(
    models: Sequence[str], engines: Sequence[str], img_size: int = 224, batch_size: int = 1, threads: int = 1,
    rounds: int = 10, runs: int = 10, memory: bool = True, progress: Callable[[str], object] = lambda what: None,
) -> list[dict[str, Any]]:
    """Time every network on every engine that can run it.

    All are prepared and opened first. Then, round after round, each in turn runs once unmeasured and `runs` times
    measured; every second round goes backwards, so that no row always follows the same other.

    Args:
        models: timm names, `local-dir:` or `hf-hub:`; names without weights have random ones.
        engines: Keys of ENGINES. Those that cannot run a network at all are left out without a row.
        threads: In every engine; where the system allows, the process is also bound to that many cores.
        progress: Called before each row is prepared, opened and measured, and after each row of a round.

    Returns:
        Rows: model, engine, title, and ms (the median over all runs), ms_min, ms_rounds (each round's median),
        cpu_per_wall (CPU seconds a second: the threads in use), file_bytes, memory_bytes, memory_peak_bytes, ratio (to
        the first 1-bit row, else to the first) and error; None where not measured. `error` says why a row failed.
    """
    rows: list[dict[str, Any]] = []
    opened: list[tuple[dict[str, Any], Run]] = []
    torch_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="burn-timm-bench-") as folder, _bound_to(threads):
        try:
            for name in models:
                torch.manual_seed(0)
                model = load_model(name, num_classes=None)
                fill_zero_gains(model)
                shape = (batch_size, getattr(model, "in_chans", 3), img_size, img_size)
                if hasattr(model, "set_input_size"):
                    model.set_input_size(img_size=img_size)
                images = np.random.default_rng(0).standard_normal(shape, np.float32)
                for key in engines:
                    engine = ENGINES[key]
                    if not engine.fits(model):
                        continue
                    progress(f"{name} {engine.title}")
                    row = _row(name, key, engine)
                    rows.append(row)
                    path = Path(folder) / f"{len(rows)}{'.onnx' if 'onnxruntime' in engine.packages else ''}"
                    run = _open(row, engine, model, path, threads, images, memory)
                    if run is not None:
                        opened.append((row, run))
                del model
                gc.collect()
            _rounds(opened, rounds, runs, progress)
        finally:
            torch.set_num_threads(torch_threads)
            opened.clear()
    measured = [row for row in rows if row["ms"]]
    base = min(measured, key=lambda row: [*OURS, row["engine"]].index(row["engine"]), default=None)
    for row in rows:
        if row["ms"]:
            row["ratio"] = row["ms"] / base["ms"]
    return rows


@torch.no_grad()
def fill_zero_gains(model: nn.Module) -> None:
    """Give BatchNorms whose gains are all 0 gains of 1: timm starts the last one of a residual branch so.

    Folded, they make whole convolutions 0, which an exporter stores once and an engine may skip. Training ends that.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            module.weight.fill_(1)


def _row(name: str, key: str, engine: Engine) -> dict[str, Any]:
    empty = ("ms", "ms_min", "ms_rounds", "cpu_per_wall", "ratio", "file_bytes", "memory_bytes", "memory_peak_bytes")
    return {
        "model": name, "architecture": architecture_of(name), "engine": key, "title": engine.title,
        **dict.fromkeys(empty), "error": engine.missing(),
    }


def _open(
    row: dict[str, Any], engine: Engine, model: nn.Module, path: Path, threads: int, images: np.ndarray, memory: bool,
) -> Run | None:
    if row["error"]:
        return None
    try:
        engine.prepare(model, path, images.shape)
        row["file_bytes"] = size_of(path)
        if memory:
            try:
                row["memory_bytes"], row["memory_peak_bytes"] = memory_added(row["engine"], path, threads, images)
            except BurnError as error:
                row["memory_error"] = one_line(error)
        run = engine.open(path, threads, images)
        run()
        return run
    except Exception as error:  # whatever an engine raises costs its own row only
        row["error"] = one_line(error, 120)
        return None


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder but for config.json."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.name != "config.json"]
    return sum(file.stat().st_size for file in files)


def _rounds(opened: list[tuple[dict, Run]], rounds: int, runs: int, progress: Callable[[str], object]) -> None:
    times: dict[int, list[list[float]]] = {id(row): [] for row, _ in opened}
    cpu = dict.fromkeys(times, 0.0)
    for number in range(rounds):
        for row, run in opened if number % 2 == 0 else opened[::-1]:
            time.sleep(_PAUSE)
            run()
            started, measured = time.process_time(), []
            for _ in range(runs):
                start = time.perf_counter()
                run()
                measured.append(time.perf_counter() - start)
            cpu[id(row)] += time.process_time() - started
            times[id(row)].append(measured)
            progress(f"round {number + 1}/{rounds}")
    for row, _ in opened:
        every = [value for measured in times[id(row)] for value in measured]
        row["ms"], row["ms_min"] = 1000 * statistics.median(every), 1000 * min(every)
        row["ms_rounds"] = [round(1000 * statistics.median(measured), 4) for measured in times[id(row)]]
        row["cpu_per_wall"] = round(cpu[id(row)] / sum(every), 3)


@contextlib.contextmanager
def _bound_to(threads: int) -> Iterator[None]:
    """Bind the process to as many cores as there are threads, one hardware thread each, where that can be."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    if threads > len(allowed):
        raise BurnError(f"--threads {threads}: this process may use {len(allowed)} CPUs")
    os.sched_setaffinity(0, _cores(allowed, threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _cores(allowed: set[int], count: int) -> set[int]:
    """`count` of the CPUs, as far as possible on cores of their own."""
    def siblings(cpu: int) -> str:
        try:
            return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            return str(cpu)

    first: dict[str, int] = {}
    for cpu in sorted(allowed):
        first.setdefault(siblings(cpu), cpu)
    own = list(first.values())
    return set((own + sorted(allowed - set(own)))[:count])
