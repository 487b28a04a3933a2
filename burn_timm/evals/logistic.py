"""Multinomial logistic regression by L-BFGS on frozen features, as transfer is often measured.

Kornblith et al. (CVPR 2019, https://arxiv.org/abs/1805.08974) and SimCLR: 45 penalties between 1e-6 and 1e5, evenly
spaced in the logarithm, chosen on held-out training images, then a fit on all of them. scikit-learn's solver.

The loop over penalties is our own because LogisticRegressionCV cannot standardise each part with its own statistics,
and a grid search over a pipeline cannot start a fit from the last one's weights, which is faster and ends elsewhere.
"""

import logging
import warnings

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import BurnError
from .heads import test_figures
from .inputs import HOLD_OUT

_logger = logging.getLogger(__name__)

PENALTIES = tuple(np.logspace(-6, 5, 45).tolist())
ITERATIONS = 1000


def protocol() -> dict:
    """The settings in words, for the result file."""
    return {
        "method": "multinomial logistic regression by L-BFGS on cached frozen features, no augmentation",
        "objective": "sum of the cross-entropies + penalty / 2 * squared norm of the weights",
        "iterations": f"at most {ITERATIONS}",
        "penalties": sorted(PENALTIES),
        "penalty_choice": f"best top-1 on a seeded {HOLD_OUT:.0%} of the training set, then refit on the whole set",
    }


def logistic_regression(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, *,
    penalties: tuple[float, ...] = PENALTIES, seed: int = 0,
) -> dict:
    """Choose the penalty without the test set; test once.

    Returns:
        `test_figures`, `penalty` (the chosen one) and `sweep` (dict(penalty, accuracy) each).

    Raises:
        BurnError: fewer than two classes.
    """
    from sklearn.exceptions import ConvergenceWarning  # here, because it takes a second or two to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y, z, t = (part.cpu().numpy() for part in (train_features, train_labels, test_features, test_labels))
    order = np.random.default_rng(seed).permutation(len(x))
    held_out, rest = order[: round(HOLD_OUT * len(x))], order[round(HOLD_OUT * len(x)) :]
    if len(np.unique(y[rest])) < 2:
        raise BurnError("logistic regression needs training images of at least two classes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scaler = StandardScaler().fit(x[rest])
        fitted, scored = scaler.transform(x[rest]), scaler.transform(x[held_out])
        sweep = []
        model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
        for penalty in tqdm(sorted(penalties, reverse=True), desc="penalties", disable=None):
            model.set_params(C=1 / penalty).fit(fitted, y[rest])
            sweep.append({"penalty": penalty, "accuracy": float(model.score(scored, y[held_out]))})
        best = max(sweep, key=lambda row: (row["accuracy"], row["penalty"]))["penalty"]
        if len(penalties) > 1 and best in (min(penalties), max(penalties)):
            _logger.warning("the logistic regression chose the penalty at the end of its grid, %g", best)
        scaler = StandardScaler().fit(x)
        model = LogisticRegression(max_iter=ITERATIONS, C=1 / best).fit(scaler.transform(x), y)
    scores = np.full((len(t), int(max(y.max(), t.max())) + 1), -np.inf)
    with np.errstate(divide="ignore"):  # of a class that is impossible
        scores[:, model.classes_] = model.predict_log_proba(scaler.transform(z))
    scores, labels = torch.from_numpy(scores), torch.from_numpy(t)
    return {**test_figures(scores, labels), "penalty": best, "sweep": sweep}
