"""What every long run leaves for people and programs: log.jsonl, curves.png, and a checkpoint to go on from."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import drawing
from .errors import BurnError, one_line
from .files import atomic_write, read_json, read_lines, writing

_START_ANEW = "remove it to start anew, or give another file"
_MARK = b"burn-timm sha256"


def summary_of(weights: Path) -> dict[str, Any]:
    """How weights of this package were trained: their training.json, the summary.json of their run, or, of released
    weights, the file beside them that has their name. Empty where there is none.

    The run's folder is that of `export/model.safetensors`, or of `latent.safetensors`.
    """
    folder = weights.absolute().parent
    run = folder.parent if folder.name == "export" else folder
    places = weights.with_suffix(".json"), folder / "training.json", run / "summary.json"
    for place in places:
        try:
            summary = read_json(place)
        except BurnError:
            continue  # there is none, or it is somebody else's file of that name
        if {"method", "model", "settings"} <= summary.keys():
            return summary
    return {}


class LineLog:
    """Appends objects to a JSON-lines file, one a line.

    A resumed run drops the lines behind its checkpoint, because it does these steps again: so each step is there once.

    Args:
        first_step: Steps that the checkpoint holds; 0 begins a new file.
        key: The entry of a line that counts the steps done.
    """

    def __init__(self, path: Path, first_step: int, key: str = "step"):
        lines = read_lines(path) if first_step else []
        if wrong := [line for line in lines if not isinstance(line.get(key), int)]:
            raise BurnError(f"{path}: expected a whole number as {key!r} in every line; remove {_short(wrong[0])}")
        kept = [line for line in lines if line[key] <= first_step]
        with atomic_write(path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.last = kept[-1] if kept else {}
        self.path = path
        self._file = open(path, "a", buffering=1, encoding="utf-8")

    def write(self, line: dict) -> None:
        self.last = line
        with writing(self.path):
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Can be called twice."""
        with writing(self.path):
            self._file.close()


def draw_curves(
    log: Path, picture: Path, panels: Sequence[tuple[str, Mapping[str, str] | Sequence[str]]], key: str = "step",
    title: str = "",
) -> None:
    """Draw the entries of a log over its steps, one panel for each group of them; nothing where nothing was logged.

    Args:
        panels: (title, names of entries, or a mapping from names to words for them); a title that ends in `(log)` has a
            logarithmic scale. Entries that were not logged, and panels without entries, are left out. Vertical lines
            mark where `stage` changes.
        title: Of the whole picture.
    """
    lines = read_lines(log)
    logged = {name for line in lines for name in line}
    words = [(head, dict(names) if isinstance(names, Mapping) else {name: name.replace("_", " ") for name in names})
             for head, names in panels]
    shown = [(head, {name: names[name] for name in names if name in logged}) for head, names in words]
    shown = [(head, names) for head, names in shown if names]
    if not shown:
        return
    boundaries = [b[key] for a, b in zip(lines, lines[1:], strict=False) if a.get("stage") != b.get("stage")]
    with drawing.picture(picture, 4.4 * len(shown), 4.0) as figure:
        figure.suptitle(title)
        for axis, (head, names) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for name, label in names.items():
                steps, values = zip(*((line[key], line[name]) for line in lines if name in line), strict=True)
                if name == "lr" and len(names) > 1:  # beside lambda it would be flat
                    largest = max(values) or 1
                    values, label = [value / largest for value in values], f"{label} / {largest:.3g}"
                axis.plot(steps, values, label=label)
            for boundary in boundaries:
                axis.axvline(boundary, color="0.7", linewidth=1)
            if head.endswith("(log)"):
                axis.set_yscale("log")
            axis.set(xlabel=f"{key}s done")
            axis.set_title(head, fontsize="medium")
            axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)


def save_checkpoint(path: Path, version: int, identity: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all, with a SHA-256 behind it: torch reads a file with flipped bits gladly.

    Args:
        version: Of the layout of `content`.
        identity: What a run must have in common with this one to go on from here.
    """
    buffer = io.BytesIO()
    torch.save({"version": version, "identity": dict(identity), "content": dict(content)}, buffer)
    # The view is released here: the garbage collector of Python 3.12.1 crashes where it meets one behind an error.
    with buffer.getbuffer() as data, atomic_write(path) as beside, open(beside, "wb") as file:
        file.write(data)
        file.write(_MARK + hashlib.sha256(data).digest())


def load_checkpoint(path: Path, version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and content of a file by `save_checkpoint`, on the CPU.

    Raises:
        BurnError: The file is damaged, of another version, or no such checkpoint. It names the file.
    """
    data = path.read_bytes()
    mark, digest, data = data[-48:-32], data[-32:], data[:-48]
    if mark != _MARK:
        raise BurnError(f"{path}: truncated, or no checkpoint of such a run and of this release; {_START_ANEW}")
    if hashlib.sha256(data).digest() != digest:
        raise BurnError(f"{path}: damaged (its checksum is wrong); {_START_ANEW}")
    with understood(path):
        saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        theirs, identity, content = int(saved["version"]), dict(saved["identity"]), dict(saved["content"])
    if theirs != version:
        raise BurnError(
            f"{path}: checkpoint version {theirs}, this is version {version}; go on with the release that wrote it, or "
            "remove it to start anew"
        )
    return identity, content


@contextlib.contextmanager
def understood(path: str | Path) -> Iterator[None]:
    """Turn any error inside the block, which takes over what a checkpoint holds, into a BurnError that names `path`."""
    try:
        yield
    except BurnError:
        raise
    except Exception as error:  # the file is whole, but somebody else wrote it: missing keys, other types, other shapes
        reason = f"{type(error).__name__}: {one_line(error, 100)}"
        raise BurnError(f"{path}: no checkpoint of such a run ({reason}); {_START_ANEW}") from error


def require_same_run(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise BurnError that names every entry in which two identities differ; nested ones are compared by entry."""
    with understood(path):
        differing = list(_differences(theirs, ours))
    if differing:
        raise BurnError(f"{path}: belongs to another run: {'; '.join(differing)}; choose another --output")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]):
    for name in sorted({*theirs, *ours}):
        their, our = theirs.get(name), ours.get(name)
        if isinstance(their, Mapping) and isinstance(our, Mapping):
            yield from _differences(their, our)
        elif their != our:
            yield f"{name.replace('_', '-')} {_short(their)} there, {_short(our)} here"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
