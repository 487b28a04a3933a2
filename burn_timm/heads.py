"""Heads that sit on pooled features `[B, D]` during training and are not exported."""

import torch.nn as nn


def kaiming_init(head: nn.Module) -> nn.Module:
    """`head` with its linear layers drawn anew as He et al. (ICCV 2015) do, biases 0."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def deep_projection_head(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """SimCLR v2's three layers, each with BatchNorm, ReLU between them: `[B, in_dim] -> [B, out_dim]`."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False), nn.BatchNorm1d(out_dim, affine=False),
    )


def projection_head(in_dim: int, hidden_dim: int, out_dim: int, norm: bool = True) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear: `[B, in_dim] -> [B, out_dim]`; without `norm` as in MoCo v2: no BatchNorm."""
    if not norm:
        return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim))
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),
    )
