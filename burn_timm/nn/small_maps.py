"""Convolutions on small maps by one matrix product, forward and backward, on a CPU.

In bfloat16 oneDNN's convolutions of maps of at most 4x4 take 1.3 to 5 times as long; in float32 those of 2x2 with 3x3
kernels take 2.7 times as long, all others are faster (forward and backward together, weights in channels_last).
"""

import torch
import torch.nn.functional as F

from .. import compat


def out_side(side: int, size: int, stride: int, padding: int) -> int:
    """Pixels on a side of a convolution's output."""
    return (side + 2 * padding - size) // stride + 1


def by_product(x: torch.Tensor, weight: torch.Tensor, out_pixels: int) -> bool:
    """Whether `conv2d(x, weight)` with so many pixels of output is faster as a matrix product."""
    if x.device.type != "cpu" or not weight.is_contiguous(memory_format=torch.channels_last):
        return False
    if x.dtype == torch.bfloat16:
        return out_pixels <= 16
    return x.dtype == torch.float32 and out_pixels <= 4 and weight.shape[2] > 1


def columns_of(x: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
    """`[B, C, H, W]` to `[B, H', W', k * k * C]`: what each output pixel sees."""
    height, width = (out_side(side, size, stride, padding) for side in x.shape[2:])
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    taps = [
        x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(size) for j in range(size)
    ]
    return torch.cat(taps, -1) if len(taps) > 1 else taps[0]


def matrix(weight: torch.Tensor) -> torch.Tensor:
    """`[O, C, k, k]` in channels_last to `[O, k * k * C]`, a view."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def conv2d_by_product(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """`F.conv2d` without bias, in channels_last."""
    columns = columns_of(x, weight.shape[2], stride, padding)
    return (columns @ matrix(weight).t()).permute(0, 3, 1, 2)


def convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x and weight, all in channels_last."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    batch, outputs, height, width = grad.shape
    if not by_product(x, weight, height * width):
        grad_x, grad_weight = compat.convolution_backward(grad, x, weight, stride, padding)
        layout = {"memory_format": torch.channels_last}
        return grad_x.contiguous(**layout), grad_weight.contiguous(**layout)
    size, channels = weight.shape[2], weight.shape[1]
    rows = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
    columns = columns_of(x, size, stride, padding).reshape(len(rows), size * size * channels)
    grad_weight = (rows.t() @ columns).view(outputs, size, size, channels).permute(0, 3, 1, 2)
    grad_columns = (rows @ matrix(weight)).view(batch, height, width, size, size, channels)
    padded = [side + 2 * padding for side in x.shape[2:]]
    grad_x = grad.new_zeros((batch, *padded, channels))
    for i in range(size):
        for j in range(size):
            place = grad_x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            place += grad_columns[:, :, :, i, j]
    if padding:
        grad_x = grad_x[:, padding:-padding, padding:-padding].contiguous()
    return grad_x.permute(0, 3, 1, 2), grad_weight
