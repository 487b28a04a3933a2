"""Timing networks against each other, on every engine, in one process; the table and the chart of it."""

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..checkpoints import architecture_of, load_model
from ..drawing import picture
from ..errors import BurnError, one_line
from ..tables import markdown, number
from ..timing import BUSY, alternating
from .engines import ENGINES, OURS, Run, Shape, noise
from .memory import TINY_SHAPE, memory_added

_PAUSE = 0.02  # seconds: idle worker threads of the engine before stop spinning
MOST_BARS = 12
COLORS = {"1-bit": "tab:orange", "8-bit": "tab:blue", "floating point": "tab:gray"}
# Top-1 on ImageNet in %: ReActNet (Liu et al., ECCV 2020), torchvision's ResNet-18, timm's MobileNets.
PUBLISHED = {"reactnet_a": 69.4, "resnet18": 69.8, "mobilenetv1_100": 75.4, "mobilenetv3_large_100": 75.8}
_EMPTY = ("ms", "ms_min", "ms_rounds", "cpu_per_wall", "ratio", "file_bytes", "memory_bytes", "memory_peak_bytes")


def bench(
    models: Sequence[str], engines: Sequence[str], img_size: int = 224, batch_size: int = 1, threads: int = 1,
    rounds: int = 10, runs: int = 10, memory: bool = True, progress: Callable[[str], object] = lambda what: None,
) -> list[dict[str, Any]]:
    """Time every network on every engine that can run it, by `timing.alternating` with one unmeasured run a round.

    Args:
        models: timm names, `local-dir:` or `hf-hub:`; names without weights have random ones.
        engines: Keys of ENGINES. Those that cannot run a network at all are left out without a row.
        threads: In every engine; where the system allows, the process is also bound to that many cores.
        progress: Called before each row is prepared, opened and measured, and after each row of a round.

    Returns:
        Rows: model, engine, title, what `timing.alternating` gives, file_bytes, memory_bytes, memory_peak_bytes, ratio
        (to the first 1-bit row, else to the first) and error; None where not measured. `error` says why a row failed.
    """
    rows: list[dict[str, Any]] = []
    calls: dict[int, Run] = {}
    torch_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="burn-timm-bench-") as folder, _bound_to(threads):
        try:
            for name in models:
                model = _open_model(name, img_size)
                shape = (batch_size, getattr(model, "in_chans", 3), img_size, img_size)
                for key in engines:
                    engine = ENGINES[key]
                    if not engine.fits(model):
                        continue
                    progress(f"{name} {engine.title}")
                    row = {"model": name, "architecture": architecture_of(name), "engine": key, "title": engine.title}
                    rows.append(row | dict.fromkeys(_EMPTY) | {"error": engine.missing()})
                    if call := _open_row(rows[-1], model, Path(folder), shape, threads, memory):
                        calls[len(rows) - 1] = call
                del model
                gc.collect()
            for index, figures in alternating(calls, rounds, runs, 1, _PAUSE, progress).items():
                rows[index].update(figures)
        finally:
            torch.set_num_threads(torch_threads)
            calls.clear()
    measured = [row for row in rows if row["ms"]]
    base = min(measured, key=lambda row: [*OURS, row["engine"]].index(row["engine"]), default=None)
    for row in measured:
        row["ratio"] = row["ms"] / base["ms"]
    return rows


def _open_model(name: str, img_size: int) -> nn.Module:
    torch.manual_seed(0)
    model = load_model(name)
    fill_zero_gains(model)
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=img_size)
    return model


