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
from .nn import BinaryConv2d, RSign, binary_weight_names
from .packing import MARK, METADATA, STAGES, packed_shapes

# How safetensors calls the types that a network holds, in the order in which it writes them.
_FILE_DTYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.uint8: "U8",
}


def count(model: nn.Module, img_size: int | None = None) -> dict[str, int | float | None]:
    """Costs of a burn_timm model for one image `[1, C, img_size, img_size]` (default: the model's own input size).

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
    config = model.pretrained_cfg
    channels, height, width = config["input_size"]
    if img_size is not None:
        height = width = img_size
    channels = getattr(model, "in_chans", channels)
    first = next(model.parameters())
    signs: list[torch.Tensor] = []  # kept, so that no other tensor can be mistaken for one
    cost = {"flops": 0, "bops": 0}

    def after_sign(module: RSign, inputs: tuple, output: torch.Tensor) -> None:
        if module.act_bits == 1:
            signs.append(output)

    def after_layer(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        one_bit = isinstance(module, BinaryConv2d) and module.weight_bits == 1
        one_bit = one_bit and any(inputs[0] is sign for sign in signs)
        per_output = module.weight[0].numel()  # in_channels / groups * kernel, or in_features
        cost["bops" if one_bit else "flops"] += output.numel() * per_output

    hooks = []
    for module in model.modules():
        if isinstance(module, RSign):
            hooks.append(module.register_forward_hook(after_sign))
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(after_layer))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, channels, height, width, device=first.device, dtype=first.dtype))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()

    names = [name for name in binary_weight_names(model) if _is_one_bit(model, name)]
    floats = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    packed = {name: entry for name, entry in floats.items() if name not in names} | {MARK: (torch.uint8, (33,))}
    for name in names:
        bits, scale = packed_shapes(floats[name][1])
        packed |= {f"{name}_bits": (torch.uint8, bits), f"{name}_scale": (torch.float32, scale)}
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "binary_params": sum(model.get_parameter(name).numel() for name in names),
        **cost,
        "ops": cost["flops"] + cost["bops"] / 64,
        "bytes_fp32": _file_size(floats, latent_metadata(config["architecture"], 1 if names else 32)),
        "bytes_packed": _file_size(packed, METADATA) if names else None,
    }


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


def _is_one_bit(model: nn.Module, weight_name: str) -> bool:
    return model.get_submodule(weight_name.rpartition(".")[0]).weight_bits == 1


def _file_size(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> int:
    """Bytes of the safetensors file with these types and shapes: 8, the header padded to a multiple of 8, the data."""
    order = list(_FILE_DTYPES)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _FILE_DTYPES[dtype], "shape": shape, "data_offsets": (start, end)}
    return 8 + -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8 + end
