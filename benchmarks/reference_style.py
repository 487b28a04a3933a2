"""ReActNet-A's training step in the style of the published ReActNet and BURN code, to time ours against.

Written from a description of how that code computes, not from the code. The same function as `reactnet_a`, by other
means: signs and their gradients by mask arithmetic in floats, learned shifts as modules of their own, binary weights
held as one column and binarised in every forward pass, two 1x1 convolutions where the width doubles.
"""

from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F

from burn_timm.errors import BurnError
from burn_timm.models.reactnet import PairBlock


class LearnableBias(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias.expand_as(x)


class BinaryActivation(nn.Module):
    """sign(x) forward; backward through the piecewise polynomial that approximates it, whose slope is 2 - 2|x|."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sign = torch.sign(x)
        below, negative, inside = (x < -1).float(), (x < 0).float(), (x < 1).float()
        left = -1 * below + (x * x + 2 * x) * (1 - below)
        middle = left * negative + (-x * x + 2 * x) * (1 - negative)
        soft = middle * inside + 1 * (1 - inside)
        return sign.detach() - soft.detach() + soft


class BinaryConv(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.shape = (out_chs, in_chs, kernel_size, kernel_size)
        self.weights = nn.Parameter(torch.rand(out_chs * in_chs * kernel_size**2, 1) * 0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        real = self.weights.view(self.shape)
        scale = real.abs().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True).detach()
        binary = scale * torch.sign(real)
        clipped = torch.clamp(real, -1.0, 1.0)
        return F.conv2d(x, binary.detach() - clipped.detach() + clipped, stride=self.stride, padding=self.padding)


class BiasPReLU(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.shift1 = LearnableBias(channels)
        self.prelu = nn.PReLU(channels)
        self.shift2 = LearnableBias(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shift2(self.prelu(self.shift1(x)))


class Block(nn.Module):
    def __init__(self, in_chs: int, out_chs: int, stride: int):
        super().__init__()
        self.shift1 = LearnableBias(in_chs)
        self.sign = BinaryActivation()
        self.conv1 = BinaryConv(in_chs, in_chs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(in_chs)
        self.pool = nn.AvgPool2d(2, 2) if stride == 2 else None
        self.act1 = BiasPReLU(in_chs)
        self.shift2 = LearnableBias(in_chs)
        branches = out_chs // in_chs
        self.convs2 = nn.ModuleList(BinaryConv(in_chs, in_chs, 1) for _ in range(branches))
        self.bns2 = nn.ModuleList(nn.BatchNorm2d(in_chs) for _ in range(branches))
        self.act2 = BiasPReLU(out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn1(self.conv1(self.sign(self.shift1(x))))
        if self.pool is not None:
            x = self.pool(x)
        x = self.act1(out + x)
        signs = self.sign(self.shift2(x))
        outs = [bn(conv(signs)) + x for conv, bn in zip(self.convs2, self.bns2, strict=True)]
        return self.act2(torch.cat(outs, dim=1) if len(outs) > 1 else outs[0])


class ReferenceReActNet(nn.Module):
    """Images `[B, 3, H, W]`, sides divisible by 32, to pooled features, with the weights of `model`.

    Raises:
        BurnError: `model` is not a ReActNet-A of one bit without classifier.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        blocks = [block for stage in getattr(model, "stages", ()) for block in stage]
        pairs = blocks and all(isinstance(block, PairBlock) for block in blocks)
        if not pairs or (model.weight_bits, model.act_bits) != (1, 1) or list(model.head.parameters()):
            raise BurnError("the reference style is that of ReActNet-A in one bit, without classifier")
        stem = model.stem.conv
        self.conv = nn.Conv2d(stem.in_channels, stem.out_channels, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(stem.out_channels)
        self.blocks = nn.Sequential(*(Block(b.conv1.in_channels, b.conv2.out_channels, b.stride) for b in blocks))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            for ours, theirs in counterparts(model, self):
                for part, tensor in zip(ours.chunk(len(theirs)), theirs, strict=True):
                    tensor.copy_(part.reshape(tensor.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.bn(self.conv(x))))


def counterparts(model: nn.Module, reference: ReferenceReActNet) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Each parameter of `model` with those that hold its values in `reference`: one, or two halves of its channels."""
    yield model.stem.conv.weight, [reference.conv.weight]
    yield from _affine(model.stem.bn, [reference.bn])
    blocks = (block for stage in model.stages for block in stage)
    for block, theirs in zip(blocks, reference.blocks, strict=True):
        yield block.sign1.bias, [theirs.shift1.bias]
        yield block.conv1.weight, [theirs.conv1.weights]
        yield from _affine(block.bn1, [theirs.bn1])
        yield block.sign2.bias, [theirs.shift2.bias]
        yield block.conv2.weight, [conv.weights for conv in theirs.convs2]
        yield from _affine(block.bn2, list(theirs.bns2))
        for act, their_act in ((block.act1, theirs.act1), (block.act2, theirs.act2)):
            yield act.shift1.bias, [their_act.shift1.bias]
            yield act.prelu.weight, [their_act.prelu.weight]
            yield act.shift2.bias, [their_act.shift2.bias]


def _affine(bn: nn.BatchNorm2d, theirs: list[nn.BatchNorm2d]) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    yield bn.weight, [other.weight for other in theirs]
    yield bn.bias, [other.bias for other in theirs]
