"""MoCo's layout, v1 and v2: `encoder_q.*`, `encoder_k.*` and `queue`; the query encoder is the network.

The head is one layer, `fc`, in v1, and `fc.0`, ReLU, `fc.2` in v2. S2-BNN's targets are the outputs of this head, which
no timm model has, so `load_moco_teacher` reads the file itself.
"""

from collections.abc import Container
from pathlib import Path

import timm
import torch
from torch import nn

from ..checkpoints import read_state_dict
from ..errors import BurnError, one_line

QUERY = "encoder_q."


def head_layers(names: Container[str], at: str = "fc") -> list[str]:
    """The linear layers of the head at `at`: one of v1, two of v2, none where it was cut off."""
    for layers in ([at], [f"{at}.0", f"{at}.2"]):
        if all(f"{layer}.weight" in names for layer in layers):
            return layers
    return []


def load_moco_teacher(model_name: str, path: str, output: str, **kwargs) -> nn.Module | None:
    """The query encoder in a file of MoCo's, in eval mode; None where the file has another layout.

    Args:
        model_name: timm's name of the network, such as resnet50.
        output: `features` leaves the head out, `logits` keeps it: `[B, 128]` as published.

    Raises:
        BurnError: The file cannot be read, or does not fit the network.
    """
    if ":" in model_name:
        return None
    state_dict = read_state_dict(Path(path))[0]
    state_dict = {key.removeprefix(QUERY): tensor for key, tensor in state_dict.items() if key.startswith(QUERY)}
    if not state_dict:
        return None
    kwargs.pop("num_classes", None)
    try:
        model = timm.create_model(model_name, num_classes=0, **kwargs)
        name = model.pretrained_cfg["classifier"]
        if output == "logits":
            setattr(model, name, _head(state_dict, name, path))
        else:
            state_dict = {key: tensor for key, tensor in state_dict.items() if not key.startswith(f"{name}.")}
        model.load_state_dict(state_dict)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BurnError(f"{path}: MoCo's layout, but it does not fit {model_name}: {one_line(error)}") from error
    return model.eval()


def _head(state_dict: dict[str, torch.Tensor], name: str, path: str) -> nn.Module:
    """A head of the shapes in the file: one layer (v1), or two with ReLU between them (v2)."""
    weights = [state_dict[f"{layer}.weight"] for layer in head_layers(state_dict, name)]
    if not weights:
        raise BurnError(f"{path}: MoCo's layout without {name}.weight or {name}.0.weight: --teacher-output features")
    linear = [nn.Linear(weight.shape[1], weight.shape[0]) for weight in weights]
    return linear[0] if len(linear) == 1 else nn.Sequential(linear[0], nn.ReLU(), linear[1])
