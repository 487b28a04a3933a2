"""Numbers of a step: scalars and gradient norms, used once the device has them; what stops a run, or warns."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import torch

from ..distributed import most_exact
from ..errors import BurnError

COLLAPSED = 0.05  # nats of information in the target, below which it says the same of every image

_logger = logging.getLogger(__name__)


class AsyncScalars:
    """Scalars that a GPU is still computing: copied at once, used when they are there, so that no step waits.

    Each use of numbers runs in the order of `add`; those of the last `lag` calls may still be on their way.

    Args:
        lag: 0 uses numbers at once, as on a CPU they are there. On a GPU 1 leaves it a step to compute them.
    """

    def __init__(self, lag: int):
        self.lag = lag
        self._waiting: deque[tuple[torch.Tensor, torch.cuda.Event | None, Callable[[list], None]]] = deque()

    def add(self, numbers: torch.Tensor, use: Callable[[list], None]) -> None:
        """Call `use` with the numbers as nested lists, when they are there. Errors of `use` pass through."""
        event = None
        if numbers.device.type == "cuda":
            there = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = there.copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((numbers, event, use))
        self._settle(self.lag)

    def flush(self) -> None:
        """Use all that is still waiting: before a checkpoint is written, and at the end."""
        self._settle(0)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            numbers, event, use = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            use(numbers.tolist())


def scalar(value: torch.Tensor | float, device: torch.device) -> torch.Tensor:
    """A number without gradient on the device, in float64 where that has it."""
    dtype = most_exact(device)
    if isinstance(value, torch.Tensor):
        return value.detach().to(device, dtype)
    return torch.full((), value, dtype=dtype, device=device)  # not copied there, which could wait


def grad_norm(module: torch.nn.Module, device: torch.device) -> torch.Tensor:
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return scalar(torch.nn.utils.get_total_norm(grads) if grads else 0.0, device)


def stacked(outputs: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Scalars to `[batches, names]`."""
    return torch.stack([torch.stack(list(values.values())) for values in outputs])


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
        earlier: Lines of the log from before a resume.
        patience: Steps, and share of the stage, in which the information may still be low from the start.
    """

    def __init__(self, earlier: Iterable[Mapping[str, float]] = (), patience: tuple[int, float] = (100, 0.1)):
        self.patience = patience
        self.best = max((line.get("target_information", 0.0) for line in earlier), default=0.0)
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
            f"step {line['step']}: the target {what}. The KL term teaches nothing now. Try --information-weight 0.5 or "
            "--target-head frozen, or leave the term out: --lambda-0 1 --lambda-T 1."
        )
