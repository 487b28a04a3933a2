"""The training checkpoint: one file, replaced whole, from which any step is entered as if nothing had happened.

Randomness is not in it: the order of images, the views and dropout are functions of (seed, stage, step). The frozen
teacher is not in it either, only its identity.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import runs
from ..errors import BurnError

VERSION = 3  # 3: a checksum


@dataclass(frozen=True)
class Checkpoint:
    """`step` optimiser steps of stage number `stage` are done; at step 0 `method` is the previous stage's state."""

    stage: int
    step: int
    method: dict
    optimizer: dict | None
    scaler: dict | None
    corrupt: dict  # CorruptLog's
    seconds: dict  # Clock.read() of the work that is in it

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        runs.save_checkpoint(path, VERSION, identity, vars(self))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint of the run that has this identity.

    Raises:
        BurnError: The file is damaged, of another version, or of a run with other options, data or teacher.
    """
    theirs, content = runs.load_checkpoint(path, VERSION)
    runs.require_same_run(path, theirs, identity)
    with runs.understood(path):
        state = Checkpoint(**content)
        for field in dataclasses.fields(state):
            if not isinstance(getattr(state, field.name), field.type):
                raise TypeError(f"{field.name} is a {type(getattr(state, field.name)).__name__}")
    return state


def find_checkpoint(resume: str | None, output: Path) -> Path | None:
    """The checkpoint to resume from, None to start anew.

    Raises:
        BurnError: --resume names a missing file, or the output folder holds a run that --resume does not name.
    """
    own = output / "checkpoint.pt"
    if resume == "auto":
        return own if own.is_file() else None
    if resume:
        if not Path(resume).is_file():
            raise BurnError(f"--resume {resume}: no such file")
        if own.exists() and not own.samefile(resume):
            raise BurnError(
                f"--output {output}: holds a run already; --resume auto goes on with it, --resume {resume} needs a new"
            )
        return Path(resume)
    if own.exists():
        raise BurnError(f"--output {output}: holds a run already; add --resume auto to go on, or choose another")
    return None
