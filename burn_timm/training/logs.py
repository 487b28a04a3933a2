"""What a run leaves behind for people and for programs: log.jsonl, tracker, progress bar, curves.png."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from .. import runs
from ..files import of_a_full_disk, read_lines, writing
from .monitor import collapsed
from .options import Options, defining_options

GRADIENT_NORMS = ["grad_norm_student", "grad_norm_student_head", "grad_norm_target_head"]
TARGET = {
    "entropy_of_mean": "entropy of the mean target: classes in use",
    "mean_entropy": "mean entropy of a target: doubt about one image",
    "target_information": "information, their difference; 0: collapsed",
}


class RunLog:
    """Main process only: elsewhere every call does nothing."""

    def __init__(
        self, accelerator: Accelerator, output: Path, total_steps: int, first_step: int, options: Options,
    ):
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self.track = options.log_with != "none"
        self.restart_clock()
        if self.track:
            settings = defining_options(options).items()
            plain = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in settings}
            threading.excepthook = _no_full_disk
            with writing(output):
                accelerator.init_trackers("burn_timm", config=plain)
        if self.main:
            self.file = runs.LineLog(output / "log.jsonl", first_step)
            self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def step(self, images: int) -> None:
        self.images += images
        if self.main:
            self.bar.update()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The time inside is time that the step waits for its data; on the host's clock, the device is not asked."""
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside is not of the steps."""
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before

    def write(self, line: dict) -> None:
        """Add images_per_s and data_wait (share of the time) since the last line and record it everywhere."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        line["images_per_s"] = round(self.images / seconds, 2)
        line["data_wait"] = round(self.waited / seconds, 4)
        self.restart_clock()
        if not self.main:
            return
        self.file.write(line)
        speed = f"{line['images_per_s']:.0f} img/s, data wait {line['data_wait']:.0%}"
        self.bar.set_postfix_str(f"{line['stage']} loss {line['loss']:.4f} {speed}")
        if self.track:
            numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
            with writing(self.file.path):
                self.accelerator.log(numbers, step=line["step"])

    def restart_clock(self) -> None:
        self.images, self.waited, self.started = 0, 0.0, time.perf_counter()

    def close(self) -> None:
        if self.main:  # both may be closed twice
            self.bar.close()
            self.file.close()


def _no_full_disk(args: threading.ExceptHookArgs) -> None:
    """Leave a full disk, which TensorBoard's thread hands on to the main one, out of stderr."""
    if not of_a_full_disk(args.exc_value):
        threading.__excepthook__(args)


def draw_curves(log: Path, picture: Path) -> None:
    """Losses, gradient norms (BURN, Fig. 3), the target's entropies, accuracies and the schedules over steps."""
    lines = read_lines(log)
    state = " (COLLAPSED)" if lines and collapsed(lines[-1]) else ""
    runs.draw_curves(log, picture, [
        ("loss", ["loss", "loss_kl", "loss_fs"]),
        ("gradient norm (log)", GRADIENT_NORMS),
        (f"what the target tells, nats{state}", TARGET),
        ("accuracy", ["knn", "linear"]),
        ("schedule", ["lr", "lambda"]),
    ])
