"""A hidden layer in ReActNet's head behaves as in timm's own models that have one."""


import pytest
import timm
import torch

from .oracle import randomise

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def make(num_classes=5, **kwargs):
    model = timm.create_model("test_reactnet", head_hidden_size=24, num_classes=num_classes, **kwargs)
    randomise(model)
    return model.eval()


def hidden(model):
    """The definition: Linear and ReLU on the pooled features."""
    weights = model.state_dict()
    pooled = model.forward_features(IMAGES).mean((2, 3))
    return (pooled @ weights["head.pre_logits.fc.weight"].T + weights["head.pre_logits.fc.bias"]).clamp(min=0)


@torch.no_grad()
def test_logits_are_of_the_hidden_layer_and_a_new_classifier_keeps_it():
    model = make(drop_rate=0.2)
    features, weights = hidden(model), model.state_dict()
    assert model.head_hidden_size == 24 and model.num_features == 128
    logits = features @ weights["head.fc.weight"].T + weights["head.fc.bias"]
    torch.testing.assert_close(model(IMAGES), logits)
    model.head.pre_logits.fc.weight.requires_grad_(False)
    model.reset_classifier(7)
    assert model(IMAGES).shape == (2, 7) and model.head.drop.p == 0.2
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES), pre_logits=True), features)
    assert not model.head.pre_logits.fc.weight.requires_grad and model.head.pre_logits.fc.bias.requires_grad
    model.reset_classifier(0, "")  # maps: the layer becomes a 1x1 convolution
    assert model(IMAGES).shape == (2, 24, 4, 4)
    model.reset_classifier(3, "avg")
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES), pre_logits=True), features)
    model.reset_classifier(0)
    torch.testing.assert_close(model(IMAGES), features)


def test_pooling_that_changes_the_width_is_refused():
    with pytest.raises(ValueError, match="head_hidden_size needs a pooling that keeps the width"):
        make(global_pool="catavgmax")


def test_pruning_removes_it():
    model = make()
    assert model.prune_intermediate_layers([1]) == [1]
    assert model(IMAGES).shape[1] == 32 and not any("pre_logits" in name for name in model.state_dict())
