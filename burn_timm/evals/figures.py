"""The paper's figures: 3 and 6 (gradient norms), 4 (training time and accuracy), 5 (moving average, Eq. 5).

One more, which the paper does not have: the target's information and the student's accuracy during training.

    eval_downstream.py figures --output FOLDER --runs RUN_FOLDER ... --results results/*.jsonl
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from ..drawing import picture
from ..errors import BurnError
from ..files import read_lines
from .network import training_of
from .tables import LINEAR, collected, row_name

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
    with picture(path, 5.2, 3.8) as figure:
        axis = figure.subplots()
        for name, binary in (("float", False), ("binary", True)):
            distances = ema_distances(binary)
            middle, deviation = distances.mean(0), distances.std(0, ddof=1)
            steps = np.arange(1, len(middle) + 1)
            axis.plot(steps, middle, label=name)
            axis.fill_between(steps, middle - deviation, middle + deviation, alpha=0.25)
        axis.set(xlabel="iteration", ylabel="L2 distance", title="Backbone and its moving average (Eq. 5)")
        axis.legend()


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
    with picture(path, 5.2 * len(panels), 3.8 + 0.21 * len(logs)) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, entry, factor, scale) in zip(axes, panels, strict=True):
            for name, lines in logs.items():  # a run without this entry still takes its colour and its name
                steps = [line["step"] for line in lines if entry in line]
                axis.plot(steps, [factor * line[entry] for line in lines if entry in line], label=name, linewidth=1)
            axis.set(xlabel="step", ylabel=title, yscale=scale)
        _legend_below(figure, axes[0])
    return True


def _logs(runs: Sequence[str]) -> dict[str, list[dict]]:
    """The lines of each run's log, by the run's row in the tables and its folder."""
    logs = {}
    for run in map(Path, runs):
        lines = read_lines(run / "log.jsonl")
        if not lines or "grad_norm_student" not in lines[0]:
            raise BurnError(f"--runs {run}: no log.jsonl with gradient norms; give folders by train_burn.py")
        training = training_of(run / "latent.safetensors")
        logs[f"{row_name(training)} ({run})" if training else str(run)] = lines
    return logs


def draw_times(path: Path, results: Sequence[dict]) -> None:
    """Fig. 4: training time and linear accuracy, a point for each row of the table: the mean over its seeds.

    Raises:
        BurnError: No linear result says how long its training took.
    """
    timed = [result for result in results if (result.get("training") or {}).get("train_seconds")]
    parts = collected(timed, [LINEAR])
    rows = {f"{name}: {words}" + (f", {part}" if len(parts) > 1 else ""): cells[0]
            for part, of_part in parts.items() for (name, words), cells in of_part.items()}
    if not rows:
        raise BurnError("--results: no linear result of a network that train_burn.py has trained, so no Fig. 4")
    with picture(path, 5.2, 3.8 + 0.21 * len(rows)) as figure:
        axis = figure.subplots()
        for name, seeds in sorted(rows.items()):
            hours = mean(result["training"]["train_seconds"] / 3600 for result in seeds)
            axis.scatter(hours, mean(100 * result["value"] for result in seeds), label=name)
        axis.set(xlabel="training time, hours", ylabel="linear evaluation, top-1 (%)",
                 title="Training time and accuracy")
        _legend_below(figure, axis)


def _legend_below(figure, axis) -> None:
    figure.legend(*axis.get_legend_handles_labels(), fontsize="small", loc="outside lower left")
