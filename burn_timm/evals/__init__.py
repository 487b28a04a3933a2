"""Downstream evaluations of frozen features: one file per protocol, and EVALS, a plain dict from task name to it."""

from collections.abc import Callable
from typing import NamedTuple

from . import knn, linear, svm


class Eval(NamedTuple):
    """One protocol.

    run: (train_features [N, D], train_labels [N], test_features [M, D], test_labels [M], **options) -> dict with
        `value` (the headline figure, a fraction) and whatever else the protocol reports.
    check: (train_count, **options) -> None; raises BurnError for settings that cannot be followed.
    protocol: (**options) -> dict, the resolved settings.
    description: one line.
    """

    run: Callable[..., dict]
    check: Callable[..., None]
    protocol: Callable[..., dict]
    description: str


EVALS: dict[str, Eval] = {
    "knn": Eval(knn.run, knn.check, knn.protocol, knn.DESCRIPTION),
    "linear": Eval(linear.run, linear.check, linear.protocol, linear.DESCRIPTION),
    "svm": Eval(svm.run, svm.check, svm.protocol, svm.DESCRIPTION),
}
