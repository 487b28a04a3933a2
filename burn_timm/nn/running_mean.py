"""The mean of vectors over the last batches."""

import torch
import torch.nn as nn

from ..distributed import mean_over_processes


class RunningMean(nn.Module):
    """Exponential mean of batch means, `[D]`, over all processes, corrected for its start at zero as Adam's averages.

    Args:
        momentum: Share in [0, 1) of the earlier mean in the new one.
    """

    def __init__(self, dim: int, momentum: float = 0.99):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("total", torch.zeros(dim))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mean with `x`, `[B, D]`, in it; in eval mode without. Zero before the first batch."""
        if self.training:
            self.total.lerp_(mean_over_processes(x.to(self.total.dtype).mean(0)), 1 - self.momentum)
            self.weight.lerp_(torch.ones_like(self.weight), 1 - self.momentum)
        return self.total / self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
