"""The paper's figures: 3 and 6 (gradient norms), 4 (training time against accuracy), 5 (moving average, Eq. 5).

And one that it does not have: the target's information and the student's accuracy over training.

    eval_downstream.py figures --output DIR --runs RUN_FOLDER ... --results results/*.json
"""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import numpy as np

from ..errors import BurnError
from ..files import atomic_write, read_lines
from .network import training_of
from .paper import row_name
from .rows import rows_of

# Eq. 5: dimensions, learning rate (BYOL's), momentum of the average, iterations, independent runs.
DIMENSIONS, RATE, MOMENTUM, ITERATIONS, RUNS = 100, 4.8, 0.99, 100, 10


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
        pair = [binarised(backbone), binarised(target)] if binary else [backbone, target]
        distances[:, step] = np.linalg.norm(pair[0] - pair[1], axis=1)
    return distances


def binarised(vectors: np.ndarray) -> np.ndarray:
    """Rows of `[N, D]` as 1-bit weights: their mean absolute value with the sign of each entry, sign(0) = +1."""
    return np.abs(vectors).mean(1, keepdims=True) * np.where(vectors >= 0, 1.0, -1.0)


def draw_ema(path: Path) -> dict:
    """Fig. 5. Returns the last distances: {"float" | "binary": {"mean", "std"}}."""
    figure, (axis,) = _figure(1)
    last = {}
    for name, binary in (("float", False), ("binary", True)):
        distances = ema_distances(binary)
        middle, deviation = distances.mean(0), distances.std(0, ddof=1)
        steps = np.arange(1, len(middle) + 1)
        axis.plot(steps, middle, label=name)
        axis.fill_between(steps, middle - deviation, middle + deviation, alpha=0.25)
        last[name] = {"mean": round(float(middle[-1]), 2), "std": round(float(deviation[-1]), 2)}
    axis.set(xlabel="iteration", ylabel="L2 distance", title="Backbone and its moving average (Eq. 5)")
    axis.legend()
    _save(figure, path)
    return last


def draw_gradients(runs: Iterable[str], path: Path) -> None:
    """Fig. 3 and 6: gradient norms of the student's head and backbone over steps, a line for each run.

    Raises:
        BurnError: a folder has no log.jsonl with gradient norms.
    """
    logs = _logs(runs)
    figure, axes = _figure(2, len(logs))
    for axis, title, key in zip(axes, ("(a) student's head", "(b) student"),
                                ("grad_norm_student_head", "grad_norm_student"), strict=True):
        _draw_runs(axis, logs, key)
        axis.set(xlabel="step", ylabel="gradient norm", title=title, yscale="log")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize="small", loc="outside lower left")
    _save(figure, path)


def draw_targets(runs: Iterable[str], path: Path) -> bool:
    """What the target tells about an image, and the student's accuracies (--knn-steps, --linear-steps), over steps.

    Returns:
        Whether there was anything to draw: a run logs the first if its method is BURN, the others if it was asked to.
    """
    logs = _logs(runs)
    panels = [
        (title, key) for title, key in (("target's information, nats", "target_information"),
                                        ("student's kNN, top-1 (%)", "knn"),
                                        ("student's linear evaluation, top-1 (%)", "linear"))
        if any(key in line for lines in logs.values() for line in lines)
    ]
    if not panels:
        return False
    figure, axes = _figure(len(panels), len(logs))
    for axis, (title, key) in zip(axes, panels, strict=True):
        _draw_runs(axis, logs, key, 1 if key == "target_information" else 100)
        axis.set(xlabel="step", ylabel=title)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize="small", loc="outside lower left")
    _save(figure, path)
    return True


def _logs(runs: Iterable[str]) -> dict[str, list[dict]]:
    """The lines of each run by the run's name."""
    logs = {}
    for run in runs:
        log = Path(run) / "log.jsonl"
        if not log.is_file():
            raise BurnError(f"--runs {run}: no log.jsonl in it; give folders that train_burn.py has written")
        lines = read_lines(log)
        if not lines or "grad_norm_student" not in lines[0]:
            raise BurnError(f"{log}: no line with grad_norm_student; expected the log of train_burn.py")
        logs[run] = lines
    names = run_names(list(logs))
    return {names[run]: lines for run, lines in logs.items()}


def _draw_runs(axis, logs: dict[str, list[dict]], key: str, scale: float = 1) -> None:
    for name, lines in logs.items():
        lines = [line for line in lines if key in line]  # a run without any still takes its colour and its name
        axis.plot([line["step"] for line in lines], [scale * line[key] for line in lines], label=name, linewidth=1)


def run_names(runs: list[str]) -> dict[str, str]:
    """A name for each run from its summary: the row of the tables, and the folder's name too where two are equal."""
    names = {}
    for run in runs:
        training = training_of(Path(run) / "latent.safetensors")
        names[run] = row_name(training) if training else Path(run).name
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {run: f"{name} ({Path(run).name})" if name in twice else name for run, name in names.items()}


def draw_times(results: list[dict], path: Path, task: str = "linear") -> None:
    """Fig. 4: training time against linear accuracy, a point for each network, seeds put together.

    Raises:
        BurnError: no linear result says how long its training took.
    """
    timed = [r for r in results if r["task"] == task and (r.get("training") or {}).get("train_seconds")]
    if not timed:
        raise BurnError("--results: no linear result of a network that train_burn.py has trained, so no Fig. 4")
    figure, (axis,) = _figure(1)
    for name, seeds in sorted(rows_of(timed).items()):
        hours = mean(same[0]["training"]["train_seconds"] / 3600 for same in seeds)
        accuracy = mean(mean(100 * r["value"] for r in same) for same in seeds)
        axis.scatter(hours, accuracy, label=re.sub(r" \(.*?\)", "", name, count=1))
    axis.set(xlabel="training time, hours", ylabel="linear evaluation, top-1 (%)", title="Training time and accuracy")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def draw_all(folder: Path, runs: list[str], results: list[dict]) -> list[str]:
    """Every figure that there is material for; the names of the files. Fig. 5 needs none."""
    folder.mkdir(parents=True, exist_ok=True)
    written = ["fig5_moving_average.png"]
    draw_ema(folder / written[0])
    if runs:
        draw_gradients(runs, folder / "fig3_6_gradient_norms.png")
        written.append("fig3_6_gradient_norms.png")
        if draw_targets(runs, folder / "targets.png"):
            written.append("targets.png")
    if results:
        draw_times(results, folder / "fig4_training_time.png")
        written.append("fig4_training_time.png")
    return written


def _figure(panels: int, legend_lines: int = 0):
    from matplotlib.figure import Figure  # here, because it takes a second to import

    figure = Figure(figsize=(5.2 * panels, 3.8 + 0.21 * legend_lines), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _save(figure, path: Path) -> None:
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=110, bbox_inches="tight")  # a legend may be wider than a panel
