"""A binary convolution in training whose forward pass counts bits, on a CPU with numba.

Inputs are +-1, weights +-scale: the sums are whole numbers and exact, where bfloat16 would round the scale. Bits are
all that is kept for the backward pass, a sixteenth of bfloat16; it makes the numbers again, and is the usual one:
incoming gradients are real-valued. Both passes are operators of torch, so that torch.compile leaves them as they are.
"""

import importlib.util

import numpy as np
import torch
from torch import library

from ..errors import one_line
from ..kernels.layout import block_width, out_side, pixels_at_a_time, sums_without_mismatch
from .small_maps import convolution_backward

_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}  # of the same width
_GROUP = 16  # channels


def why_not(device: torch.device) -> str | None:
    """The reason why bits cannot be counted on `device`, or None."""
    if device.type != "cpu":
        return "it is for CPUs"
    if importlib.util.find_spec("numba") is None:
        return 'numba is missing: pip install "burn-timm[numba]"'
    try:
        from ..kernels import training  # noqa: F401
    except ImportError as error:
        return f"numba cannot be loaded ({one_line(error)})"
    return None


def fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `sign_conv2d` takes `x` `[B, I, H, W]` and `weight` `[O, I, k, k]`."""
    return x.dtype in _INTEGERS and takes(weight)


def takes(weight: torch.Tensor) -> bool:
    """Whether `pack_latent` takes `weight` `[O, I, k, k]`."""
    outputs, inputs, height, width = weight.shape
    return (
        weight.device.type == "cpu" and weight.dtype == torch.float32 and height == width
        and outputs % _GROUP == 0 and inputs % _GROUP == 0
    )


@library.custom_op("burn_timm::pack_latent", mutates_args=())
def pack_latent(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `sign_conv2d` needs of a float32 weight `[O, I, k, k]`, best in channels_last: bits, mean|w| `[O]`, and how
    many weights of each tap are positive, int32 `[O, k, k]`. I and O are multiples of 16."""
    outputs, _, size, _ = weight.shape
    packed = torch.zeros(_packed_shape(weight.shape), dtype=torch.int64)
    scale = torch.empty(outputs, dtype=torch.float32, device="cpu")
    ones = torch.empty((outputs, size, size), dtype=torch.int32, device="cpu")
    _kernels().pack_weights(
        weight.detach().permute(0, 2, 3, 1).contiguous().numpy(), np.zeros(_GROUP, np.float32),
        packed.numpy().view(np.uint64), scale.numpy(), ones.numpy(),
    )
    return packed, scale, ones


@pack_latent.register_fake
def _(weight):
    outputs, _, size, _ = weight.shape
    return (
        weight.new_empty(_packed_shape(weight.shape), dtype=torch.int64),
        weight.new_empty((outputs,), dtype=torch.float32),
        weight.new_empty((outputs, size, size), dtype=torch.int32),
    )


