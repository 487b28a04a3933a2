"""BURN against Eq. 2-4 and Algorithm 1 written out, and who is trained and who is not."""

import copy
import math

import pytest
import timm
import torch
import torch.nn as nn

from burn_timm.methods import BURN, S2BNN
from burn_timm.nn import Backbone

from .cases import STATS
from .cases import make as make_case


def make(**kwargs):
    return make_case("burn", **kwargs)


def views(digits, count=8, n_views=1):
    return {"views": digits[0][: count * n_views].view(n_views, count, 3, 32, 32).transpose(0, 1)}


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_loss_is_equation_4(digits, progress):
    method = make(temperature=0.5, lambda_0=0.9, lambda_T=0.6).eval()
    batch = views(digits)
    out = method(batch, progress)
    images = (batch["views"][:, 0].float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        v1, v2 = method.teacher.module.model(images), method.backbone.model(images)
        p1, p2 = (method.target_head(v1) / 0.5).softmax(-1), (method.student_head(v2) / 0.5).softmax(-1)
        adapted = method.adapter(v2)
    kl = sum(float(p2[n, k]) * math.log(p2[n, k] / p1[n, k]) for n in range(8) for k in range(12)) / 8
    fs = sum(1 - float(v1[n] @ adapted[n] / v1[n].norm() / adapted[n].norm()) for n in range(8)) / 8
    lam = 0.6 - (0.6 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    assert out["lambda"] == pytest.approx(lam)
    assert float(out["loss_kl"]) == pytest.approx(kl, rel=1e-3)
    assert float(out["loss_fs"]) == pytest.approx(fs, rel=1e-4)
    assert float(out["loss"]) == pytest.approx((1 - lam) * kl + lam * fs, rel=1e-3)


def test_information_term_is_subtracted(digits):
    method = make().eval()
    plain = method(views(digits), 0.5)
    method.information_weight = 0.7
    with_term = method(views(digits), 0.5)
    expected = float(plain["loss"]) - 0.7 * float(plain["target_information"])
    assert float(with_term["loss"]) == pytest.approx(expected, rel=1e-5)


def test_crossed_views_pair_each_view_with_the_other_and_average(digits):
    method = make(views="cross").eval()
    batch = views(digits, n_views=2)
    expected = 0.0
    for one, other in ((0, 1), (1, 0)):
        v1, v2 = method.teacher(batch["views"][:, one]), method.backbone(batch["views"][:, other])
        expected += float(1 - torch.cosine_similarity(v1, method.adapter(v2)).mean()) / 2
    assert float(method(batch, 0.0)["loss_fs"]) == pytest.approx(expected, rel=1e-4)


def test_assignment_by_an_mlp_alone_is_s2bnn(digits):
    burn = make(lambda_0=1.0, lambda_T=1.0, fs_loss="assignment", fs_temperature=0.2, adapter="mlp").train()
    other = S2BNN(burn.backbone, burn.teacher.module, 128, burn.teacher.module.model.num_features, head_norm=True)
    other.student_head = burn.adapter
    batch = views(digits)
    losses = [method(batch, 0.5)["loss"] for method in (burn, other.train())]
    gradients = [torch.autograd.grad(loss, burn.adapter[0].weight)[0] for loss in losses]
    assert losses[0] == losses[1] and torch.equal(*gradients) and gradients[0].any()


def test_the_teacher_stays_in_eval_mode_and_no_head_may_be_missing():
    method = make().train()
    assert not any(module.training for module in method.teacher.modules())
    state = {name: tensor for name, tensor in method.state_dict().items() if not name.startswith("target_head.")}
    with pytest.raises(RuntimeError, match="target_head"):
        make().load_state_dict(state)


def test_hand_over_carries_everything_but_a_reset_target_head():
    first, second, third = make(), make(), make()
    fresh, handed = copy.deepcopy(third.state_dict()), first.state_dict()
    second.hand_over(handed)
    third.hand_over(handed, reset_target_head=True)
    for name, tensor in handed.items():
        assert torch.equal(second.state_dict()[name], tensor), name
        expected = fresh[name] if name.startswith("target_head.") else tensor
        assert torch.equal(third.state_dict()[name], expected), name


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
    method(views(digits), 0.5)["loss"].backward()
    found = [p.grad for p in method.target_head.parameters()]
    method.zero_grad()
    with torch.no_grad():
        features = method.teacher(views(digits)["views"][:, 0])
    p = (method.target_head(features) / 0.5).softmax(-1)
    mean = p.mean(0)
    information = -(mean * mean.log()).sum() + (p * p.log()).sum(-1).mean()
    (-0.7 * information).backward()
    for grad, p in zip(found, method.target_head.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="information_weight above 0"):
        make(target_head="information")
