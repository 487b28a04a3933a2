"""A network for other programs, in ONNX or torch.export: standard layers, which do not run in 1 bit."""

import copy
from pathlib import Path

import torch
from torch import nn

from .. import compat
from ..errors import BurnError, one_line, require_package
from ..models import is_binary
from ..nn import BinaryConv2d
from ..nn.binary import scaled_sign
from .fold import fused

ONNX_OPSET = 17
NOT_ONE_BIT = "for interchange: its binary convolutions are ordinary ones, so it does not run in 1 bit"


class Sign(nn.Module):
    """+1 where x >= limit, else -1; per channel of `[B, C, H, W]`."""

    def __init__(self, shift: torch.Tensor):
        super().__init__()
        self.register_buffer("limit", -shift.detach().clone().view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x >= self.limit).to(x.dtype).mul_(2).sub_(1)  # torch.where with two numbers takes twice the time


class FeaturesAndLogits(nn.Module):
    """A timm model whose forward gives pooled features `[B, D]` and logits `[B, K]`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.model.forward_features(x)
        return self.model.forward_head(x, pre_logits=True), self.model.forward_head(x)


@torch.no_grad()
def with_standard_layers(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without gradients: binarised weights are computed once and BatchNorms are folded into the
    convolutions before them. Any other network than a binary one is only copied."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if not is_binary(model):
        return model
    names = {module: name for name, module in model.named_modules()}
    pairs = [(model.stem.conv, model.stem.bn)]
    for unit in model.binary_units():
        pairs.append((unit.conv, unit.norm))
        if unit.projection is not None:
            pairs.append((unit.projection.conv, unit.projection.bn))
        if unit.sign.act_bits == 1:
            model.set_submodule(names[unit.sign], Sign(unit.sign.bias))
    for conv, norm in pairs:
        model.set_submodule(names[conv], _merged(conv, norm))
        model.set_submodule(names[norm], nn.Identity())
    return model


def _merged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    one_bit = isinstance(conv, BinaryConv2d) and conv.weight_bits == 1
    weight, bias = fused(scaled_sign(conv.weight) if one_bit else conv.weight, norm, conv.bias)
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        padding_mode=conv.padding_mode, device=weight.device,
    ).requires_grad_(False)
    plain.weight.copy_(weight)
    plain.bias.copy_(bias)
    return plain.eval()


def _with_outputs(model: nn.Module) -> tuple[nn.Module, list[str]]:
    network = with_standard_layers(model).float().cpu()
    if getattr(model, "num_classes", 0):
        return FeaturesAndLogits(network).eval(), ["features", "logits"]
    return network, ["features"]


Shape = tuple[int | None, int, int, int]  # B None: any number of images


def write_onnx(model: nn.Module, file: Path, shape: Shape) -> list[str]:
    """Write standard operators of opset 17, checked; returns the names of the outputs.

    Args:
        shape: Of the images, `[B, C, H, W]`; with B None the file takes any number of them.

    Raises:
        BurnError: onnx is missing, or torch cannot export the network.
    """
    require_package("onnx", "onnx", "ONNX")
    import onnx

    network, names = _with_outputs(model)
    try:
        compat.export_onnx(network, file, _images(shape), names, ONNX_OPSET, shape[0] is None)
        written = onnx.load(file)
        onnx.helper.set_model_props(written, {"note": NOT_ONE_BIT})
        onnx.checker.check_model(written)
        onnx.save(written, file)
    except Exception as error:  # torch and onnx raise a dozen types
        raise BurnError(f"this network cannot be written as ONNX: {one_line(error)}") from error
    return names


def write_torch_export(model: nn.Module, file: Path, shape: Shape) -> list[str]:
    """Write a program of torch.export, as `write_onnx` writes ONNX. Raises BurnError where torch cannot."""
    network, names = _with_outputs(model)
    dynamic = ({0: torch.export.Dim("batch")},) if shape[0] is None else None
    try:
        torch.export.save(torch.export.export(network, (_images(shape),), dynamic_shapes=dynamic), file)
    except Exception as error:  # torch raises a dozen types
        raise BurnError(f"this network cannot be exported by torch.export: {one_line(error)}") from error
    return names


def _images(shape: Shape) -> torch.Tensor:
    return torch.zeros((shape[0] or 2, *shape[1:]))  # torch takes a batch of 1 for a constant
