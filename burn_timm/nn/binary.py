"""Sign with its straight-through gradients, RSign, RPReLU and the 1-bit convolution.

Sources: ReActNet (Liu et al., ECCV 2020) for RSign, RPReLU and the scaled binary weight; Bi-Real Net (Liu et al.,
ECCV 2018) for the ApproxSign gradient; XNOR-Net (Rastegari et al., ECCV 2016) for the scale mean|w|.
sign(0) is +1 everywhere: a weight or an activation has one bit, so three values cannot be.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F
from timm.models import register_notrace_function

from ..packing import restore_weight, weight_scale
from . import sign_conv
from .small_maps import by_product, conv2d_by_product, out_side

ACT_GRADS = ("approx", "clip")
WEIGHT_GRADS = ("clip", "pass")
Held = list[torch.Tensor] | None  # not a tuple: TorchScript has none of any length


class _ApproxSign(torch.autograd.Function):
    """sign(x); backward 2 - 2|x| on [-1, 1], for which x itself is kept: a mask would do for `clip` only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (2 - 2 * x.abs()).clamp(min=0)


class _ClipSign(torch.autograd.Function):
    """sign(x); backward 1 on [-1, 1]."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.abs() <= 1)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (inside,) = ctx.saved_tensors
        return grad * inside


class _BinaryWeight(torch.autograd.Function):
    """`value`, which is scale * sign(w); backward passes straight through where |w| <= 1, the scale is a constant."""

    @staticmethod
    def forward(ctx, weight, value):
        ctx.save_for_backward(weight)
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad * (weight.abs() <= 1), None


@register_notrace_function
def binary_sign(x: torch.Tensor, grad: str = "approx") -> torch.Tensor:
    """sign(x) in {-1, +1}, same shape and dtype, with a surrogate gradient: `approx` or `clip`."""
    if torch.jit.is_scripting():
        # TorchScript knows no autograd.Function. s - s is exactly 0, so the value is the sign and the gradient is s's.
        # (Not x.clamp(-1, 1): its scripted gradient is 0 at exactly 1, the eager one is 1.)
        surrogate = torch.where(x.abs() <= 1, x, 0.0)
        if grad == "approx":
            surrogate = surrogate * (2.0 - surrogate.abs())
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype) + (surrogate - surrogate.detach())
    else:
        return _ApproxSign.apply(x) if grad == "approx" else _ClipSign.apply(x)


@register_notrace_function
def binary_weight(weight: torch.Tensor, held: Held = None, grad: str = "clip") -> torch.Tensor:
    """mean|w| * sign(w) per output channel, `[O, I, kH, kW]`, with the straight-through gradient: `clip` or `pass`.

    held: The value alone, if it is there already.
    """
    if torch.jit.is_scripting() or grad == "pass":
        value = scaled_sign(weight.detach()) if held is None else held[0]
        surrogate = weight if grad == "pass" else torch.where(weight.abs() <= 1, weight, 0.0)
        return value + (surrogate - surrogate.detach())  # the value: the difference is exactly 0
    else:
        return _BinaryWeight.apply(weight, scaled_sign(weight.detach()) if held is None else held[0])


def scaled_sign(weight: torch.Tensor) -> torch.Tensor:
    scale = weight_scale(weight).to(weight.dtype).view(-1, 1, 1, 1)
    return torch.where(weight >= 0, scale, -scale)


@register_notrace_function
def training_conv2d(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """`F.conv2d` without bias in training: a matrix product where that is faster (see `small_maps`)."""
    if torch.jit.is_scripting():
        return F.conv2d(x, weight, None, stride, padding)
    else:
        if x.device.type != "cpu":
            return F.conv2d(x, weight, None, stride, padding)
        if torch.is_autocast_enabled("cpu"):  # as it would do itself, but before we look at dtypes
            low = torch.get_autocast_dtype("cpu")
            x, weight = (tensor if tensor.dtype == torch.float64 else tensor.to(low) for tensor in (x, weight))
        height, width = (out_side(side, weight.shape[2], stride, padding) for side in x.shape[2:])
        if by_product(x, weight, height * width):
            return conv2d_by_product(x, weight, stride, padding)
        return F.conv2d(x, weight, None, stride, padding)


@register_notrace_function
def counting_conv2d(
    x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, held: Held = None,
) -> torch.Tensor:
    """The convolution of x, +-1, with mean|w| * sign(w), counting bits; where that cannot be, the usual one.

    held: `sign_conv.pack_latent(weight)`, if it is there already.
    """
    if torch.jit.is_scripting():
        return F.conv2d(x, binary_weight(weight), None, stride, padding)
    else:
        if not sign_conv.fits(x, weight, padding):
            return training_conv2d(x, binary_weight(weight), stride, padding)
        packed = sign_conv.pack_latent(weight.detach()) if held is None else held
        return sign_conv.sign_conv2d(x, weight, *packed, stride, padding)[0]


torch.fx.wrap("binary_sign")
torch.fx.wrap("binary_weight")
torch.fx.wrap("training_conv2d")
torch.fx.wrap("counting_conv2d")


class Shift(nn.Module):
    """A learned per-channel shift of `[B, C, H, W]`. The parameter is called `bias` so that no optimiser decays it."""

    def __init__(self, channels: int, device=None, dtype=None):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias.to(x.dtype).view(1, -1, 1, 1)  # autocast would let a float32 bias widen the whole map


class RSign(Shift):
    """sign(x + b) (ReActNet, Eq. 5); the identity x + b for 32-bit activations. `[B, C, H, W]` in and out."""

    def __init__(self, channels: int, act_bits: int = 1, act_grad: str = "approx", device=None, dtype=None):
        super().__init__(channels, device=device, dtype=dtype)
        if act_bits not in (1, 32):
            raise ValueError(f"act_bits must be 1 or 32, not {act_bits!r}")
        if act_grad not in ACT_GRADS:
            raise ValueError(f"act_grad must be one of {', '.join(ACT_GRADS)}, not {act_grad!r}")
        self.act_bits = act_bits
        self.act_grad = act_grad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.bias.to(x.dtype).view(1, -1, 1, 1)  # not super().forward: TorchScript has no super
        if self.act_bits == 1:
            x = binary_sign(x, self.act_grad)
        return x

    def extra_repr(self) -> str:
        return f"{self.bias.numel()}, act_bits={self.act_bits}, act_grad={self.act_grad!r}"


class RPReLU(nn.Module):
    """PReLU(x + b1) + b2, all per channel (ReActNet, Eq. 6). `[B, C, H, W]` in and out."""

    def __init__(self, channels: int, device=None, dtype=None):
        super().__init__()
        self.shift1 = Shift(channels, device=device, dtype=dtype)
        self.prelu = nn.PReLU(channels, device=device, dtype=dtype)
        self.shift2 = Shift(channels, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shift2(F.prelu(self.shift1(x), self.prelu.weight.to(x.dtype)))


class BinaryConv2d(nn.Conv2d):
    """A convolution without bias whose weight is mean|w| * sign(w) per output channel; a plain one with weight_bits=32.

    The parameter `weight` `[O, I, kH, kW]` holds the latent real values. A state dict may hold it packed, as
    `weight_bits` and `weight_scale` (see `burn_timm.packing`): loading restores mean|w| * sign(w).
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, padding: int = 0, weight_bits: int = 1,
        device=None, dtype=None,
    ):
        super().__init__(
            in_chs, out_chs, kernel_size, stride=stride, padding=padding, bias=False, device=device, dtype=dtype,
        )
        if weight_bits not in (1, 32):
            raise ValueError(f"weight_bits must be 1 or 32, not {weight_bits!r}")
        self.weight_bits = weight_bits
        self.weight_grad = "clip"  # straight through where |w| <= 1; `pass`: everywhere
        self.counts_bits = False
        self.held: Held = None  # what the weight's signs give, between `hold` and `release`

    @torch.jit.ignore
    def hold(self) -> None:
        """Compute once what forward passes in training need of the weight's signs; it must not change meanwhile."""
        if self.weight_bits == 1:
            weight = self.weight.detach()
            if self.training and self.counts_bits and sign_conv.takes(weight):
                self.held = list(sign_conv.pack_latent(weight))
            else:
                self.held = [scaled_sign(weight)]

    @torch.jit.ignore
    def release(self) -> None:
        self.held = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.counts_bits:
            return counting_conv2d(x, self.weight, self.stride[0], self.padding[0], self.held)
        weight = binary_weight(self.weight, self.held, self.weight_grad) if self.weight_bits == 1 else self.weight
        if self.training:
            return training_conv2d(x, weight, self.stride[0], self.padding[0])
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs,
    ):
        name = f"{prefix}weight"
        bits, scale = state_dict.pop(f"{name}_bits", None), state_dict.pop(f"{name}_scale", None)
        if bits is not None or scale is not None:
            state_dict[name] = restore_weight(bits, scale, self.weight.shape, name)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight_bits={self.weight_bits}"


def binary_weight_names(model: nn.Module) -> list[str]:
    """Names in the state dict of `model` of the weights that are stored as bits."""
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, BinaryConv2d)]


def count_bits(model: nn.Module, on: bool = True) -> None:
    """Let binary convolutions whose inputs are +-1 count bits in training's forward pass (see `sign_conv`), or not.

    Those of weight_grad `pass` never do: counting has the gradient `clip`.
    """
    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.counts_bits = on and module.weight_bits == 1 and module.weight_grad == "clip"


@contextlib.contextmanager
def weights_held(model: nn.Module) -> Iterator[None]:
    """Within this block weights do not change, so that all forward passes in it share their signs and scales."""
    layers = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    for layer in layers:
        layer.hold()
    try:
        yield
    finally:
        for layer in layers:
            layer.release()
