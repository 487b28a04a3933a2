"""Files and folders that are either whole or not there, and the JSON in them."""

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import BurnError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block succeeds, remove it if not.

    A kill inside the block leaves the old file at `path` untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())  # a rename must not become durable before the bytes are
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes the place of `path` if the block succeeds.

    Two folders cannot be swapped in one step everywhere: a kill between the two renames leaves the old folder under a
    temporary name, and the next `recover` or `atomic_folder` of this path moves it back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    old = beside.with_suffix(".old")
    try:
        yield beside
        os.chmod(beside, 0o777 & ~_umask())
        if path.exists():
            os.replace(path, old)
        os.replace(beside, path)
    finally:
        if not path.exists() and old.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(beside, ignore_errors=True)


def recover(path: str | os.PathLike) -> None:
    """Bring a file or folder to the state before a kill: move back what was renamed away, remove temporary ones.

    Nobody may be writing `path` meanwhile.
    """
    path = Path(path)
    leftovers = sorted(path.parent.glob(f".{glob.escape(path.name)}.*"), key=lambda found: found.stat().st_mtime)
    for found in leftovers:
        if found.suffix == ".old" and not path.exists():
            os.replace(found, path)
        elif found.suffix in (".old", ".tmp"):
            shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_replaceable(folder: str | os.PathLike, ours: Iterable[str]) -> None:
    """Raise BurnError unless `folder` is absent or holds nothing but files named in `ours`: it will be replaced."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BurnError(f"{folder}: a file; give the name of a folder")
    if others := sorted(set(os.listdir(folder)) - set(ours)) if folder.is_dir() else []:
        raise BurnError(f"{folder}: would be replaced, but it also holds {others[0]}; give a new folder")


def read_json(path: str | os.PathLike, kind: type = dict) -> Any:
    """The content of a JSON file, an object (or a list) unless `kind` says otherwise.

    Raises:
        BurnError: The file is missing, is not JSON or holds something else. It names the file.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise BurnError(f"{path}: cannot be read as JSON ({reason})") from error
    if not isinstance(value, kind):
        raise BurnError(f"{path}: expected a JSON {'object' if kind is dict else kind.__name__}")
    return value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises BurnError where `path` cannot be written."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, atomically. Raises BurnError where `path` cannot be written."""
    try:
        with atomic_write(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BurnError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def read_lines(path: str | os.PathLike) -> list[dict]:
    """The objects of a JSON-lines file; a last line that a kill cut short is left out, and a missing file has none.

    Raises:
        BurnError: Another line is not a JSON object. It names the file and the line.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        elif number < len(lines):  # every whole line ends in a newline
            raise BurnError(f"{path}, line {number}: not a JSON object; remove the line")
    return objects
