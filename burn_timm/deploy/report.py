"""What `burn-timm bench` shows of its rows: a table, a JSON file, a bar chart."""

import datetime
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BurnError
from ..files import atomic_write
from ..provenance import git_commit, hardware, redact_command, redact_tree, versions
from .engines import OURS

_BUSY = 0.9  # CPU seconds a second below which others used the cores
_COLUMNS = ("network", "engine", "ms", "ratio", "file MB", "memory MB")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; `ratio` is to the time of the first 1-bit row. What was not measured is n/a, and why stands below."""
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS)]
    notes = []
    for row in rows:
        cells = [_number(row["ms"], 2), _number(row["ratio"], 2)]
        cells += [_number(row[key], 1, 1e-6) for key in ("file_bytes", "memory_bytes")]
        bold = "**" if row["engine"] in OURS else ""
        lines.append((short_name(row["model"]), f"{bold}{row['title']}{bold}", *cells))
        for what, reason in (("", row["error"]), (" memory", row.get("memory_error"))):
            if reason:
                notes.append(f"n/a: {short_name(row['model'])} {row['title']}{what}: {reason}")
    starved = [row["cpu_per_wall"] for row in rows if row["cpu_per_wall"] and row["cpu_per_wall"] < _BUSY]
    if starved:
        notes.append(
            f"busy machine: {len(starved)} rows had {min(starved):.2f} to {max(starved):.2f} of a CPU; "
            "measure again when it is idle"
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    shown = [_line(line, widths) for line in lines]
    return "\n".join([*shown, *([""] + notes if notes else [])])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    if cells[0] == "---":
        return "|" + "|".join("-" * (w + 2) if n < 2 else "-" * (w + 1) + ":" for n, w in enumerate(widths)) + "|"
    aligned = [cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths, strict=True))]
    return "| " + " | ".join(aligned) + " |"


def _number(value: float | None, digits: int, scale: float = 1) -> str:
    return "n/a" if value is None else f"{value * scale:.{digits}f}"


def short_name(model: str) -> str:
    """A model's name without the folders of `local-dir:`."""
    return f"local-dir:{Path(model.removeprefix('local-dir:')).name}" if model.startswith("local-dir:") else model


def write_json(path: Path, rows: Sequence[dict], settings: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """Write rows and settings with what `eval_downstream.py` writes beside a figure; returns what was written.

    Raises:
        BurnError: `path` cannot be written.
    """
    used = {}
    for package in ("openvino", "numba", "onnxruntime", "onnx"):
        try:
            used[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            used[package] = None
    result = {
        "task": "bench",
        "settings": redact_tree(settings),
        "rows": redact_tree(list(rows)),
        "commit": git_commit(),
        "command": redact_command(command),
        "hardware": hardware(),
        "versions": {**versions(), **used},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    try:
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise BurnError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return result


def draw_chart(path: Path, rows: Sequence[dict[str, Any]], settings: dict[str, Any], cpu: str) -> None:
    """A bar a row, fastest first, 1-bit rows in another colour, to a PNG.

    Raises:
        BurnError: No row has a time, or `path` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = sorted((row for row in rows if row["ms"]), key=lambda row: -row["ms"])
    if not timed:
        raise BurnError("no row was measured, so there is no chart to draw")
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(timed)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = ["tab:orange" if row["engine"] in OURS else "tab:gray" for row in timed]
    bars = axes.barh([f"{short_name(row['model'])}, {row['title']}" for row in timed], [row["ms"] for row in timed],
                     color=colours)
    axes.bar_label(bars, [f"{row['ms']:.1f}" for row in timed], padding=3)
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"milliseconds a batch of {settings['batch_size']}, {settings['img_size']} px, "
                    f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}, median")
    axes.set_title(cpu, fontsize=9)
    try:
        with atomic_write(path) as beside:
            figure.savefig(beside, format="png", dpi=120)
    except OSError as error:
        raise BurnError(f"{path}: cannot be written ({error.strerror}); name another file") from error
