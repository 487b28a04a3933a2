"""What stops a run, or warns, when training has gone wrong."""

import importlib.util
import logging
import math
import os
import shutil

import torch

from ..errors import BurnError

_logger = logging.getLogger(__name__)


def check_finite(values: dict, step: int, checkpoint: str) -> None:
    """Raise BurnError that names step, terms and last good checkpoint if `loss` or `grad_norm` is not finite."""
    loss = float(torch.as_tensor(values["loss"]).detach())
    if not math.isfinite(loss) or not math.isfinite(values.get("grad_norm", 0.0)):
        terms = ", ".join(f"{name} {float(torch.as_tensor(value).detach()):.6g}" for name, value in values.items())
        raise BurnError(
            f"step {step}: loss or gradient is not finite ({terms}); last good checkpoint: {checkpoint}. "
            "Lower --lr or set --clip-grad"
        )


def check_compiler(device: torch.device) -> None:
    """Raise BurnError if torch.compile lacks what it needs here: a C++ compiler for a CPU, Triton for a GPU."""
    if device.type == "cpu":
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl")):
            raise BurnError("--compile needs a C++ compiler on a CPU; install g++ or leave --compile out")
    elif importlib.util.find_spec("triton") is None:
        raise BurnError("--compile needs Triton on a GPU; pip install triton, or leave --compile out")


class TargetMonitor:
    """Warns once when the target says the same of every image (reference: both outputs constant minimise the KL)."""

    def __init__(self, floor: float = 0.05, patience: float = 0.1):
        self.floor = floor
        self.patience = patience
        self.best = 0.0
        self.warned = False

    def update(self, information: float, step: int, progress: float) -> None:
        """Args: information in nats; progress in [0, 1]. A target may start low: it gets `patience` to rise."""
        self.best = max(self.best, information)
        decayed = information < self.floor and (self.best > 2 * self.floor or progress >= self.patience)
        if decayed and not self.warned:
            self.warned = True
            _logger.warning(
                f"step {step}: the target has decayed to a constant: it tells {information:.4f} nats about the image "
                f"(best so far {self.best:.4f}). The KL term teaches nothing now. Try --information-weight 0.5, "
                "--target-head frozen or a larger --lambda-0 and --lambda-T."
            )
