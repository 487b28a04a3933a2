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
    v1, v2 = method.teacher.module.model(images), method.backbone.model(images)
    p1 = (method.target_head(v1) / 0.5).softmax(-1)
    p2 = (method.student_head(v2) / 0.5).softmax(-1)
    kl = fs = 0.0
    adapted = method.adapter(v2)
    for n in range(8):
        kl += sum(p2[n, k] * math.log(p2[n, k] / p1[n, k]) for k in range(12)) / 8
        fs += (1 - v1[n] @ adapted[n] / v1[n].norm() / adapted[n].norm()) / 8
    lam = 0.6 - (0.6 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    assert out["lambda"] == pytest.approx(lam)
    assert float(out["loss_kl"]) == pytest.approx(float(kl), rel=1e-3)
    assert float(out["loss_fs"]) == pytest.approx(float(fs), rel=1e-4)
    assert float(out["loss"]) == pytest.approx(float((1 - lam) * kl + lam * fs), rel=1e-3)


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
    first = {"views": batch["views"][:, :1]}
    second = {"views": batch["views"][:, 1:]}
    expected = 0.0
    for teacher_view, student_view in ((first, second), (second, first)):
        v1 = method.teacher(teacher_view["views"][:, 0])
        v2 = method.backbone(student_view["views"][:, 0])
        cosine = torch.cosine_similarity(v1, method.adapter(v2)).mean()
        expected += float(1 - cosine) / 2
    assert float(method(batch, 0.0)["loss_fs"]) == pytest.approx(expected, rel=1e-4)


def test_assignment_by_an_mlp_alone_is_s2bnn(digits):
    burn = make(lambda_0=1.0, lambda_T=1.0, fs_loss="assignment", fs_temperature=0.2, adapter="mlp").train()
    other = S2BNN(burn.backbone, burn.teacher.module, 128, burn.teacher.module.model.num_features, head_norm=True)
    other.student_head = burn.adapter
    batch = views(digits)
    losses = [method(batch, 0.5)["loss"] for method in (burn, other.train())]
    gradients = [torch.autograd.grad(loss, burn.adapter[0].weight)[0] for loss in losses]
    assert losses[0] == losses[1] and torch.equal(*gradients) and gradients[0].any()


def test_the_teacher_stays_in_eval_mode_and_out_of_the_state_dict():
    method = make().train()
    assert not any(module.training for module in method.teacher.modules())
    state = method.state_dict()
    assert not any(name.startswith("teacher.") for name in state) and any(n.startswith("adapter.") for n in state)
    other = make()
    other.load_state_dict(state)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(RuntimeError, match="target_head"):
        other.load_state_dict({n: t for n, t in state.items() if not n.startswith("target_head.")})


def test_hand_over_carries_everything_but_a_reset_target_head():
    first, second, third = make(), make(), make()
    fresh = copy.deepcopy(third.target_head.state_dict())
    second.hand_over(first.state_dict())
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name
    third.hand_over(first.state_dict(), reset_target_head=True)
    for name, tensor in third.target_head.state_dict().items():
        assert torch.equal(tensor, fresh[name]), name
    assert torch.equal(third.student_head[0].weight, first.student_head[0].weight)


def test_adapter_only_where_feature_sizes_differ():
    assert isinstance(make().adapter, nn.Linear)
    assert isinstance(make(fs_on="projection").adapter, nn.Identity)
    same = Backbone(timm.create_model("test_reactnet", num_classes=0), *STATS)
    assert isinstance(BURN(same, copy.deepcopy(same), 128, 128, head_dim=4).adapter, nn.Identity)
    mlp = list(BURN(same, copy.deepcopy(same), 128, 128, head_dim=4, adapter="mlp").adapter)
    assert [layer.weight.shape for layer in make(adapter="mlp").adapter if isinstance(layer, nn.Linear)] == [
        (128, 128), (make().adapter.out_features, 128),
    ]
    assert [*map(type, mlp)] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear] and len(mlp[3].weight) == 128


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
