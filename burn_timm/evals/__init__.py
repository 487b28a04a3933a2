"""Downstream evaluations: one file per protocol. EVALS: a plain dict from task name to protocol on frozen features."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from . import knn, linear, svm, transfer


class Eval(NamedTuple):
    """One protocol on frozen features.

    run: (train_features [N, D], train_labels [N], test_features [M, D], test_labels [M], **options) -> dict with
        `value` (the headline figure, a fraction) and whatever else the protocol reports.
    check: (train_count, **options) -> None; raises BurnError for settings that cannot be followed.
    protocol: (**options) -> dict, the resolved settings.
    description: one line.
    add_options: (parser) -> None, the flags that it has beyond the common ones.
    options: (parsed flags) -> dict, the **options above.
    """

    run: Callable[..., dict]
    check: Callable[..., None]
    protocol: Callable[..., dict]
    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    options: Callable[[argparse.Namespace], dict]


EVALS: dict[str, Eval] = {
    name: Eval(task.run, task.check, task.protocol, task.DESCRIPTION, task.add_options, task.options)
    for name, task in {"knn": knn, "linear": linear, "svm": svm, "transfer": transfer}.items()
}
