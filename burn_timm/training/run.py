"""What all stages of a run share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..checkpoints import model_source, weights_file
from ..data.corrupt import CorruptLog
from ..data.sources import ImageSource
from ..data.stream import StreamSource
from ..nn import Backbone
from ..provenance import git_commit, hardware, peak_memory, redact_tree, versions
from ..runs import summary_of
from .data import Data, Steps
from .logs import Clock, RunLog
from .monitor import AsyncScalars, CollapseMonitor
from .options import Options, defining_options
from .state import Checkpoint
from .teacher_cache import TeacherCache


def teacher_method(options: Options) -> str | None:
    """The method by which this package trained the teacher's weights, as far as it is told beside their file."""
    source, folder = model_source(options.teacher or "")
    weights = options.teacher_checkpoint or (folder if source == "local-dir" and options.teacher_pretrained else None)
    return summary_of(weights_file(weights)).get("method") if weights else None


@dataclass
class Run:
    """What all stages of a run share. `options` are those in force; `teacher_cache` is there with --cache-teacher;
    `last_good` names a checkpoint for messages."""

    options: Options
    output: Path
    accelerator: Accelerator
    data: Data
    teacher: Backbone | None
    teacher_cache: TeacherCache | None
    steps: Steps
    identity: dict[str, Any]
    clock: Clock
    corrupt: CorruptLog
    log: RunLog
    monitor: CollapseMonitor
    scalars: AsyncScalars
    last_good: str

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def total_batch(self) -> int:
        """Images of an optimiser step, over all processes."""
        return self.options.batch_size * self.accelerator.num_processes * self.options.grad_accum_steps

    def save(self, stage: int, step: int, method: dict, optimizer: dict | None) -> Checkpoint:
        """Write the checkpoint on the main process; all processes must call this."""
        self.scalars.flush()  # what is not finite must not become the last good checkpoint
        self.corrupt.merge(gather_object(self.corrupt.indices), self.data.train)  # what every process found
        scaler = self.accelerator.scaler
        state = Checkpoint(
            stage, step, method, optimizer, scaler.state_dict() if scaler else None, self.corrupt.state_dict(),
            self.clock.read(),
        )
        path = self.output / "checkpoint.pt"
        if self.accelerator.is_main_process:
            state.save(path, self.identity)
        self.last_good = f"{path} (step {stage * self.steps.total + step})"
        return state

    def readable(self) -> ImageSource | StreamSource:
        """The training images without those that could not be read."""
        images, corrupt = self.data.train, set(self.corrupt.indices)
        return images.subset([index for index in range(len(images)) if index not in corrupt]) if corrupt else images

    def summary(self) -> dict[str, Any]:
        """What was trained, how, with what and for how long, without paths of this machine."""
        options, data = self.options, self.data
        shown = (
            "model", "stages", "method", "teacher", "teacher_checkpoint", "teacher_pretrained", "img_size",
            "export_img_size", "epochs", "max_steps", "batch_size", "seed", "command",
        )
        return redact_tree({
            **{name: getattr(options, name) for name in shown},
            "total_batch_size": self.total_batch,
            "dataset": data.train.description,
            "val_dataset": data.val.description if data.val is not None else None,
            "teacher_sha256": (self.identity["teacher"] or {}).get("sha256"),
            "teacher_method": teacher_method(options),
            "device": self.device.type, "processes": self.accelerator.num_processes,
            "mixed_precision": self.accelerator.mixed_precision,
            "corrupt_images": len(self.corrupt),
            "settings": defining_options(options),
            "commit": git_commit(), "hardware": hardware(), "versions": versions(),
            **self.clock.read(),
            "peak_memory_bytes": peak_memory(self.device),
        })
