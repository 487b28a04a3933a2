"""What a run tells people and programs: log.jsonl, tracker, progress bar, curves.png, and how long it has worked."""

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

# What the curves show, in words: entries of the log, panel by panel.
PANELS = [
    ("loss: less is better", {
        "loss": "total", "loss_kl": "KL divergence of student's head and target head",
        "loss_fs": "distance from the teacher's features",
    }),
    ("gradient norms (log)", {
        "grad_norm_student": "of the network", "grad_norm_student_head": "of the head on it",
        "grad_norm_target_head": "of the target head on the teacher",
    }),
    ("what the target head tells about an image, in nats", {
        "entropy_of_mean": "classes in use, over all images (entropy)",
        "mean_entropy": "doubt about one image (mean entropy)",
        "target_information": "the difference: information. 0: collapsed",
    }),
    ("share of images that are named correctly", {
        "knn": "validation images, by their nearest neighbours", "linear": "validation images, by a linear classifier",
        "top1": "training images, by the network's own classifier",
    }),
    ("schedules", {"lr": "learning rate", "lambda": "weight of the teacher's features (lambda)"}),
]
# What says nothing where the features alone are learnt: BURN's heads are then not trained.
OF_HEADS = {"loss_kl", "loss_fs", "grad_norm_student_head", "grad_norm_target_head", "entropy_of_mean", "mean_entropy",
            "target_information", "lambda"}
STAGE_WORDS = {"w32a32": "all real-valued", "w32a1": "1-bit activations", "w1a1": "1-bit weights and activations"}


class Clock:
    """Seconds of work, without pauses. Begins when it is made.

    Attributes: `begun` (of `time.perf_counter`), `earlier` (what a checkpoint had kept: seconds of the processes before
    this one whose work it holds).
    """

    def __init__(self, earlier: dict[str, float] | None = None):
        self.begun = time.perf_counter()
        self.earlier = earlier or {}
        self._wall, self._cpu = self.begun, time.process_time()

    def read(self) -> dict[str, float]:
        """`train_seconds` by the wall's clock and `cpu_seconds` of the main process, with `earlier`."""
        now = {"train_seconds": self.worked(), "cpu_seconds": time.process_time() - self._cpu}
        return {name: round(seconds + self.earlier.get(name, 0.0), 1) for name, seconds in now.items()}

    def worked(self) -> float:
        """Seconds of this process by the wall's clock."""
        return time.perf_counter() - self._wall

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu


class RunLog:
    """Main process only: elsewhere every call does nothing."""

    def __init__(
        self, accelerator: Accelerator, output: Path, total_steps: int, first_step: int, options: Options, clock: Clock,
    ):
        self.accelerator, self.clock = accelerator, clock
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

    def write(self, line: dict) -> None:
        """Add images_per_s and data_wait (share of the time) since the last line and record it everywhere."""
        seconds = max(self.clock.worked() - self.started, 1e-9)
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
        self.images, self.waited, self.started = 0, 0.0, self.clock.worked()

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
    stages = [STAGE_WORDS.get(stage, stage) for stage in dict.fromkeys(line["stage"] for line in lines)]
    title = f"Stages, parted by a grey line: {', then '.join(stages)}" if len(stages) > 1 else ""
    if lines and collapsed(lines[-1]):
        title += ". The target has COLLAPSED"
    untrained = all(line.get("lambda") == 1 and line.get("grad_norm_target_head") == 0 for line in lines)
    panels = [(head, {name: words for name, words in names.items() if not (untrained and name in OF_HEADS)})
              for head, names in PANELS]
    runs.draw_curves(log, picture, panels, title=title)
