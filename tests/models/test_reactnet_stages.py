"""What the stages 32/32, 32/1 and 1/1 share, and what is refused."""

import pytest
import timm
import torch

from burn_timm.models import BINARY_MODULES
from burn_timm.nn import BinaryConv2d, RSign

MODELS = timm.list_models(module=BINARY_MODULES)
STAGES = [(32, 32), (32, 1), (1, 1)]
FAMILIES = pytest.mark.parametrize("name,kwargs", [
    ("test_reactnet", {}), ("reactnet_18", {"stem_chs": 8, "channels": (8, 16, 32, 64)}),
])


def _stage(name, weight_bits, act_bits, **kwargs):
    return timm.create_model(name, weight_bits=weight_bits, act_bits=act_bits, **kwargs)


def test_the_models_are_registered():
    assert set(MODELS) == {
        "reactnet_a", "reactnet_a_burn", "reactnet_a_050", "reactnet_a_025", "reactnet_a_025_burn", "reactnet_18",
        "test_reactnet", "test_reactnet_mlp",
    }


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_same_in_all_stages_and_1_bit_is_the_default(name):
    described = [
        [(key, tuple(tensor.shape)) for key, tensor in _stage(name, *bits, device="meta").state_dict().items()]
        for bits in STAGES
    ]
    assert described[0] == described[1] == described[2]
    model = timm.create_model(name, device="meta")
    assert (model.weight_bits, model.act_bits) == (1, 1)


@pytest.mark.parametrize("kwargs,message", [
    ({"weight_bits": 2}, "weight_bits must be 1 or 32, not 2"),
    ({"act_bits": 4}, "act_bits must be 1 or 32, not 4"),
    ({"weight_bits": 1, "act_bits": 32}, "stages are 32/32, 32/1 and 1/1"),
    ({"act_grad": "ste"}, "act_grad must be one of approx, clip, not 'ste'"),
    ({"output_stride": 16}, "output_stride 32 only, not 16"),
    ({"block": "triple"}, "block must be 'pair' or 'single', not 'triple'"),
    ({"channels": (16, 48, 64, 128)}, "16 -> 48"),
])
def test_what_does_not_exist_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("test_reactnet", **kwargs)


@FAMILIES
@pytest.mark.parametrize("weight_bits,act_bits", STAGES)
def test_every_layer_gets_the_bits_and_the_gradient_and_every_parameter_trains(name, kwargs, weight_bits, act_bits):
    model = _stage(name, weight_bits, act_bits, num_classes=5, act_grad="clip", **kwargs)
    signs = {(m.act_bits, m.act_grad) for m in model.modules() if isinstance(m, RSign)}
    assert signs == {(act_bits, "clip")}
    assert {m.weight_bits for m in model.modules() if isinstance(m, BinaryConv2d)} == {weight_bits}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model(torch.randn(4, 3, 64, 64)).logsumexp(1).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not [key for key, tensor in model.state_dict().items() if torch.equal(tensor, before[key])]
