"""Layers of binary networks, and the wrappers that training puts around backbones."""

from .binary import BinaryConv2d, RPReLU, RSign, Shift, binary_sign, binary_weight_names, count_bits, weights_held
from .wrappers import Backbone, Frozen, MomentumCopy

__all__ = [
    "Backbone", "BinaryConv2d", "Frozen", "MomentumCopy", "RPReLU", "RSign", "Shift", "binary_sign",
    "binary_weight_names", "count_bits", "weights_held",
]
