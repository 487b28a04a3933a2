"""What a binary network offers to the rest of the house, so that a new backbone is one new file beside `reactnet.py`.

The 1-bit engines, the ONNX and torch.export exports and the count of operations read a network through this; nothing
outside `models/` asks for a class. A file with such networks adds its name to `BINARY_MODULES`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from torch import nn

from ..nn import BinaryConv2d, RPReLU, RSign


class ConvNorm(Protocol):
    """pool(bn(conv(x))), real-valued; `pool` is the identity, or the 3x3/2 max-pool of a stem."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d
    pool: nn.Module


@dataclass(frozen=True)
class BinaryUnit:
    """One binary convolution and what surrounds it: act(norm(conv(sign(x))) + shortcut(x)).

    The shortcut averages 2x2 pixels where the convolution has stride 2 (odd sides round up; an incomplete window
    averages the pixels it has). Then it is `projection`, of kernel 1x1; or, where that is None, x, with its channels
    repeated where the convolution doubles them.
    """

    sign: RSign
    conv: BinaryConv2d
    norm: nn.BatchNorm2d
    act: RPReLU
    projection: ConvNorm | None = None


class BinaryNetwork(nn.Module):
    """A timm model that is a stem of stride 2, binary units one after the other, and a head (timm's ClassifierHead).

    It need not inherit from this class, see `is_binary`.
    """

    weight_bits: int  # 1 or 32, of all units
    act_bits: int
    stem: ConvNorm
    head: nn.Module
    num_classes: int
    pretrained_cfg: dict[str, Any]

    def binary_units(self) -> Iterator[BinaryUnit]:
        """All units, in the order in which they run."""
        raise NotImplementedError


def is_binary(model: Any) -> TypeGuard[BinaryNetwork]:
    """Whether `model` is a `BinaryNetwork`."""
    return hasattr(model, "binary_units")  # not isinstance: from Python 3.12 it does not see submodules
