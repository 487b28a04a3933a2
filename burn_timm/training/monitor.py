"""What stops a run, or warns, when training has gone wrong."""

import logging
import math
from collections.abc import Mapping

from ..errors import BurnError

COLLAPSED = 0.05  # nats of information in the target, below which it says the same of every image

_logger = logging.getLogger(__name__)


def check_finite(values: Mapping[str, float], step: int, checkpoint: str) -> None:
    """Raise BurnError that names step, terms and last good checkpoint if `loss` or `grad_norm` is not finite."""
    if not math.isfinite(values["loss"]) or not math.isfinite(values.get("grad_norm", 0.0)):
        terms = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        raise BurnError(
            f"step {step}: loss or gradient is not finite ({terms}); last good checkpoint: {checkpoint}. "
            "Lower --lr or set --clip-grad"
        )


def collapsed(line: Mapping[str, float]) -> bool:
    """Whether a line of the log tells of a collapsed target that the student is to follow (at lambda 1 it is not)."""
    return line.get("target_information", math.inf) < COLLAPSED and line["lambda"] < 1


class CollapseMonitor:
    """Warns once when the target says the same of every image (both outputs constant minimise the KL).

    Args:
        patience: Steps, and share of the stage, in which the information may still be low from the start.
    """

    def __init__(self, patience: tuple[int, float] = (100, 0.1)):
        self.patience = patience
        self.best = 0.0
        self.warned = False

    def update(self, line: Mapping[str, float], progress: float) -> None:
        """Args: a line of the log; progress in [0, 1] of the stage."""
        self.best = max(self.best, line.get("target_information", 0.0))
        rose = self.best > 2 * COLLAPSED
        waited = line["step"] >= self.patience[0] and progress >= self.patience[1]
        if self.warned or not collapsed(line) or not (rose or waited):
            return
        self.warned = True
        now = f"it tells {line['target_information']:.4f} nats about the image"
        what = f"has decayed to a constant: {now} (best so far {self.best:.4f})"
        if not rose:
            what = f"is a constant and never was anything else: {now}"
        _logger.warning(
            f"step {line['step']}: the target {what}. The KL term teaches nothing now. Try --information-weight 0.5, "
            "--target-head frozen or a larger --lambda-0 and --lambda-T."
        )