@library.custom_op("burn_timm::sign_conv2d", mutates_args=())
def sign_conv2d(
    x: torch.Tensor, weight: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, ones: torch.Tensor, stride: int,
    padding: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """conv2d(x, mean|w| * sign(w)) for x of +-1.

    Args:
        x: `[B, I, H, W]`, bfloat16 or float32, +-1; best in channels_last.
        weight: float32 `[O, I, k, k]`, latent; best in channels_last. Its gradient is straight through: that of
            mean|w| * sign(w) where |w| <= 1, the mean a constant. Its values are read in the backward pass only.
        packed, scale, ones: `pack_latent(weight)`.

    Returns:
        The result `[B, O, H', W']`, of x's dtype, in channels_last; and the bits of x, for the backward pass.
    """
    kernels = _kernels()
    outputs, inputs, _, _ = weight.shape
    batch, _, height, width = x.shape
    bits = torch.zeros(_bits_shape(x.shape, padding), dtype=torch.int64)
    kernels.pack_signs(_array(x), bits.numpy().view(np.uint16), padding)
    most, row_class, column_class = sums_without_mismatch(inputs, ones.numpy(), height, width, stride, padding)
    out = torch.empty((batch, len(row_class), len(column_class), outputs), dtype=_INTEGERS[x.dtype])
    kernels.convolve(
        bits.numpy().view(np.uint64), packed.numpy().view(np.uint64), stride, most, row_class, column_class,
        scale.numpy(), pixels_at_a_time(outputs), out.numpy(),
    )
    return out.view(x.dtype).permute(0, 3, 1, 2), bits


@sign_conv2d.register_fake
def _(x, weight, packed, scale, ones, stride, padding):
    outputs, _, size, _ = weight.shape
    height, width = (out_side(side, size, stride, padding) for side in x.shape[2:])
    return (
        x.new_empty((len(x), height, width, outputs)).permute(0, 3, 1, 2),
        x.new_empty(_bits_shape(x.shape, padding), dtype=torch.int64),
    )


@library.custom_op("burn_timm::sign_conv2d_backward", mutates_args=())
def sign_conv2d_backward(
    grad: torch.Tensor, bits: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, latent: torch.Tensor,
    stride: int, padding: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x `[B, I, H, W]`, of grad's dtype, and of the latent weight `[O, I, k, k]`; in channels_last."""
    kernels = _kernels()
    outputs, inputs, size, _ = latent.shape
    integer = _INTEGERS[grad.dtype]
    x = torch.empty(_x_shape(bits.shape, inputs, padding), dtype=integer)
    one, minus_one = (_as_integer(value, grad.dtype) for value in (1.0, -1.0))
    kernels.unpack_signs(bits.numpy().view(np.uint16), padding, one, minus_one, x.numpy())
    weight = torch.empty((outputs, size, size, inputs), dtype=integer)
    plus = scale.to(grad.dtype)
    kernels.unpack_weights(
        packed.numpy().view(np.uint64), plus.view(integer).numpy(), (-plus).view(integer).numpy(), weight.numpy(),
    )
    grad_x, grad_weight = convolution_backward(
        grad, x.view(grad.dtype).permute(0, 3, 1, 2), weight.view(grad.dtype).permute(0, 3, 1, 2), stride, padding,
    )
    passed = torch.empty(weight.shape, dtype=torch.float32)
    latent = latent.detach().permute(0, 2, 3, 1).contiguous().numpy()
    kernels.pass_through(_array(grad_weight), latent, passed.numpy())
    return grad_x, passed.permute(0, 3, 1, 2)


@sign_conv2d_backward.register_fake
def _(grad, bits, packed, scale, latent, stride, padding):
    outputs, inputs, size, _ = latent.shape
    x = grad.new_empty(_x_shape(bits.shape, inputs, padding))
    weight = latent.new_empty((outputs, size, size, inputs))
    return x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)


def _keep(ctx, inputs, output):
    _, weight, packed, scale, _, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(output[1], packed, scale, weight)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    grads = sign_conv2d_backward(grad, *ctx.saved_tensors, ctx.stride, ctx.padding)
    return *grads, None, None, None, None, None


sign_conv2d.register_autograd(_backward, setup_context=_keep)


class _Kernels:
    """The kernels on as many threads as torch has."""

    def __init__(self, threads: int):
        from ..kernels.training import compiled

        if threads > 1:
            from ..kernels.threads import use_threads

            use_threads(threads)
        functions = compiled(threads > 1)
        self.pack_signs, self.unpack_signs, self.pack_weights, self.unpack_weights = functions[:4]
        self.convolve, self.pass_through = functions[4:]


def _kernels() -> _Kernels:
    return _Kernels(torch.get_num_threads())


def _array(x: torch.Tensor) -> np.ndarray:
    """`[B, C, H, W]` to integers `[B, H, W, C]` of the same bits."""
    return x.detach().permute(0, 2, 3, 1).contiguous().view(_INTEGERS[x.dtype]).numpy()


def _as_integer(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor(value, dtype=dtype).view(_INTEGERS[dtype]))


def _bits_shape(shape: torch.Size, padding: int) -> tuple[int, int, int, int]:
    batch, channels, height, width = shape
    return batch, height + 2 * padding, width + 2 * padding, -(-channels // 64)


def _x_shape(bits_shape: torch.Size, channels: int, padding: int) -> tuple[int, int, int, int]:
    batch, height, width, _ = bits_shape
    return batch, height - 2 * padding, width - 2 * padding, channels


def _packed_shape(shape: torch.Size) -> tuple[int, int, int, int]:
    outputs, inputs, size, _ = shape
    width = block_width(outputs, "bits")
    return -(-outputs // width), size, size * -(-inputs // 64), width
