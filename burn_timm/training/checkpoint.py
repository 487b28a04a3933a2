"""The training checkpoint: one file, replaced whole, from which any step is entered as if nothing had happened.

Randomness is not in it: the order of images, the views and dropout are functions of (seed, stage, step). The frozen
teacher is not in it either, only its identity.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import BurnError
from ..files import atomic_write

_logger = logging.getLogger(__name__)

VERSION = 2  # 2: has `seconds`


@dataclass
class Checkpoint:
    """`step` optimiser steps of stage number `stage` are done; at step 0 `method` is the previous stage's state."""

    stage: int
    step: int
    method: dict
    optimizer: dict | None
    scaler: dict | None
    corrupt: dict
    identity: dict
    seconds: dict  # Clock.read() of the work that is in it

    def save(self, path: Path) -> None:
        with atomic_write(path) as beside:
            torch.save({"version": VERSION, **vars(self)}, beside)


def load_checkpoint(path: Path, identity: dict) -> Checkpoint:
    """Read a checkpoint and compare the run it belongs to with this one.

    Args:
        identity: {"options": ..., "teacher": ..., "images": ..., "processes": ..., "mixed_precision": ...,
            "device": ...} of this run.

    Raises:
        BurnError: The file is damaged, of another version, or of a run with other options, data or teacher.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content.pop("version")
        checkpoint = Checkpoint(**content) if version == VERSION else None
    except Exception as error:  # torch raises pickle, zip, runtime and key errors for damaged files
        raise BurnError(
            f"{path}: not a readable checkpoint of train_burn.py ({type(error).__name__}); "
            "remove it to start anew, or give --resume another file"
        ) from error
    if checkpoint is None:
        raise BurnError(
            f"{path}: checkpoint version {version}, this is version {VERSION}; go on with the release that wrote it "
            "or remove it to start anew"
        )
    theirs = checkpoint.identity
    differing = [
        f"--{name.replace('_', '-')} {theirs['options'].get(name)!r} there, {value!r} here"
        for name, value in identity["options"].items()
        if theirs["options"].get(name) != value
    ]
    if differing:
        raise BurnError(f"{path}: belongs to a run with other options: {'; '.join(differing)}")
    if theirs["teacher"] != identity["teacher"]:
        ours, their = identity["teacher"] or {}, theirs["teacher"] or {}
        raise BurnError(
            f"{path}: trained under another teacher: {their.get('name')} {str(their.get('sha256'))[:12]} there, "
            f"{ours.get('name')} {str(ours.get('sha256'))[:12]} here"
        )
    for name in ("images", "processes", "mixed_precision", "device"):
        if theirs.get(name) != identity[name]:
            what = name.replace("_", " ")
            raise BurnError(f"{path}: belongs to a run with {what} {theirs.get(name)}, here it is {identity[name]}")
    return checkpoint


def find_checkpoint(resume: str | None, output: Path) -> Path | None:
    """The checkpoint to resume from, None to start anew.

    Raises:
        BurnError: --resume names a missing file, or the output folder holds a run and --resume is not given.
    """
    own = output / "checkpoint.pt"
    if resume == "auto":
        return own if own.is_file() else None
    if resume:
        if not Path(resume).is_file():
            raise BurnError(f"--resume {resume}: no such file")
        return Path(resume)
    if own.exists():
        raise BurnError(f"--output {output}: holds a run already; add --resume auto to go on, or choose another")
    return None
