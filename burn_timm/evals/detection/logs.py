"""What training a detector leaves for people and programs: log.jsonl and curves.png."""

import json
import time
from pathlib import Path

from ...files import atomic_write


class TrainingLog:
    """One line of JSON for every few iterations: means of the losses since the last, learning rate, seconds.

    A resumed run drops the lines behind its checkpoint, so each iteration is logged once.
    """

    def __init__(self, path: Path, first_iteration: int):
        kept = [line for line in read_log(path) if line["iteration"] <= first_iteration] if first_iteration else []
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.last = kept[-1] if kept else {}
        self._file = open(path, "a", buffering=1)
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def add(self, losses: dict[str, float]) -> None:
        """Losses of one iteration."""
        self._count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def write(self, iteration: int, lr: float) -> None:
        """A line after `iteration` iterations."""
        means = {name: round(value / self._count, 6) for name, value in self._sums.items()}
        now = time.perf_counter()
        seconds = round((now - self._since) / self._count, 4)
        self.last = {"iteration": iteration, "lr": lr, **means, "seconds_per_iteration": seconds}
        self._file.write(json.dumps(self.last) + "\n")
        self._sums, self._count, self._since = {}, 0, now


def read_log(path: Path) -> list[dict]:
    """The lines of a log; one that a kill cut short is left out, and a missing file has none."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def draw_curves(log: Path, picture: Path) -> None:
    """The losses, and the learning rate, over iterations."""
    from matplotlib.figure import Figure  # here, because it takes a second to import

    lines = read_log(log)
    if not lines:
        return
    iterations = [line["iteration"] for line in lines]
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in (name for name in lines[0] if name.startswith("loss")):
        left.plot(iterations, [line[name] for line in lines], label=name)
    left.set(title="losses", xlabel="iteration", yscale="log")
    left.legend(fontsize="small")
    right.plot(iterations, [line["lr"] for line in lines])
    right.set(title="learning rate", xlabel="iteration")
    with atomic_write(picture) as beside:
        figure.savefig(beside, format="png", dpi=110)