@torch.no_grad()
def fill_zero_gains(model: nn.Module) -> None:
    """Give BatchNorms whose gains are all 0 gains of 1: timm starts the last one of a residual branch so.

    Folded, they make whole convolutions 0, which an exporter stores once and an engine may skip. Training ends that.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            module.weight.fill_(1)


def _open_row(
    row: dict[str, Any], model: nn.Module, folder: Path, shape: Shape, threads: int, memory: bool,
) -> Run | None:
    """Prepare a row, measure its files and memory, and open it; None, and the row says why, where that fails."""
    if row["error"]:
        return None
    engine = ENGINES[row["engine"]]
    prepared, tiny = Path(tempfile.mkdtemp(dir=folder)), folder / row["engine"]
    try:
        engine.prepare(model, prepared, shape)
        row["file_bytes"] = sum(file.stat().st_size for file in prepared.iterdir() if file.name != "config.json")
        if memory:
            if not tiny.exists():
                tiny.mkdir()
                name = "test_reactnet" if row["engine"] in OURS else "test_resnet"
                engine.prepare(timm.create_model(name).eval(), tiny, TINY_SHAPE)
            try:
                row.update(memory_added(row["engine"], prepared, tiny, threads, shape))
            except BurnError as error:
                row["memory_error"] = one_line(error)
        run = engine.open(prepared, threads, noise(shape))
        run()
        return run
    except Exception as error:  # whatever an engine raises costs its own row only
        row["error"] = one_line(error, 120)
        return None


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
    first: dict[str, int] = {}
    for cpu in sorted(allowed):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        first.setdefault(siblings, cpu)
    own = list(first.values())
    return set((own + sorted(allowed - set(own)))[:count])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; `ratio` is to the time of the first 1-bit row. What was not measured is n/a, and why stands below."""
    lines, notes = [], []
    for row in rows:
        name, bold = short_name(row["model"]), "**" if row["engine"] in OURS else ""
        sizes = [number(row[key], 1, 1e-6) for key in ("file_bytes", "memory_bytes")]
        lines.append([name, f"{bold}{row['title']}{bold}", number(row["ms"], 2), number(row["ratio"], 2), *sizes])
        for what, reason in (("", row["error"]), (" memory", row.get("memory_error"))):
            if reason:
                notes.append(f"n/a: {name} {row['title']}{what}: {reason}")
    starved = [row["cpu_per_wall"] for row in rows if row["cpu_per_wall"] and row["cpu_per_wall"] < BUSY]
    if starved:
        notes.append(
            f"busy machine: {len(starved)} rows had {min(starved):.2f} to {max(starved):.2f} of a CPU; "
            "measure again when it is idle"
        )
    shown = markdown(("network", "engine", "ms", "ratio", "file MB", "memory MB"), lines, 2)
    return "\n".join([shown, *([""] + notes if notes else [])])


def short_name(model: str) -> str:
    """A model's name without the folders of `local-dir:`."""
    return f"local-dir:{Path(model.removeprefix('local-dir:')).name}" if model.startswith("local-dir:") else model


def draw_chart(path: Path, rows: Sequence[dict[str, Any]], settings: dict[str, Any], cpu: str) -> None:
    """Draw a bar for each row that has a time, fastest on top, to a PNG; of many rows the fastest ones."""
    from matplotlib.patches import Patch  # here, because it takes a second to import

    timed = sorted((row for row in rows if row["ms"]), key=lambda row: -row["ms"])
    shown = timed[-MOST_BARS:]
    what = f"{settings['batch_size']} images" if settings["batch_size"] > 1 else "one image"
    threads = f"{settings['threads']} threads" if settings["threads"] > 1 else "one thread"
    # only of the networks themselves: a folder or a tag names weights of its own
    accuracies = {name: f" ({top1} %)" for name, top1 in PUBLISHED.items() if settings["img_size"] == 224}
    known = any(row["model"] in accuracies for row in shown)
    notes = ["in brackets: top-1 on ImageNet as published; what int8 and bf16 lose was not measured"] * known
    notes += [f"{len(timed) - len(shown)} slower ones are left out"] if len(timed) > len(shown) else []
    with picture(path, 9, 1.9 + 0.32 * len(shown)) as figure:
        axes = figure.subplots()
        bars = axes.barh(range(len(shown)), [row["ms"] for row in shown], color=[COLORS[_kind(row)] for row in shown])
        names = [f"{short_name(row['model'])}{accuracies.get(row['model'], '')}, {row['title']}" for row in shown]
        axes.set_yticks(range(len(shown)), names)
        axes.bar_label(bars, [f"{row['ms']:.1f}" for row in shown], padding=3)
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("milliseconds, median")
        axes.set_title(f"Time of {what} of {settings['img_size']} px on {threads}, {cpu}")
        kinds = [kind for kind in COLORS if kind in map(_kind, shown)]
        axes.legend(handles=[Patch(color=COLORS[kind], label=kind) for kind in kinds], loc="upper right")
        figure.supxlabel("\n".join(notes), fontsize=8)


def _kind(row: dict[str, Any]) -> str:
    return "1-bit" if row["engine"] in OURS else "8-bit" if "int8" in row["engine"] else "floating point"
