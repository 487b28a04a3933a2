"""Which burn_timm model a state dict is of, packed or float, told by names and shapes."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import timm
import torch

from .errors import BurnError
from .models import BINARY_MODULES
from .nn import binary_weight_names
from .packing import MARK, packed_shapes, packed_weight_names


def burn_models() -> list[str]:
    """Names of the binary timm models that this package registers."""
    return [name for module in BINARY_MODULES for name in timm.list_models(module=module)]


def shape_args(model_args: Mapping[str, Any] | None) -> str:
    """Arguments of a model as JSON, but for its bits and its classes."""
    others = ("weight_bits", "act_bits", "num_classes")
    return json.dumps({key: value for key, value in (model_args or {}).items() if key not in others}, sort_keys=True)


@functools.cache
def _plan(model_name: str, shape_args: str) -> tuple[dict[str, tuple[int, ...]], frozenset[str], str]:
    """Shapes by name of a burn_timm model without head, its binary weights, and the name of its first convolution."""
    model = timm.create_model(model_name, num_classes=0, device="meta", **json.loads(shape_args))
    tensors = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.startswith("head.")}
    return shapes, frozenset(binary_weight_names(model)), model.pretrained_cfg["first_conv"]


def binary_shapes(model_name: str, model_args: Mapping[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a burn_timm model, made with `model_args`, that are stored as bits."""
    shapes, binary, _ = _plan(model_name, shape_args(model_args))
    return {name: shapes[name] for name in shapes if name in binary}


def differences(
    state_dict: Mapping[str, torch.Tensor], model_name: str, model_args: Mapping[str, Any] | None = None,
) -> list[str]:
    """How `state_dict`, packed or float, differs from a burn_timm model, a phrase for each tensor; empty where it fits.

    The classifier, with the hidden layer it may have, and the number of input channels may be any.
    """
    shapes, binary, first_conv = _plan(model_name, shape_args(model_args))
    packed = set(packed_weight_names(state_dict))
    expected = {}
    for name, shape in shapes.items():
        if name in binary and name in packed:
            expected[f"{name}_bits"], expected[f"{name}_scale"] = packed_shapes(shape)
        else:
            expected[name] = shape
    found = {
        name: tuple(tensor.shape) for name, tensor in state_dict.items()
        if name != MARK and not name.startswith("head.")
    }
    first = f"{first_conv}.weight"
    if len(found.get(first, ())) == 4:
        expected[first] = (expected[first][0], found[first][1], *expected[first][2:])
    missing = [f"{name} is missing" for name in expected if name not in found]
    surplus = [f"{name} is in the file but not in the model" for name in found if name not in expected]
    other = [
        f"{name} is {list(shape)} instead of {list(expected[name])}" for name, shape in found.items()
        if shape != expected.get(name, shape)
    ]
    return other + missing + surplus


def infer_model(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Name of the burn_timm model whose names and shapes `state_dict` has, packed or float, with or without head.

    Names of one architecture that only extend each other (`reactnet_a`, `reactnet_a_burn`) count as the shortest.

    Raises:
        BurnError: None fits, with the first tensor that differs from the nearest; or several do.
    """
    gaps = {name: differences(state_dict, name) for name in burn_models()}
    fitting = sorted((name for name, gap in gaps.items() if not gap), key=len)
    if not fitting:
        nearest = min(gaps, key=lambda name: len(gaps[name]))
        raise BurnError(f"no burn_timm model fits; the nearest is {nearest}, but {gaps[nearest][0]}; give --model")
    if any(not name.startswith(fitting[0]) for name in fitting):
        raise BurnError(f"{', '.join(fitting)} fit all the same; give --model")
    return fitting[0]


def classes_in(state_dict: Mapping[str, torch.Tensor], architecture: str) -> int | None:
    """How many classes the classifier in `state_dict` has; None where timm's architecture has none of its names."""
    for name in classifiers(architecture):
        weight = state_dict.get(f"{name}.weight")
        if weight is not None and weight.ndim:
            return len(weight)
    return None


def classifiers(architecture: str) -> tuple[str, ...]:
    names = getattr(timm.get_pretrained_cfg(architecture), "classifier", None) or ()
    return (names,) if isinstance(names, str) else tuple(names)
