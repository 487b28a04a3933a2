"""Numbers that a GPU is still computing: asked for at once, used when they have arrived, so that no step waits."""

from collections import deque
from collections.abc import Callable

import torch


class Arrivals:
    """Runs each use of numbers in the order of `add`, with those of the last `lag` calls still on their way.

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
