"""A binary convolution in training whose forward pass counts bits, on a CPU.

Inputs are +-1, weights +-scale: the sums are whole numbers and exact, where bfloat16 would round the scale. Bits are
all that is kept for the backward pass, a sixteenth of bfloat16; it makes the numbers again, and is the usual one:
incoming gradients are real-valued. Both passes are operators of torch, so that torch.compile leaves them as they are.
The kernels are in C (`burn_timm/kernels/train.c`).
"""

import torch
from torch import library

from ..errors import BurnError
from ..kernels.burn import check
from ..kernels.native import load, why_not_loaded
from .small_maps import convolution_backward, out_side

_DTYPES = (torch.bfloat16, torch.float32)
_GROUP, _MOST = 16, 65535  # channels; bits of an output, as train.c sums them


def why_not(device: torch.device) -> str | None:
    """The reason why this does not work on `device`, or None."""
    return "it is for CPUs" if device.type != "cpu" else why_not_loaded()


def fits(x: torch.Tensor, weight: torch.Tensor, padding: int) -> bool:
    """Whether `sign_conv2d` takes `x` `[B, I, H, W]` and `weight` `[O, I, k, k]`."""
    return (
        x.dtype in _DTYPES and x.ndim == 4 and x.shape[1] == weight.shape[1] and padding <= weight.shape[2]
        and takes(weight)
    )


def takes(weight: torch.Tensor) -> bool:
    """Whether `pack_latent` takes `weight` `[O, I, k, k]`."""
    outputs, inputs, height, width = weight.shape
    return (
        weight.device.type == "cpu" and weight.dtype == torch.float32 and height == width
        and outputs % _GROUP == 0 and inputs % _GROUP == 0 and height * width * -(-inputs // 64) * 64 <= _MOST
    )


@library.custom_op("burn_timm::pack_latent", mutates_args=())
def pack_latent(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `sign_conv2d` needs of a float32 weight `[O, I, k, k]`, best in channels_last: bits (uint8, in the order of
    this CPU's kernels), mean|w| `[O]`, and how many weights of each tap are positive, int16 `[k, k, O]`."""
    outputs, inputs, size, _ = weight.shape
    packed = torch.empty(_packed_bytes(weight), dtype=torch.uint8, device="cpu")
    scale = torch.empty(outputs, dtype=torch.float32, device="cpu")
    ones = torch.empty((size, size, outputs), dtype=torch.int16, device="cpu")
    _call("burn_pack_weights", _channels_last(weight), outputs, inputs, size, packed, scale, ones)
    return packed, scale, ones


@pack_latent.register_fake
def _(weight):
    outputs, _, size, _ = weight.shape
    return (
        weight.new_empty((_packed_bytes(weight),), dtype=torch.uint8),
        weight.new_empty((outputs,), dtype=torch.float32),
        weight.new_empty((size, size, outputs), dtype=torch.int16),
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
    outputs, inputs, size, _ = weight.shape
    batch, _, height, width = x.shape
    bits = torch.zeros(_bits_shape(x.shape, padding), dtype=torch.int64)
    _call("burn_pack_signs", x.element_size(), _channels_last(x), batch, height, width, inputs, padding, bits)
    sides = [out_side(side, size, stride, padding) for side in (height, width)]
    out = torch.empty((batch, *sides, outputs), dtype=x.dtype)
    _call(
        "burn_sign_conv", x.element_size(), bits, batch, height, width, inputs, outputs, size, stride, padding, packed,
        scale, ones, out,
    )
    return out.permute(0, 3, 1, 2), bits


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
    outputs, inputs, size, _ = latent.shape
    bytes_each = grad.element_size()
    shape = _x_shape(bits.shape, inputs, padding)
    x = torch.empty(shape, dtype=grad.dtype)
    one = torch.tensor([1.0, -1.0], dtype=grad.dtype)
    _call("burn_unpack_signs", bytes_each, bits, *shape[:3], inputs, padding, one[:1], one[1:], x)
    weight = torch.empty((outputs, size, size, inputs), dtype=grad.dtype)
    plus = scale.to(grad.dtype)
    _call("burn_unpack_weights", bytes_each, packed, outputs, inputs, size, plus, -plus, weight)
    grad_x, grad_weight = convolution_backward(
        grad, x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), stride, padding,
    )
    passed = torch.empty(weight.shape, dtype=torch.float32)
    each = weight[0].numel()
    _call("burn_pass_through", bytes_each, _channels_last(grad_weight), _channels_last(latent), outputs, each, passed)
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


def _call(name: str, *arguments: torch.Tensor | int) -> None:
    """Call a kernel on as many threads as torch has; tensors, which are contiguous, go as addresses."""
    addresses = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments]
    code = getattr(load(), name)(torch.get_num_threads(), *addresses)
    try:
        check(load(), code, name)
    except BurnError as error:  # out of memory: everything else was checked before
        raise MemoryError(str(error)) from error


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """`[B, C, H, W]` to contiguous `[B, H, W, C]`."""
    return x.detach().permute(0, 2, 3, 1).contiguous()


def _packed_bytes(weight: torch.Tensor) -> int:
    outputs, inputs, size, _ = weight.shape
    return load().burn_packed_bytes(int(outputs), int(inputs), int(size))


def _bits_shape(shape: torch.Size, padding: int) -> tuple[int, int, int, int]:
    batch, channels, height, width = shape
    return batch, height + 2 * padding, width + 2 * padding, -(-channels // 64)


def _x_shape(bits_shape: torch.Size, channels: int, padding: int) -> tuple[int, int, int, int]:
    batch, height, width, _ = bits_shape
    return batch, height - 2 * padding, width - 2 * padding, channels
