"""Frozen: the module runs in inference mode, and what it returns may be kept for a backward pass."""

import pytest
import timm
import torch

from burn_timm.nn import Frozen


@pytest.mark.parametrize(("name", "precision"), [
    ("test_resnet", torch.float32), ("test_vit", torch.bfloat16), ("test_reactnet", torch.bfloat16),
])
@pytest.mark.parametrize("how", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_trained_layer_learns_on_the_features_of_a_frozen_module(name, precision, how):
    frozen = Frozen(timm.create_model(name, num_classes=0)).train()
    if how == "compiled":
        frozen.module.compile(dynamic=False)
    modes = []
    frozen.module.register_forward_pre_hook(lambda module, inputs: modes.append(torch.is_inference_mode_enabled()))
    images = torch.randn(2, 3, 160, 160)
    layer = torch.nn.Linear(frozen.module.num_features, 3)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        features = frozen(images)
        layer(features).square().mean().backward()
    assert modes == [True] and not frozen.module.training
    assert not features.is_inference() and not features.requires_grad
    assert layer.weight.grad.any() and all(p.grad is None for p in frozen.parameters())
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        assert torch.allclose(features, frozen.module(images), rtol=1e-4, atol=1e-5)
