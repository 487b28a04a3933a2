"""What a run leaves behind for people and for programs: log.jsonl, tracker, progress bar, curves.png."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from ..files import atomic_write, read_lines

PANELS = (
    ("loss", ("loss", "loss_kl", "loss_fs", "loss_swapped")),
    ("gradient norm", ("grad_norm_student", "grad_norm_student_head", "grad_norm_target_head")),
    ("target, nats", ("entropy_of_mean", "mean_entropy", "target_information")),
    ("accuracy", ("knn", "linear")),
    ("schedule", ("lr", "lambda")),
)


class RunLog:
    """Main process only: elsewhere every call does nothing."""

    def __init__(self, accelerator: Accelerator, output: Path, total_steps: int, first_step: int, track: bool):
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self.path = output / "log.jsonl"
        self.track = track
        self.restart_clock()
        if not self.main:
            return
        self._drop_lines_after(first_step)
        self.file = open(self.path, "a", buffering=1)
        self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def _drop_lines_after(self, step: int) -> None:
        # Steps behind the checkpoint are done again; the log of a resumed run has each step once.
        if self.path.exists():
            lines = [line for line in read_lines(self.path) if line["step"] <= step]
            with atomic_write(self.path) as beside:
                beside.write_text("".join(json.dumps(line) + "\n" for line in lines))

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
        self.file.write(json.dumps(line) + "\n")
        speed = f"{line['images_per_s']:.0f} img/s, data wait {line['data_wait']:.0%}"
        self.bar.set_postfix_str(f"{line['stage']} loss {line['loss']:.4f} {speed}")
        if self.track:
            numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
            self.accelerator.log(numbers, step=line["step"])

    def restart_clock(self) -> None:
        self.images, self.waited, self.started = 0, 0.0, time.perf_counter()

    def close(self) -> None:
        if self.main:  # both may be closed twice
            self.bar.close()
            self.file.close()


def draw_curves(log: Path, picture: Path) -> None:
    """Losses, gradient norms (BURN, Fig. 3), the target's entropies, accuracies and the schedules over steps."""
    from matplotlib.figure import Figure  # here, because it takes a second to import

    lines = read_lines(log)
    if not lines:
        return
    logged = {name for line in lines for name in line}
    panels = [(title, [name for name in names if name in logged]) for title, names in PANELS]
    panels = [(title, names) for title, names in panels if names]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    boundaries = [b["step"] for a, b in zip(lines, lines[1:], strict=False) if a["stage"] != b["stage"]]
    for axis, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            steps, values = zip(*((line["step"], line[name]) for line in lines if name in line), strict=True)
            scale = max(map(abs, values)) or 1 if name == "lr" else 1  # beside lambda, lr would be flat
            label = f"lr / {scale:.3g}" if name == "lr" else name
            axis.plot(steps, [value / scale for value in values], label=label)
        for boundary in boundaries:
            axis.axvline(boundary, color="0.7", linewidth=1)
        if title == "gradient norm":
            axis.set_yscale("log")
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize="small")
    with atomic_write(picture) as beside:
        figure.savefig(beside, format="png", dpi=110)
