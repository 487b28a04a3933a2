"""BURN against Eq. 2-4 and Algorithm 1 written out, and who is trained and who is not."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from scipy.special import rel_entr

from burn_timm.methods import BURN, S2BNN
from burn_timm.nn import Backbone

from .cases import STATS, batch_of
from .cases import make as make_case
from .oracles import array, information, probabilities, unit

near = pytest.approx


def make(**kwargs):
    return make_case("burn", **kwargs)


def normalised(images):
    return (images.float() / 255 - 0.5) / 0.25


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_loss_is_equation_4_less_the_information_term(digits, progress):
    method = make(temperature=0.1, lambda_0=0.9, lambda_T=0.6, information_weight=0.7).train()
    batch = batch_of(method, digits)
    out = {name: torch.as_tensor(value).item() for name, value in method(batch, progress).items()}
    images = normalised(batch["views"][:, 0])
    v1, v2 = method.teacher.module.model(images), method.backbone.model(images)
    logits = method.target_head(v1)
    kl = rel_entr(probabilities(method.student_head(v2), 0.1), probabilities(logits, 0.1)).sum(1).mean()
    fs = 1 - (unit(v1) * unit(method.adapter(v2))).sum(1).mean()
    lam = 0.6 - (0.6 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    assert out["lambda"] == near(lam)
    assert out["loss_kl"] == near(kl, rel=1e-3) and out["loss_fs"] == near(fs, rel=1e-4)
    assert out["target_information"] == near(information(logits, 0.1), rel=1e-3) and information(logits, 0.1) > 0.1
    assert out["loss"] == near((1 - lam) * kl + lam * fs - 0.7 * information(logits, 0.1), rel=1e-3)


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_crossed_views_pair_each_view_with_the_other_and_each_is_a_batchnorm_batch_of_its_own(digits, norm):
    """In training mode; `batch` is the released code's teacher, whose statistics stay as they are all the same."""
    method = make(views="cross", fs_loss="unit-l2", adapter="mlp", teacher_norm=norm).train()
    batch = batch_of(method, digits)
    before, teacher = copy.deepcopy(method.teacher.state_dict()), copy.deepcopy(method.teacher.module.model)
    teacher.train(norm == "batch")
    fs = kl = 0.0
    for one, other in ((0, 1), (1, 0)):
        v1 = teacher(normalised(batch["views"][:, one]))
        v2 = method.backbone.model(normalised(batch["views"][:, other]))
        fs += ((unit(v1) - unit(method.adapter(v2))) ** 2).sum(1).mean() / 2
        p1, p2 = probabilities(method.target_head(v1)), probabilities(method.student_head(v2))
        kl += rel_entr(p2, p1).sum(1).mean() / 2
    out = method(batch, 0.0)
    assert out["loss_fs"].item() == near(fs, rel=1e-4) and out["loss_kl"].item() == near(kl, rel=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.teacher.state_dict().items())
    assert not any(module.training for module in method.eval().teacher.modules())


def test_a_frozen_head_is_kaimings_and_normalises_by_the_batch_so_its_target_holds_information(digits):
    """The released code's. With BatchNorm at mean 0 and variance 1 the target would hold 0.04 nats."""
    pixels = Backbone(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), *STATS)  # a teacher: the digits' 64 pixels, thrice
    student = Backbone(timm.create_model("test_reactnet", num_classes=0), *STATS)
    method = BURN(student, pixels, 128, 192, temperature=0.2, target_head="frozen").train()
    images = digits[0][:256, None]
    first, norm, _, last = method.target_head
    assert first.weight.std().item() == near(math.sqrt(2 / 192), rel=0.02) and not last.bias.any()
    hidden = array(pixels(images[:, 0])) @ array(first.weight).T
    hidden = np.maximum((hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + norm.eps), 0)
    expected = information(hidden @ array(last.weight).T, 0.2)
    for _ in range(2):
        out = method({"views": images}, 0.5)
        assert out["target_information"].item() == near(expected, rel=1e-3) and 2.5 < expected < 4
    out["loss"].backward()
    assert not any(p.requires_grad or p.grad is not None for p in method.target_head.parameters())


def test_assignment_by_an_mlp_alone_is_s2bnn(digits):
    burn = make(lambda_0=1.0, lambda_T=1.0, fs_loss="assignment", fs_temperature=0.2, adapter="mlp").train()
    other = S2BNN(burn.backbone, burn.teacher.module, 128, burn.teacher.module.model.num_features, head_norm=True)
    other.student_head = burn.adapter
    batch = batch_of(burn, digits)
    losses = [method(batch, 0.5)["loss"] for method in (burn, other.train())]
    gradients = [torch.autograd.grad(loss, burn.adapter[0].weight)[0] for loss in losses]
    assert losses[0] == losses[1] and torch.equal(*gradients) and gradients[0].any()


def test_no_head_may_be_missing_and_hand_over_carries_all_but_a_reset_target_head():
    first, second, third = make(), make(), make()
    fresh, handed = copy.deepcopy(third.state_dict()), first.state_dict()
    second.hand_over(handed)
    third.hand_over(handed, reset_target_head=True)
    for name, tensor in handed.items():
        assert torch.equal(second.state_dict()[name], tensor), name
        expected = fresh[name] if name.startswith("target_head.") else tensor
        assert torch.equal(third.state_dict()[name], expected), name
    with pytest.raises(RuntimeError, match="target_head"):
        make().load_state_dict({name: handed[name] for name in handed if not name.startswith("target_head.")})


def test_adapter_only_where_feature_sizes_differ():
    def sizes(method):
        return [tuple(module.weight.shape) for module in method.adapter.modules() if isinstance(module, nn.Linear)]

    def alike(**options):
        same = Backbone(timm.create_model("test_reactnet", num_classes=0), *STATS)
        return BURN(same, copy.deepcopy(same), 128, 128, head_dim=4, **options)

    teacher_dim = make().teacher.module.model.num_features
    assert sizes(make()) == [(teacher_dim, 128)] and sizes(make(adapter="mlp")) == [(128, 128), (teacher_dim, 128)]
    assert sizes(make(fs_on="projection")) == sizes(alike()) == []
    assert sizes(alike(adapter="mlp")) == [(128, 128)] * 2


def test_information_head_learns_by_the_information_term_alone(digits):
    method = make(target_head="information", information_weight=0.7, temperature=0.5).train()
    batch = batch_of(method, digits)
    method(batch, 0.5)["loss"].backward()
    found = [p.grad for p in method.target_head.parameters()]
    method.zero_grad()
    p = (method.target_head(method.teacher(batch["views"][:, 0])) / 0.5).softmax(-1)
    mean = p.mean(0)
    (0.7 * ((mean * mean.log()).sum() - (p * p.log()).sum(-1).mean())).backward()
    for grad, p in zip(found, method.target_head.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="information_weight above 0"):
        make(target_head="information")
