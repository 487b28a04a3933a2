"""Targets that follow a trained module by an exponential moving average: MoCo's key encoder, BYOL's target."""

import copy

import torch
import torch.nn as nn


class MomentumCopy(nn.Module):
    """A copy of `module` that is not trained, but moved: target = m * target + (1 - m) * online.

    Its BatchNorms normalise by the batch in training mode and keep statistics of their own, as in the published
    methods; only parameters are averaged (latent ones of binary convolutions too: BURN, Eq. 5, on what that does).

    Args:
        module: What is copied; parameters of the copy have requires_grad False.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """One step towards `online`, a module with the same parameters; `momentum` in [0, 1], 1 stays."""
        mine = list(self.module.parameters())
        theirs = [parameter.detach() for parameter in online.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.module(x)
