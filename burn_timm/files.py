"""Files and folders that are either whole or not there, and the JSON in them."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import BurnError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# How libraries that raise classes of their own word a full disk. 28, 122 and 27 are the three errors on Linux.
_FULL = re.compile(
    r"No space left|[Qq]uota exceeded|File too large|os error (28|122|27)\b|PytorchStreamWriter|iostream error|"
    "unexpected pos"
)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Tell of a full disk, met by whatever writes inside the block, in a BurnError that names `path`."""
    try:
        yield
    except BurnError:
        raise
    except Exception as error:  # torch, safetensors, ONNX and OpenVINO have their own classes for it
        if not of_a_full_disk(error):
            raise
        reason = one_line(getattr(error, "strerror", None) or error, 100)
        raise BurnError(f"{path}: cannot be written ({reason}); make room, then start again (or resume)") from error


def of_a_full_disk(error: BaseException | None) -> bool:
    """Whether a library, in an exception of whatever class, says that the disk, a quota or a file's limit is full."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or bool(_FULL.search(str(error)))


_held: set[Path] = set()  # the lock files of this process


@contextlib.contextmanager
def locked(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Hold the lock file `path` inside the block, so that no other process works on `what` meanwhile.

    The system takes the lock from a process that is killed. Where there are no such locks (Windows, some network file
    systems) this does nothing.

    Raises:
        BurnError: Another process holds it; the message, which `what` opens, says which.
    """
    if fcntl is None:
        yield
        return
    path = Path(path)
    with open(path, "ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no forked worker inherits it
            ours = path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except OSError as error:
            ours = error.errno not in (errno.EACCES, errno.EAGAIN)
        if not ours:  # held, or just removed by the run that held it
            file.seek(0)
            owner = one_line(file.read(200).decode(errors="replace"))
            raise BurnError(f"{what}: another run is writing there ({owner}); wait for it, or choose another")
        try:
            with writing(path):
                file.truncate(0)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
            _held.add(path)
            yield
        finally:
            _held.discard(path)
            path.unlink(missing_ok=True)


def remove_lock_files() -> None:
    """Before a process ends in the middle of a `locked` block: what the block would do at its end."""
    for path in tuple(_held):
        path.unlink(missing_ok=True)


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
        with writing(path):
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
        with writing(path):
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
    named = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.(tmp|old)")  # as tempfile does
    leftovers = [found for found in path.parent.glob(f".{glob.escape(path.name)}.*") if named.fullmatch(found.name)]
    leftovers.sort(key=lambda found: found.stat().st_mtime)
    for found in leftovers:
        if found.suffix == ".old" and not path.exists():
            os.replace(found, path)
        else:
            shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)


def cache_folder(folder: str | None = None) -> Path:
    """`folder`, or the user's own for what can be made again, below XDG_CACHE_HOME where that is absolute."""
    if folder:
        return Path(folder).expanduser()
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "burn_timm"
    except RuntimeError as error:  # no HOME, and no such user
        raise BurnError(f"no folder for cached files ({error}); set XDG_CACHE_HOME") from error


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


def missing(path: str | os.PathLike) -> BurnError:
    """The error for a file that is not there, and the folder to give instead, where that is plain."""
    path = Path(path)
    hint = instead_of(path) if path.name in ("config.json", "model.safetensors", "README.md") else ""
    if path.suffix == ".safetensors" and any((path.parent / name).is_file() for name in ("network.bin", "model.xml")):
        hint = "; this folder is for burn_timm.deploy.load; give the one that it was exported from"
    return BurnError(f"{path}: no such file{hint}")


def instead_of(path: str | os.PathLike) -> str:
    """The end of an error about a file of a run of train_burn.py: its export; empty where there is none."""
    export = Path(path).parent / "export"
    return f"; give {export}" if (export / "config.json").is_file() else ""


def read_json(path: str | os.PathLike, kind: type = dict) -> Any:
    """The content of a JSON file, an object (or a list) unless `kind` says otherwise.

    Raises:
        BurnError: The file is missing, is not JSON or holds something else. It names the file.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing(path) from error
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
