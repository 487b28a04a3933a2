"""The optimiser of a run: timm's, in one fused pass over the weights where torch has it."""

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from .options import Options

_FUSED = {"adam", "adamw", "sgd", "momentum"}  # timm's names of those of torch's that have a fused form


def make_optimizer(options: Options, method: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """timm's optimiser `options.opt` for the trained parameters of `method`, which are on their device already.

    Its `zero_grad` does not reach all parameters: call the method's.
    """
    fused = {"fused": True} if options.opt.lower() in _FUSED else {}
    trained = method
    if options.weight_decay_on == "convolutions":
        groups = {weight_decay: [], 0.0: []}
        for parameter in method.parameters():
            if parameter.requires_grad:
                groups[weight_decay if parameter.ndim == 4 else 0.0].append(parameter)
        trained = [{"params": each, "weight_decay": decay} for decay, each in groups.items() if each]
    optimizer = create_optimizer_v2(
        trained, opt=options.opt, lr=options.lr, weight_decay=weight_decay, momentum=options.momentum,
        filter_bias_and_bn=options.weight_decay_on == "weights", **fused,
    )
    if fused and isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        _see_contiguous_arrays(optimizer)
    return optimizer


def _see_contiguous_arrays(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser weights in channels_last as the contiguous arrays that they are: views `[O, kH, kW, I]`.

    torch's fused CPU kernels copy anything else to and fro, which takes three times as long and the memory of a weight.
    """
    views = []  # (parameter, its view)
    for group in optimizer.param_groups:
        for number, parameter in enumerate(group["params"]):
            last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
            if parameter.device.type == "cpu" and last and not parameter.is_contiguous():
                view = parameter.detach().permute(0, 2, 3, 1)
                group["params"][number] = view
                views.append((parameter, view))

    def lend_gradients(*_) -> None:
        for parameter, view in views:
            view.grad = None if parameter.grad is None else parameter.grad.permute(0, 2, 3, 1)

    def take_back(*_) -> None:
        for _, view in views:
            view.grad = None

    optimizer.register_step_pre_hook(lend_gradients)
    optimizer.register_step_post_hook(take_back)
