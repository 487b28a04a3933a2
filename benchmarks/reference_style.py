"""ReActNet-A's training step in the style of the published ReActNet and BURN code, to time ours against.

Written from a description of how that code computes, not from the code. The same function of the same parameters as
`reactnet_a`, by other means: signs and their gradients by mask arithmetic in floats, every learned shift an addition of
its own, weights binarised in every forward pass, two 1x1 convolutions where the width doubles.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from burn_timm.errors import BurnError
from burn_timm.models.reactnet import PairBlock
from burn_timm.nn import RPReLU, RSign, Shift


def in_reference_style(model: nn.Module) -> nn.Module:
    """`model` itself, computing in that style from now on. It takes images `[B, 3, H, W]`, sides divisible by 32.

    Raises:
        BurnError: `model` is not a ReActNet-A of one bit without classifier.
    """
    blocks = [block for stage in getattr(model, "stages", ()) for block in stage]
    pairs = blocks and all(isinstance(block, PairBlock) for block in blocks)
    if not pairs or (model.weight_bits, model.act_bits) != (1, 1) or list(model.head.parameters()):
        raise BurnError("the reference style is that of ReActNet-A in one bit, without classifier")
    for module in model.modules():
        for kind, forward in ((PairBlock, block_forward), (RSign, sign_forward), (RPReLU, act_forward)):
            if isinstance(module, kind):
                module.forward = forward.__get__(module)
    return model


def shifted(x: torch.Tensor, shift: Shift) -> torch.Tensor:
    return x + shift.bias.view(1, -1, 1, 1).expand_as(x)


def sign_forward(self: RSign, x: torch.Tensor) -> torch.Tensor:
    """sign(x) forward; backward through the piecewise polynomial that approximates it, whose slope is 2 - 2|x|."""
    x = shifted(x, self)
    sign = torch.sign(x)
    below, negative, inside = (x < -1).float(), (x < 0).float(), (x < 1).float()
    left = -1 * below + (x * x + 2 * x) * (1 - below)
    middle = left * negative + (-x * x + 2 * x) * (1 - negative)
    soft = middle * inside + 1 * (1 - inside)
    return sign.detach() - soft.detach() + soft


def act_forward(self: RPReLU, x: torch.Tensor) -> torch.Tensor:
    return shifted(self.prelu(shifted(x, self.shift1)), self.shift2)


def binary(real: torch.Tensor) -> torch.Tensor:
    scale = real.abs().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True).detach()
    value, clipped = scale * torch.sign(real), torch.clamp(real, -1.0, 1.0)
    return value.detach() - clipped.detach() + clipped


def block_forward(self: PairBlock, x: torch.Tensor) -> torch.Tensor:
    out = self.bn1(F.conv2d(self.sign1(x), binary(self.conv1.weight), stride=self.stride, padding=1))
    x = self.act1(out + (F.avg_pool2d(x, 2, 2) if self.stride == 2 else x))
    signs, bn, branches = self.sign2(x), self.bn2, 2 if self.widens else 1
    norms = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    parts = zip(self.conv2.weight.chunk(branches), *(tensor.chunk(branches) for tensor in norms), strict=True)
    outs = [
        x + F.batch_norm(
            F.conv2d(signs, binary(weight)), *norm, training=self.training, momentum=bn.momentum, eps=bn.eps,
        )
        for weight, *norm in parts
    ]
    return self.act2(torch.cat(outs, dim=1) if self.widens else outs[0])
