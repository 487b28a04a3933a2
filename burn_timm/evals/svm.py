"""Linear SVMs on frozen features, one for each class against the rest: all images, and a few of them.

The protocol for VOC07 of Goyal et al. (ICCV 2019, https://arxiv.org/abs/1905.01235), which Table 3 of the BURN paper
follows, for any single-label set: the cost of each class is chosen by cross-validation; low-shot, k positive and 19 k
negative images a class are drawn five times.
"""

import argparse
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from torch import Tensor
from tqdm import tqdm

from ..errors import BurnError
from .features import check_features

DESCRIPTION = "one-against-rest linear SVMs on frozen pooled features, full and low-shot: mean average precision"

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
NEGATIVES = 19  # for each positive image
FOLDS = 3


def protocol(
    shots: tuple[int, ...] = SHOTS, draws: int = 5, costs: tuple[float, ...] = COSTS, full: bool = True, seed: int = 0,
) -> dict:
    """The resolved settings, for the result file."""
    return {
        "method": "LinearSVC (liblinear), one against rest, squared hinge, L2, at most 2,000 iterations",
        "class_weight": {"positive": 2, "negative": 1},
        "features": "L2-normalised",
        "costs": sorted(costs),
        "full": f"cost of each class by {FOLDS}-fold cross-validation (average precision)" if full else "left out",
        "shots": sorted(shots),
        "low_shot": f"{draws} seeded draws of k positive and {NEGATIVES} k negative training images a class; the cost "
        "with the best mean over the draws, as published: chosen on the test images",
        "metric": "mean over classes of the average precision (area under the monotone envelope), fraction",
        "seed": seed,
    }


def check(
    train_count: int, shots: tuple[int, ...] = SHOTS, draws: int = 5, costs: tuple[float, ...] = COSTS,
    full: bool = True, seed: int = 0,
) -> None:
    """Refuse settings that cannot be followed. Raises BurnError."""
    if not full and not shots:
        raise BurnError("--no-full and no --shots leave nothing to do")
    if any(k < 1 for k in shots) or draws < 1:
        raise BurnError(f"--shots and --draws must be positive, not {list(shots)} and {draws}")
    if not costs or not all(0 < cost < float("inf") for cost in costs):
        raise BurnError(f"--costs must be one or more positive numbers, not {list(costs)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shots", type=int, nargs="*", default=SHOTS, metavar="K", help="low-shot sizes")
    parser.add_argument("--draws", type=int, default=5, help="of each size (default: %(default)s)")
    parser.add_argument("--costs", type=float, nargs="+", default=COSTS, metavar="C", help="(default: 19)")
    parser.add_argument("--no-full", action="store_true", help="leave out the SVMs on all images")


def options(args: argparse.Namespace) -> dict:
    return {
        "shots": tuple(args.shots), "draws": args.draws, "costs": tuple(args.costs), "full": not args.no_full,
        "seed": args.seed,
    }


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve's monotone envelope (VOC from 2010 on), in [0, 1].

    Args:
        scores: float [M], higher is more positive; of equal ones the earlier image comes first.
        positive: bool [M], at least one of them true.
    """
    hits = positive[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].mean())


def draw(labels: np.ndarray, target: int, k: int, rng: np.random.Generator) -> np.ndarray | None:
    """Indices of k images of class `target` and 19 k others, sorted; None where the set has too few."""
    positive, negative = np.flatnonzero(labels == target), np.flatnonzero(labels != target)
    if len(positive) < k or len(negative) < NEGATIVES * k:
        return None
    chosen = [rng.choice(positive, k, replace=False), rng.choice(negative, NEGATIVES * k, replace=False)]
    return np.sort(np.concatenate(chosen))


def run(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    shots: tuple[int, ...] = SHOTS,
    draws: int = 5,
    costs: tuple[float, ...] = COSTS,
    full: bool = True,
    seed: int = 0,
) -> dict:
    """Mean average precision over the classes of the training set that the test set has.

    Args:
        train_features, test_features: float [N, D], [M, D]; need not be normalised.
        train_labels, test_labels: int64 [N], [M], >= 0.

    Returns:
        `value`: the full figure, without it the one of the largest k that the set can supply; `full` (or None) and
        `low_shot`: {k: {"mean", "std" (over draws, n - 1), "draws", "cost"}, or "n/a" where images are too few}.

    Raises:
        BurnError: the sets do not fit each other, or no figure can be computed.
    """
    check_features(train_features, train_labels, test_features, test_labels)
    x, z = (np.ascontiguousarray(_normalise(part.double().cpu().numpy())) for part in (train_features, test_features))
    y, t = train_labels.cpu().numpy(), test_labels.cpu().numpy()
    classes = [c for c in np.unique(y).tolist() if (t == c).any()]
    if len(classes) < 2:
        raise BurnError("the SVMs need at least two classes that training and test images share")
    costs, shots = sorted(costs), sorted(shots)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the published limit of iterations is low
        low_shot = {str(k): _low_shot(x, y, z, t, classes, k, draws, costs, seed) for k in shots}
        whole = _full(x, y, z, t, classes, costs, seed) if full else None
    figures = [entry["mean"] for entry in low_shot.values() if entry != "n/a"]
    if whole is None and not figures:
        raise BurnError(f"no class has the {shots[0]} positive and {NEGATIVES * shots[0]} negative images of --shots")
    return {"value": whole if whole is not None else figures[-1], "full": whole, "low_shot": low_shot}


def _full(x, y, z, t, classes, costs, seed) -> float:
    figures = []
    for c in tqdm(classes, desc="SVM, all images", unit=" classes", disable=None):
        positive = y == c
        if positive.sum() < FOLDS:
            raise BurnError(f"class {c} has {positive.sum()} training images, {FOLDS} are needed; add --no-full")
        scores = [
            cross_val_score(_svm(cost, seed), x, positive, cv=FOLDS, scoring="average_precision").mean()
            for cost in costs
        ]
        best = costs[int(np.argmax(scores))] if len(costs) > 1 else costs[0]
        figures.append(average_precision(_svm(best, seed).fit(x, positive).decision_function(z), t == c))
    return float(np.mean(figures))


def _low_shot(x, y, z, t, classes, k, draws, costs, seed) -> dict | str:
    """Mean average precision of each draw at the cost whose mean over the draws is best."""
    table = np.zeros((draws, len(costs)))
    for number in tqdm(range(draws), desc=f"SVM, k = {k}", unit=" draws", leave=False, disable=None):
        rng = np.random.default_rng([seed, k, number])
        for c in classes:
            chosen = draw(y, c, k, rng)
            if chosen is None:
                return "n/a"
            for column, cost in enumerate(costs):
                fitted = _svm(cost, seed).fit(x[chosen], y[chosen] == c)
                table[number, column] += average_precision(fitted.decision_function(z), t == c) / len(classes)
    best = int(np.argmax(table.mean(0)))
    values = table[:, best]
    return {
        "mean": float(values.mean()), "std": float(values.std(ddof=1)) if draws > 1 else 0.0,
        "draws": values.tolist(), "cost": costs[best],
    }


def _svm(cost: float, seed: int) -> LinearSVC:
    return LinearSVC(
        C=cost, class_weight={True: 2, False: 1}, penalty="l2", loss="squared_hinge", dual=True, tol=1e-4,
        max_iter=2000, random_state=seed,
    )


def _normalise(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
