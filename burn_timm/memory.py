"""Memory that a process takes on, measured on Linux, in a process of its own: libraries of other rows do not count."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import BurnError

_PROC = Path("/proc/self")


def in_own_process(arguments: Sequence[str]) -> Any:
    """Run Python with `arguments` (a script, or `-m` and a module, and its own); returns the JSON it prints last.

    Raises:
        BurnError: The process failed. It tells the last line of its errors.
    """
    root = str(Path(__file__).resolve().parents[1])  # where burn_timm is not installed
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise BurnError(f"measuring memory failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(lines[-1])


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def reset_peak() -> None:
    """Let `peak` count from here on; BurnError where the system cannot."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError as error:
        raise BurnError("memory is measured on Linux only") from error


def peak() -> int:
    """Most bytes in memory at once since the last `reset_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
