"""Detectors around backbones: where they are cut, what trains, which models fit none."""

import argparse

import pytest
import timm
import torch
from torch import nn

from burn_timm.errors import BurnError
from burn_timm.evals.detection import add_options
from burn_timm.evals.detection.network import build_detector, c4_detector, split_c4
from burn_timm.nn import BinaryConv2d


def options(*words, model="test_reactnet"):
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(["--min-sizes", "64", "--test-min-size", "96", "--rois", "8", *words])
    return argparse.Namespace(model=model, checkpoint=None, pretrained=False, **vars(args))


def photo(side=64):
    return [torch.rand(3, side, side)], [{"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0]]), "labels": torch.tensor([3])}]


@pytest.mark.parametrize(("name", "kwargs", "channels"), [
    ("reactnet_a_025", {}, (128, 256)), ("reactnet_18", {"weight_bits": 32, "act_bits": 1}, (256, 512)),
    ("test_reactnet", {"weight_bits": 32, "act_bits": 32}, (64, 128)), ("resnet50", {}, (1024, 2048)),
    ("test_efficientnet", {}, (48, 256)),
])
def test_trunk_and_head_are_the_model(name, kwargs, channels):
    model = timm.create_model(name, num_classes=0, **kwargs)
    model(torch.randn(2, 3, 64, 64))  # statistics that are not 0 and 1
    model.eval()
    detector = c4_detector(model, options(model=name)).eval()
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        features = detector.backbone(image)
        pooled = detector.roi_heads.box_head[0](features).mean((2, 3))
        expected = model(image)
        normed = detector.roi_heads.box_head(features)
    assert (features.shape[1], pooled.shape[1]) == channels
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(normed, pooled / (1 + 1e-5) ** 0.5)  # the added BatchNorm, fresh
    if name.startswith("reactnet_a"):
        assert features.shape[2:] == (6, 6)  # stride 16
        assert len(detector.roi_heads.box_head[0][0]) == 2  # the last two blocks


def test_the_head_has_all_blocks_of_the_last_stage():
    # timm's residual branches begin at zero: at first, a shorter head gives the same features
    model = timm.create_model("resnet18", num_classes=0)
    _, head, _ = split_c4(model, "resnet18")
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in model.layer4.parameters())


class Pooled(nn.Module):
    """Half the resolution by pooling alone, as VGG's last stage: a head without weights is none."""

    feature_info = [{"num_chs": 8, "reduction": 1, "module": "conv"}, {"num_chs": 8, "reduction": 2, "module": "pool"}]

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)

    def forward_features(self, x):
        return self.pool(self.conv(x))


@pytest.mark.parametrize("name", ["resnet20_cifar", "test_vit", "pooled"])
def test_a_model_that_cannot_be_cut_is_refused(name):
    model = Pooled() if name == "pooled" else timm.create_model(name, num_classes=0)
    with pytest.raises(BurnError, match=f"--model {name}: .* use --neck fpn"):
        split_c4(model, name)


@pytest.mark.parametrize(("name", "words", "message"), [
    ("test_vit", [], "--neck fpn: test_vit has feature maps at strides"),
    ("swinv2_cr_tiny_224", [], "takes no 96x128 image"),
    ("swin_s3_tiny_224", [], "takes no 96x128 image|not .B, C, H, W."),
    ("test_reactnet", ["--anchor-sizes", "16", "32"], "--anchor-sizes: the pyramid has 4 levels"),
])
def test_models_and_options_that_fit_no_pyramid(name, words, message):
    with pytest.raises(BurnError, match=message):
        build_detector(options("--neck", "fpn", *words, model=name))


@pytest.mark.usefixtures("narrow_pyramid")
@pytest.mark.parametrize(("name", "levels"), [("test_reactnet", 4), ("test_resnet", 5)])
def test_the_pyramid_trains_and_detects(name, levels):
    detector = build_detector(options("--neck", "fpn", model=name))
    assert len(detector.rpn.anchor_generator.sizes) == levels
    sum(detector(*photo()).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    with torch.no_grad():
        found = detector.eval()(photo()[0])[0]
    assert found["boxes"].shape == (len(found["scores"]), 4)


def test_c4_trains_every_tensor_latent_weights_too():
    detector = build_detector(options())
    sum(detector(*photo()).values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert any(isinstance(module, BinaryConv2d) for module in detector.roi_heads.box_head.modules())


def test_frozen_batchnorm_stays_and_the_added_one_trains():
    detector = build_detector(options("--bn", "frozen")).train()
    norms = {name: m for name, m in detector.named_modules() if isinstance(m, nn.BatchNorm2d)}
    added = norms.pop("roi_heads.box_head.1")
    before = {name: {key: value.clone() for key, value in norm.state_dict().items()} for name, norm in norms.items()}
    sum(detector(*photo()).values()).backward()
    assert added.weight.grad is not None and added.running_mean.any()
    for name, norm in norms.items():
        assert norm.weight.grad is None
        assert all(torch.equal(value, before[name][key]) for key, value in norm.state_dict().items()), name
