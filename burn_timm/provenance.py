"""Where a figure comes from: commit, command, hardware and versions, without paths of this machine."""

import datetime
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from .errors import BurnError
from .version import __version__

# An absolute path that starts a word, follows a quote or bracket or `=`, `,`, `:`, or follows a relative part
# (`hfds//data/x`). The second slash of a URL is none of these.
_ABSOLUTE = re.compile(r"""(?:(?<![^\s'"=,:;(\[{])|(?<=[\w.]/))/(?!/)[^\s'"=,:;()\[\]{}]+""")

# What decides a figure: changes elsewhere (notes, results) do not make a commit dirty.
_CODE = ("burn_timm", "benchmarks", ":(glob)*.py", "pyproject.toml")


def redact(text: str) -> str:
    """`text` without absolute paths.

    The value of the variable BURN_DATA becomes `$BURN_DATA`, the home directory `$HOME`; paths below the working
    directory become relative, and any other absolute path is cut to `.../` and its last part.
    """
    places = []
    data = os.environ.get("BURN_DATA", "").rstrip(os.sep)
    if data:
        for spelling in (data, os.path.relpath(data)):
            if os.sep in spelling:  # a bare word such as "data" may mean anything
                places.append((spelling, "$BURN_DATA"))
        places += [(os.path.abspath(data), "$BURN_DATA"), (os.path.realpath(data), "$BURN_DATA")]
    for folder in (os.getcwd(), os.path.realpath(os.getcwd())):
        places.append((folder, "."))
    home = os.path.expanduser("~")
    places += [(home, "$HOME"), (os.path.realpath(home), "$HOME")]
    for folder, name in sorted(dict(reversed(places)).items(), key=lambda place: -len(place[0])):
        if folder in ("", os.sep):
            continue
        if name == ".":
            text = re.sub(rf"(?<![\w.-]){re.escape(folder)}{re.escape(os.sep)}(?=[^\s/])", "", text)
        text = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?=$|[^\w.-])", lambda _, name=name: name, text)
    return _ABSOLUTE.sub(lambda match: f".../{os.path.basename(match[0].rstrip('/'))}", text)


def redact_tree(value):
    """`redact` for every string inside dicts, lists and tuples; paths become strings; other values stay."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_tree(item) for item in value]
    return value


def redact_command(argv: Sequence[str]) -> str:
    """The command as one line to paste into a shell; `$BURN_DATA` and `$HOME` stay outside single quotes."""
    words = []
    for word in (redact(os.fspath(word)) for word in argv):
        plain = re.sub(r"\$(BURN_DATA|HOME)\b", "x", word)
        if plain == word or shlex.quote(plain) == plain:
            words.append(word if plain != word else shlex.quote(word))
        else:
            escaped = re.sub(r'([\\"`]|\$(?!BURN_DATA\b|HOME\b))', r"\\\1", word)
            words.append(f'"{escaped}"')
    return " ".join(words)


def made_by(command: Sequence[str]) -> dict[str, Any]:
    """What stands beside a figure: commit, command, hardware, versions, and date (UTC, ISO 8601)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "commit": git_commit(), "command": redact_command(command), "hardware": hardware(), "versions": versions(),
        "date": now.isoformat(timespec="seconds"),
    }


def git_commit() -> str:
    """The commit of the checkout this package runs from, with "-dirty" if its code differs from that commit.

    Where it does not run from a checkout: the package version.
    """
    root = Path(__file__).resolve().parents[1]
    # A hook sets GIT_DIR and the like, which would point git at another repository.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], env=env, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        # A virtual environment may lie inside somebody else's checkout.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return __version__
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=all", "--", *_CODE) else "")
    except (OSError, subprocess.SubprocessError):
        return __version__


def hardware() -> dict:
    """dict(cpu: model name, cores: logical, threads: torch's, gpu: name or None, gpus: count)."""
    gpus = torch.cuda.device_count()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if gpus else None,
        "gpus": gpus,
    }


def peak_memory(device: torch.device) -> int | None:
    """Most bytes in use so far: allocated by torch on a GPU, resident of this process on a CPU (None on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict:
    """Versions of python, torch, timm and burn_timm."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "burn_timm": __version__,
    }


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        BurnError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise BurnError(f"{path}: cannot be read ({error.strerror}); expected a checkpoint file") from error
    return digest.hexdigest()
