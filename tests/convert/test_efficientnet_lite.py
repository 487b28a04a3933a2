"""The PyPI packages' names to timm's: every tensor at its place, and nothing else taken for one."""

import pytest
import timm
import torch

from burn_timm.convert.efficientnet_lite import MODELS, to_timm
from burn_timm.errors import BurnError


def theirs(name: str) -> dict[str, torch.Tensor]:
    """A state dict as the package has it: blocks counted through, their parts by other names."""
    tensors, blocks = {}, []
    for key, tensor in timm.create_model(name).state_dict().items():
        if not key.startswith("blocks."):
            stem = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
                    "classifier": "_fc"}
            layer, _, kind = key.partition(".")
            tensors[f"{stem[layer]}.{kind}"] = tensor
            continue
        _, stage, block, layer, kind = key.split(".")
        if (stage, block) not in blocks:
            blocks.append((stage, block))
        number = blocks.index((stage, block))
        names = ("conv_dw", "bn1", "conv_pw", "bn2") if stage == "0" else (
            "conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
        ours = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")[-len(names):]
        tensors[f"_blocks.{number}.{ours[names.index(layer)]}.{kind}"] = tensor
    return tensors


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_at_its_place(name):
    tensors = theirs(name)
    found, mapped = to_timm(tensors)
    assert found == name
    timm.create_model(name).load_state_dict(mapped)
    assert all(mine is own for mine, own in zip(mapped.values(), tensors.values(), strict=True))


@pytest.mark.parametrize("spoil", [
    lambda tensors: tensors.pop("_fc.bias"),
    lambda tensors: tensors.update({"_bn0.bias": torch.zeros(3)}),
    lambda tensors: tensors.update({"_fc.more": torch.zeros(3)}),
])
def test_other_tensors_are_an_error(spoil):
    tensors = theirs("tf_efficientnet_lite0")
    spoil(tensors)
    with pytest.raises(BurnError, match="EfficientNet-Lite"):
        to_timm(tensors)


def test_swapped_layers_of_one_shape_are_an_error():
    tensors = theirs("tf_efficientnet_lite0")
    keys = list(tensors)
    a, b = keys.index("_bn0.weight"), keys.index("_bn0.bias")
    keys[a], keys[b] = keys[b], keys[a]
    with pytest.raises(BurnError, match="is expected"):
        to_timm({key: tensors[key] for key in keys})
