"""What a network costs: parameters, multiply-accumulates and bytes, counted by running it on the meta device.

The convention of XNOR-Net, Bi-Real Net and ReActNet: one multiply-accumulate is one operation, padded taps included;
only convolutions and linear layers count; OPs = FLOPs + BOPs / 64.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from .checkpoints import latent_metadata
from .models import BinaryNetwork
from .nn import binary_weight_names
from .packing import MARK, METADATA, STAGES, packed_shapes

# How safetensors calls the types that a network holds, in the order in which it writes them.
_FILE_DTYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.uint8: "U8",
}


def count(model: nn.Module, img_size: int | None = None) -> dict[str, int | float | None]:
    """Costs of a binary network of burn_timm for one image `[1, C, img_size, img_size]` (default: its own input size).

    Args:
        model: Any device; `timm.create_model(..., device="meta")` suffices. It is run once, in eval mode.
        img_size: Pixels.

    Returns:
        params: Parameters, the classifier included.
        binary_params: Those that are one bit.
        flops: Multiply-accumulates of real-valued convolutions and linear layers. A convolution with 32-bit weights
            counts here even when its activations are one bit.
        bops: Multiply-accumulates of convolutions with 1-bit weights and 1-bit activations.
        ops: flops + bops / 64.
        bytes_fp32: Size of the safetensors file of its floats, buffers and header included.
        bytes_packed: Size of its burn-packed-v1 file; None where the weights are not 1-bit.
    """
    flops, bops = _multiply_accumulates(model, img_size)
    names = binary_weight_names(model) if model.weight_bits == 1 else []
    floats = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    packed = {name: entry for name, entry in floats.items() if name not in names} | {MARK: (torch.uint8, (33,))}
    for name in names:
        bits, scale = packed_shapes(floats[name][1])
        packed |= {f"{name}_bits": (torch.uint8, bits), f"{name}_scale": (torch.float32, scale)}
    metadata = latent_metadata(model.pretrained_cfg["architecture"], model.weight_bits)
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "binary_params": sum(model.get_parameter(name).numel() for name in names),
        "flops": flops,
        "bops": bops,
        "ops": flops + bops / 64,
        "bytes_fp32": _file_size(floats, metadata),
        "bytes_packed": _file_size(packed, METADATA) if names else None,
    }


def _multiply_accumulates(model: BinaryNetwork, img_size: int | None) -> tuple[int, int]:
    """Real-valued ones, and those of 1-bit weights with 1-bit activations, of one image."""
    channels, height, width = model.pretrained_cfg["input_size"]
    shape = (1, getattr(model, "in_chans", channels), img_size or height, img_size or width)
    one_bit = {unit.conv for unit in model.binary_units() if unit.conv.weight_bits == unit.sign.act_bits == 1}
    flops = bops = 0

    def after_layer(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal flops, bops
        cost = output.numel() * module.weight[0].numel()  # in_channels / groups * kernel, or in_features
        if module in one_bit:
            bops += cost
        else:
            flops += cost

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(after_layer) for layer in layers]
    like, training = next(model.parameters()), model.training
    try:
        with torch.no_grad():
            model.eval()(torch.empty(shape, device=like.device, dtype=like.dtype))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return flops, bops


def count_stages(model_name: str, img_size: int = 224, num_classes: int = 1000) -> dict[str, Any]:
    """`count` of a burn_timm model by name: W1A1 at the top level, the other stages (w32a1, w32a32) under `stages`."""
    counts = {}
    for stage, (weight_bits, act_bits) in STAGES.items():
        model = timm.create_model(
            model_name, num_classes=num_classes, weight_bits=weight_bits, act_bits=act_bits, device="meta",
        )
        counts[stage] = count(model, img_size)
    top = counts.pop("w1a1")
    return {"model": model_name, "img_size": img_size, "num_classes": num_classes, **top, "stages": counts}


def _file_size(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> int:
    """Bytes of the safetensors file with these types and shapes: 8, the header padded to a multiple of 8, the data."""
    order = list(_FILE_DTYPES)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _FILE_DTYPES[dtype], "shape": shape, "data_offsets": (start, end)}
    return 8 + -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8 + end
