"""Every private or version-dependent corner of timm, torch and accelerate that we touch, each a function of its own.

`tests/test_compat.py` has a test for each: when an upgrade breaks one, the test says which, and what to do.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.models._features import feature_take_indices as feature_take_indices

# timm: models and their registry ------------------------------------------------------------------------------------

# Also `feature_take_indices`, above: which stages a call of forward_intermediates asks for.


# timm: dataset readers ----------------------------------------------------------------------------------------------


# torch: modules and state dicts -------------------------------------------------------------------------------------


# torch: optimisers and operators ------------------------------------------------------------------------------------


def convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x `[B, I, H, W]` and weight `[O, I, k, k]` of `F.conv2d(x, weight, None, stride, padding)`.

    ATen's own operator, which no function of torch's interface calls for both at once.
    """
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, True, False],
    )[:2]


# torch: reading and exporting files ---------------------------------------------------------------------------------


def export_onnx(network: torch.nn.Module, path: Path, images: torch.Tensor, names: Sequence[str], opset: int) -> None:
    """Write an ONNX file with the input `images` and outputs of these names, all of fixed shape.

    Through torch's TorchScript exporter (`dynamo=False`): it needs no package but onnx, and works since torch 2.6.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, and shapes that become constants, as they shall
        torch.onnx.export(
            network, (images,), str(path), input_names=["images"], output_names=list(names), opset_version=opset,
            dynamo=False,
        )


# accelerate ---------------------------------------------------------------------------------------------------------
