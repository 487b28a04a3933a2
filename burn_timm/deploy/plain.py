"""The same network out of standard layers, for ONNX, torch.export and other engines. It does not run in 1 bit."""

import copy

import torch
from torch import nn

from ..models import ReActNet
from ..models.reactnet import ConvBN, PairBlock, SingleBlock
from ..nn import BinaryConv2d, RSign
from ..packing import weight_scale


class Sign(nn.Module):
    """+1 where x >= limit, else -1; per channel of `[B, C, H, W]`."""

    def __init__(self, shift: torch.Tensor):
        super().__init__()
        self.register_buffer("limit", -shift.detach().clone().view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x >= self.limit).to(x.dtype).mul_(2).sub_(1)  # torch.where with two numbers takes twice the time


def plain_network(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without gradients: binarised weights are computed once and BatchNorms are folded into the
    convolutions before them. Any other network than a ReActNet is only copied."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if not isinstance(model, ReActNet):
        return model
    for module in model.modules():
        if isinstance(module, ConvBN):
            _merge(module, "conv", "bn")
        elif isinstance(module, PairBlock):
            _merge(module, "conv1", "bn1")
            _merge(module, "conv2", "bn2")
        elif isinstance(module, SingleBlock):
            _merge(module, "conv", "bn")
        for name, child in module.named_children():
            if isinstance(child, RSign) and child.act_bits == 1:
                setattr(module, name, Sign(child.bias))
    model._load_state_dict_pre_hooks.clear()  # they are for other tensors, and hooks cannot always be stored
    return model


def _merge(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    weight = conv.weight.double()
    if isinstance(conv, BinaryConv2d) and conv.weight_bits == 1:
        scale = weight_scale(conv.weight).double().view(-1, 1, 1, 1)
        weight = torch.where(conv.weight >= 0, scale, -scale)
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, device=conv.weight.device,
    ).requires_grad_(False)
    plain.weight.copy_(weight * gain.view(-1, 1, 1, 1))
    plain.bias.copy_(norm.bias.double() - gain * norm.running_mean.double())
    setattr(module, conv_name, plain.eval())
    setattr(module, norm_name, nn.Identity())


class FeaturesAndLogits(nn.Module):
    """A timm model whose forward gives pooled features `[B, D]` and logits `[B, K]`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.model.forward_features(x)
        return self.model.forward_head(x, pre_logits=True), self.model.forward_head(x)
