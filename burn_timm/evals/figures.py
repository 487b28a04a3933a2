"""The paper's figures: 3 and 6 (gradient norms), 4 (training time and accuracy), 5 (moving average, Eq. 5).

One more, which the paper does not have: the target's information and the student's accuracy during training.

    eval_downstream.py figures --output FOLDER --runs RUN_FOLDER ... --results results/*.jsonl
"""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from ..errors import BurnError
from ..files import atomic_write, read_lines
from .inputs import training_of
from .paper import row_name
from .rows import rows_of

# Eq. 5: dimensions, learning rate (BYOL's), momentum of the average, iterations, independent runs.
DIMENSIONS, RATE, MOMENTUM, ITERATIONS, RUNS = 100, 4.8, 0.99, 100, 10

# Panels: title, entry of the log, factor, scale of the axis.
GRADIENTS = [
    ("gradient norm of the student's head", "grad_norm_student_head", 1, "log"),
    ("gradient norm of the student", "grad_norm_student", 1, "log"),
]
TARGETS = [
    ("target's information, nats", "target_information", 1, "linear"),
    ("student's kNN, top-1 (%)", "knn", 100, "linear"),
    ("student's linear evaluation, top-1 (%)", "linear", 100, "linear"),
]


def draw_all(folder: Path, runs: Sequence[str], results: Sequence[dict]) -> list[str]:
    """Draw every figure for which there is material; returns the names of the files. Fig. 5 needs none.

    Args:
        runs: Folders that train_burn.py has written.

    Raises:
        BurnError: A folder has no log with gradient norms, or no result says how long its training took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = ["fig5_moving_average.png"]
    draw_ema(folder / written[0])
    logs = _logs(runs)
    for name, panels in (("fig3_6_gradient_norms.png", GRADIENTS), ("targets.png", TARGETS)):
        if draw_runs(folder / name, logs, panels):
            written.append(name)
    if results:
        written.append("fig4_training_time.png")
        draw_times(folder / written[-1], results)
    return written


def draw_ema(path: Path) -> None:
    """Fig. 5: mean and standard deviation over the runs of `ema_distances`."""
    figure, (axis,) = _figure(1)
    for name, binary in (("float", False), ("binary", True)):
        distances = ema_distances(binary)
        middle, deviation = distances.mean(0), distances.std(0, ddof=1)
        steps = np.arange(1, len(middle) + 1)
        axis.plot(steps, middle, label=name)
        axis.fill_between(steps, middle - deviation, middle + deviation, alpha=0.25)
    axis.set(xlabel="iteration", ylabel="L2 distance", title="Backbone and its moving average (Eq. 5)")
    axis.legend()
    _save(figure, path)


def ema_distances(binary: bool, runs: int = RUNS, iterations: int = ITERATIONS, seed: int = 0) -> np.ndarray:
    """L2 distance of Backbone and Target after each iteration of Eq. 5, float [runs, iterations].

        Backbone <- Backbone + rate * n,  n ~ N(0, 1)        Target <- m * Target + (1 - m) * Backbone

    Both begin with the same draw of N(0, 1) in 100 dimensions. `binary`: both are compared as binary networks use their
    weights, mean |w| * sign(w); the paper does not say how it binarises.
    """
    rng = np.random.default_rng(seed)
    backbone = rng.standard_normal((runs, DIMENSIONS))
    target = backbone.copy()
    distances = np.empty((runs, iterations))
    for step in range(iterations):
        backbone = backbone + RATE * rng.standard_normal(backbone.shape)
        target = MOMENTUM * target + (1 - MOMENTUM) * backbone
        pair = [_binarised(backbone), _binarised(target)] if binary else [backbone, target]
        distances[:, step] = np.linalg.norm(pair[0] - pair[1], axis=1)
    return distances


def _binarised(vectors: np.ndarray) -> np.ndarray:
    """Rows of `[N, D]` as 1-bit weights: their mean absolute value with the sign of each entry, sign(0) = +1."""
    return np.abs(vectors).mean(1, keepdims=True) * np.where(vectors >= 0, 1.0, -1.0)


def draw_runs(path: Path, logs: dict[str, list[dict]], panels: Sequence[tuple[str, str, float, str]]) -> bool:
    """Entries of logs over steps: a line for each run, a panel for each entry that some run has logged.

    Returns:
        Whether there was anything to draw.
    """
    panels = [panel for panel in panels if any(panel[1] in line for lines in logs.values() for line in lines)]
    if not panels:
        return False
    figure, axes = _figure(len(panels), len(logs))
    for axis, (title, entry, factor, scale) in zip(axes, panels, strict=True):
        for name, lines in logs.items():  # a run without this entry still takes its colour and its name
            steps = [line["step"] for line in lines if entry in line]
            axis.plot(steps, [factor * line[entry] for line in lines if entry in line], label=name, linewidth=1)
        axis.set(xlabel="step", ylabel=title, yscale=scale)
    _save(figure, path, axes[0])
    return True


def _logs(runs: Sequence[str]) -> dict[str, list[dict]]:
    """The lines of each run's log, by the run's name in the tables; by the folder's too where two are equal."""
    logs = {}
    for run in runs:
        lines = read_lines(Path(run) / "log.jsonl")
        if not lines or "grad_norm_student" not in lines[0]:
            raise BurnError(f"--runs {run}: no log.jsonl with gradient norms; give folders by train_burn.py")
        logs[run] = lines
    names = run_names(runs)
    return {names[run]: lines for run, lines in logs.items()}


def run_names(runs: Sequence[str]) -> dict[str, str]:
    """A name for each run from its summary: the row of the tables, and the folder's name too where two are equal."""
    trainings = {run: training_of(Path(run) / "latent.safetensors") for run in runs}
    names = {run: row_name(training) if training else Path(run).name for run, training in trainings.items()}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {run: f"{name} ({Path(run).name})" if name in twice else name for run, name in names.items()}


def draw_times(path: Path, results: Sequence[dict]) -> None:
    """Fig. 4: training time and linear accuracy, a point for each network, seeds put together.

    Raises:
        BurnError: No linear result says how long its training took.
    """
    timed = [r for r in results if r["task"] == "linear" and (r.get("training") or {}).get("train_seconds")]
    if not timed:
        raise BurnError("--results: no linear result of a network that train_burn.py has trained, so no Fig. 4")
    rows = rows_of(timed)
    figure, (axis,) = _figure(1, len(rows))
    for name, seeds in sorted(rows.items()):
        hours = mean(same[0]["training"]["train_seconds"] / 3600 for same in seeds)
        accuracy = mean(mean(100 * result["value"] for result in same) for same in seeds)
        axis.scatter(hours, accuracy, label=re.sub(r" \(.*?\)", "", name, count=1))
    axis.set(xlabel="training time, hours", ylabel="linear evaluation, top-1 (%)", title="Training time and accuracy")
    _save(figure, path, axis)


def _figure(panels: int, legend_lines: int = 0):
    from matplotlib.figure import Figure  # here, because it takes a second to import

    figure = Figure(figsize=(5.2 * panels, 3.8 + 0.21 * legend_lines), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _save(figure, path: Path, named=None) -> None:
    """`named`: the axis whose lines the legend below the panels explains."""
    if named is not None:
        figure.legend(*named.get_legend_handles_labels(), fontsize="small", loc="outside lower left")
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=110, bbox_inches="tight")  # a legend may be wider than a panel
