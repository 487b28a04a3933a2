"""Networks whose every parameter matters: a fresh one has shifts of 0 and BatchNorms that do nothing."""

import timm
import torch
from torch import nn

from burn_timm.nn import Shift


def lively(name="test_reactnet", seed=0, **kwargs):
    """A burn_timm model in eval mode with random shifts, slopes and BatchNorm statistics."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": 10, **kwargs}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.5)
        elif isinstance(module, Shift):  # RSign is one
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.2, 0.8)
    return model


def errors(got, expected):
    """Relative error of each image: `[B, ...]` twice to `[B]`."""
    got, expected = got.flatten(1).double(), expected.flatten(1).double()
    return (got - expected).norm(dim=1) / expected.norm(dim=1)
