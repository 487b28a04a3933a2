"""The optimiser of a run: timm's, in one fused pass over the weights where torch has it."""

import argparse

import torch
from timm.optim import create_optimizer_v2
from torch import nn

_FUSED = {"adam", "adamw", "sgd", "momentum"}  # timm's names of those of torch's that have a fused form


def make_optimizer(args: argparse.Namespace, method: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """timm's optimiser `args.opt` for the trained parameters of `method`, which are on their device already."""
    fused = {"fused": True} if args.opt.lower() in _FUSED else {}
    optimizer = create_optimizer_v2(
        method, opt=args.opt, lr=args.lr, weight_decay=weight_decay, momentum=args.momentum, **fused,
    )
    if fused and isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        _on_dense_memory(optimizer)
    return optimizer


def _on_dense_memory(optimizer: torch.optim.Optimizer) -> None:
    """Show the fused kernels weights in channels_last as the contiguous arrays that they are.

    torch's CPU kernels copy anything else to and fro, which takes three times as long and the memory of a weight. (SGD
    stores what it is shown, so it must see the weights as they are.)
    """
    collect = optimizer._init_group

    def collect_dense(group, *lists, **named):
        result = collect(group, *lists, **named)
        lists = [tensors for tensors in (*lists, *named.values()) if isinstance(tensors, list) and tensors]
        for number, parameter in enumerate(lists[0] if lists else ()):
            mine = [tensors for tensors in lists if tensors[number].shape == parameter.shape]  # but for step numbers
            same = all(tensors[number].stride() == parameter.stride() for tensors in mine)
            if parameter.ndim == 4 and not parameter.is_contiguous() and same:
                for tensors in mine:
                    tensors[number] = tensors[number].permute(0, 2, 3, 1)
        return result

    optimizer._init_group = collect_dense
