"""Gradient checkpointing of networks with BatchNorm."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """module(x), computed again in the backward pass instead of kept, with running statistics updated once.

    (torch's own, and timm's, let the second pass update them too, so that they follow the last batches at twice the
    momentum. torch.compile repeats what has no side effects, so it needs no help.)
    """
    if torch.compiler.is_compiling():
        return checkpoint(module, x, use_reentrant=False)
    return checkpoint(
        module, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(module)),
    )


def checkpointed_blocks(blocks: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """`blocks` one after the other, each `checkpointed`."""
    for block in blocks:
        x = checkpointed(block, x)
    return x


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    norms = [child for child in module.modules()
             if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.num_batches_tracked is not None]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # what the backward pass keeps must be the same, so tracking cannot be left out
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
