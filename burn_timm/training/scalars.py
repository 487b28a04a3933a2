"""Numbers of a step without waiting for the device: scalars, gradient norms, and when they are used."""

from collections import deque
from collections.abc import Callable

import torch

from ..distributed import most_exact


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
