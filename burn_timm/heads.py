"""Heads that sit on pooled features `[B, D]` during training and are not exported."""

import torch.nn as nn

HEAD_TYPES = ("linear", "mlp")


def classifier_head(in_dim: int, out_dim: int, kind: str = "mlp", hidden_dim: int | None = None) -> nn.Module:
    """A classifier `[B, in_dim] -> [B, out_dim]`: g_theta or l_phi of BURN, which the paper calls "classifier" only.

    `linear` is one layer; `mlp` is Linear, BatchNorm, ReLU, Linear with `hidden_dim` (default `out_dim`) in between.
    """
    if kind == "linear":
        return nn.Linear(in_dim, out_dim)
    if kind == "mlp":
        return projection_head(in_dim, hidden_dim or out_dim, out_dim)
    raise ValueError(f"kind must be one of {', '.join(HEAD_TYPES)}, not {kind!r}")


def deep_projection_head(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """SimCLR v2's three layers, each with BatchNorm, ReLU between them: `[B, in_dim] -> [B, out_dim]`."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False), nn.BatchNorm1d(out_dim, affine=False),
    )


def projection_head(in_dim: int, hidden_dim: int, out_dim: int, norm: bool = True) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear: `[B, in_dim] -> [B, out_dim]`. MoCo's MLP is the one without `norm`."""
    if not norm:
        return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim))
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),
    )
