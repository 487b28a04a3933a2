"""ReActNet-A and ReActNet-18 restated from the paper: plain functions on float64, slow, one thing at a time.

Structure and strides come from the paper's description, the tensors from a state dict. Nothing of burn_timm is used.
"""

import math

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]
# (output channels / 32, stride) of ReActNet-A's 13 blocks.
BLOCKS_A = [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]


def randomise(model: torch.nn.Module) -> None:
    """Give every parameter and BatchNorm statistic a value that matters: no shift is 0, no slope the default."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("num_batches_tracked"):
                continue
            elif tensor.ndim == 1:
                tensor.normal_(std=0.3)
                if ".bn" in name and name.endswith("weight"):
                    tensor.add_(1)
            elif tensor.ndim == 2:
                tensor.normal_(std=0.1)


def reactnet_a(images, weights: Weights, weight_bits: int, act_bits: int, plan=None):
    """`plan`: (stage, block in it, stride) of each block, ReActNet-A's if None; a block doubles if its 1x1 does."""
    x = _bn(_conv(images, weights["stem.conv.weight"], 2), weights, "stem.bn")
    for stage, number, stride in plan or _plan_of(BLOCKS_A):
        at = f"stages.{stage}.{number}"
        residual = _average_pool(x) if stride == 2 else x
        signs, kernel = _rsign(x, weights, f"{at}.sign1", act_bits), _scaled(weights, f"{at}.conv1", weight_bits)
        binary = _conv(signs, kernel, stride)
        x = _rprelu(_bn(binary, weights, f"{at}.bn1") + residual, weights, f"{at}.act1")

        signs, kernel = _rsign(x, weights, f"{at}.sign2", act_bits), _scaled(weights, f"{at}.conv2", weight_bits)
        # Two branches, each with its own convolution and BatchNorm; sign and residual are shared.
        width, branches = x.shape[1], []
        for first in range(0, len(kernel), width):
            rows = slice(first, first + width)
            branches.append(_bn(_conv(signs, kernel[rows], 1), weights, f"{at}.bn2", rows) + x)
        x = _rprelu(torch.cat(branches, 1), weights, f"{at}.act2")
    return _classify(x, weights)


def reactnet_18(images, weights: Weights, weight_bits: int, act_bits: int):
    x = _bn(_conv(images, weights["stem.conv.weight"], 2), weights, "stem.bn")
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 3, 2)
    for stage in range(4):
        for number in range(4):
            at, stride = f"stages.{stage}.{number}", 2 if stage and not number else 1
            residual = x
            if stride == 2:
                residual = _bn(
                    _conv(_average_pool(x), weights[f"{at}.downsample.conv.weight"], 1), weights, f"{at}.downsample.bn",
                )
            kernel = _scaled(weights, f"{at}.conv", weight_bits)
            binary = _conv(_rsign(x, weights, f"{at}.sign", act_bits), kernel, stride)
            x = _rprelu(_bn(binary, weights, f"{at}.bn") + residual, weights, f"{at}.act")
    return _classify(x, weights)


def _plan_of(blocks):
    stage, number = -1, 0
    for width, stride in blocks:
        stage, number = (stage + 1, 0) if stride == 2 or width == 2 else (stage, number + 1)
        yield stage, number, stride


def _rsign(x, weights: Weights, at: str, act_bits: int):
    x = x + weights[f"{at}.bias"][None, :, None, None]
    return torch.sign(torch.sign(x) + 0.5) if act_bits == 1 else x  # torch's sign(0) is 0; ours is 1


def _rprelu(x, weights: Weights, at: str):
    x = x + weights[f"{at}.shift1.bias"][None, :, None, None]
    x = x.clamp(min=0) + weights[f"{at}.prelu.weight"][None, :, None, None] * x.clamp(max=0)
    return x + weights[f"{at}.shift2.bias"][None, :, None, None]


def _scaled(weights: Weights, at: str, weight_bits: int):
    latent = weights[f"{at}.weight"]
    if weight_bits == 32:
        return latent
    return torch.stack([row.abs().sum() / row.numel() * torch.sign(row) for row in latent])


def _conv(x, kernel, stride: int):
    """A convolution with zero padding, by unfolding."""
    size = kernel.shape[-1]
    height, width = ((n - 1) // stride + 1 for n in x.shape[-2:])
    columns = F.unfold(F.pad(x, (size // 2,) * 4), size, stride=stride)
    return (kernel.flatten(1) @ columns).view(len(x), len(kernel), height, width)


def _bn(x, weights: Weights, at: str, rows=slice(None)):
    weight, bias, mean, var = (
        weights[f"{at}.{name}"][rows][None, :, None, None] for name in ("weight", "bias", "running_mean", "running_var")
    )
    return weight * (x - mean) / (var + 1e-5) ** 0.5 + bias


def _average_pool(x):
    """2x2; at an odd border the mean of the pixels that are there."""
    rows = [
        torch.stack([x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in range(0, x.shape[3], 2)], -1)
        for i in range(0, x.shape[2], 2)
    ]
    return torch.stack(rows, -2)


def _classify(x, weights: Weights):
    return x.mean((2, 3)) @ weights["head.fc.weight"].T + weights["head.fc.bias"]
