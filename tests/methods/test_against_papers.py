"""The methods' losses against the papers' equations (`oracles`), with BatchNorm in training mode where it matters."""

import copy
import math

import numpy as np
import pytest
import torch

from burn_timm.methods.infomin import cut_patches, patch_side
from burn_timm.methods.supervised import lit

from .cases import STATS, batch_of, make
from .oracles import array, cross_entropy, info_nce, probabilities, sinkhorn, unit


def features(backbone, images):
    return backbone.model((images.float() / 255 - STATS[0][0]) / STATS[1][0])


def loss_of(method, batch, progress=0.0, name="loss"):
    return method(batch, progress)[name].item()


def near(value, rel=1e-4):
    return pytest.approx(value, rel=rel)


def perturb(*modules):
    """Momentum targets start as copies: without this a test could not tell them from the trained networks."""
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))


def queries_and_keys(method, batch):
    perturb(method.keys)
    images, other = batch["views"].unbind(1)
    keys = method.keys.head.module(features(method.keys.backbone.module, other))
    return unit(method.student_head(features(method.backbone, images))), unit(keys), method.keys.queue.newest


def test_moco_is_info_nce_of_query_key_and_queue(digits):
    method = make("mocov2", temperature=0.3).eval()
    batch = batch_of(method, digits)
    expected = info_nce(*queries_and_keys(method, batch), 0.3)
    assert loss_of(method, batch) == near(expected)


def test_momentum_moves_the_target_by_one_minus_m():
    method = make("mocov2", target_momentum=0.75)
    target = method.keys.backbone.module.model.stages[0][0].conv1.weight
    old = target.clone()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    method.after_step(0.0)
    torch.testing.assert_close(target, old + 0.25)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_s2bnn_is_the_cross_entropy_of_two_normalised_outputs_and_the_weighted_contrastive_loss(digits, weight):
    method = make("s2bnn_contrastive" if weight else "s2bnn", temperature=0.5).eval()
    batch = batch_of(method, digits)
    teacher = unit(features(method.teacher.module, batch["views"][:, 0]))
    student = unit(method.student_head(features(method.backbone, batch["views"][:, 0])))
    expected = cross_entropy(probabilities(teacher, 0.5), student, 0.5)
    assert method.n_views == (2 if weight else 1)
    if weight:
        contrastive = info_nce(*queries_and_keys(method, batch), 0.5)
        expected += weight * contrastive
        assert loss_of(method, batch, name="loss_contrastive") == near(contrastive)
    assert loss_of(method, batch) == near(expected)


def test_byol_is_equation_2_both_ways_and_each_view_is_a_batchnorm_batch_of_its_own(digits):
    method = make("byol").train()
    perturb(method.target_backbone, method.target_head)
    batch, expected = batch_of(method, digits), 0.0
    for one, other in ((0, 1), (1, 0)):
        online = method.predictor(method.student_head(features(method.backbone, batch["views"][:, one])))
        target = method.target_head.module(features(method.target_backbone.module, batch["views"][:, other]))
        expected += ((unit(online) - unit(target)) ** 2).sum(1).mean()
    assert loss_of(method, batch) == near(expected)


@pytest.mark.parametrize("progress, momentum", [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_byols_momentum_rises_to_one(progress, momentum):
    assert make("byol").momentum_at(progress) == pytest.approx(momentum)


@pytest.mark.parametrize("with_queue", [False, True])
def test_swav_predicts_the_codes_of_the_other_views(digits, with_queue):
    """BatchNorm sees all views of one size at once in the network, and all views in the head."""
    method = make("swav").train()
    if with_queue:
        method.queue.put(torch.nn.functional.normalize(torch.randn(12, 2, 6), dim=-1))
    batch = batch_of(method, digits)
    sizes = [torch.cat(batch[name].unbind(1)) for name in ("views", "small_views")]
    z = unit(method.student_head(torch.cat([features(method.backbone, images) for images in sizes])))
    prototypes = unit(method.prototypes.weight)
    scores = (z @ prototypes.T).reshape(4, 8, 10)
    expected = 0.0
    for i in range(2):
        earlier = array(method.queue.newest[:, i]) @ prototypes.T if with_queue else np.empty((0, 10))
        codes = sinkhorn(np.concatenate([earlier, scores[i]]), 0.05, 3)[len(earlier) :]
        expected += sum(cross_entropy(codes, scores[v], 0.1) for v in range(4) if v != i) / 3 / 2
    assert loss_of(method, batch) == near(expected, 1e-3)


def test_swavs_prototypes_stay_at_first_and_have_length_one(digits):
    method = make("swav", freeze_prototypes_epochs=1).train()  # of 2 epochs: until half of the stage
    start = method.prototypes.weight.detach().clone()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2, weight_decay=0.1)  # which moves without a gradient, too
    for progress, moves in ((0.1, False), (0.6, True)):
        optimizer.zero_grad()
        method(batch_of(method, digits), progress)["loss"].backward()
        assert method.prototypes.weight.grad is not None
        optimizer.step()
        method.after_step(progress)
        assert torch.allclose(method.prototypes.weight, start, atol=1e-6) != moves
        assert torch.allclose(method.prototypes.weight.norm(dim=-1), torch.ones(10))


def test_swavs_queue_starts_at_its_epoch_serves_when_full_and_is_empty_in_the_next_stage(digits):
    method = make("swav", queue_start_epoch=1, small_views=0).train()
    for progress, seen in ((0.4, 0), (0.5, 8), (0.6, 16)):
        method(batch_of(method, digits), progress)
        assert method.queue.seen == seen
    assert torch.allclose(method.queue.newest.norm(dim=-1), torch.ones(12, 2))
    second = make("swav", queue_start_epoch=1, small_views=0)
    second.hand_over(method.state_dict())
    assert torch.equal(second.prototypes.weight, method.prototypes.weight)
    assert second.queue.seen == 0 and not second.queue.newest.any()


@pytest.mark.parametrize(("case", "options", "layers"), [
    ("simclr", {}, "Linear BatchNorm1d ReLU Linear"),
    ("simclr_v2", {}, "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear BatchNorm1d"),
    *((case, {}, "Linear ReLU Linear") for case in ("mocov2", "s2bnn", "infomin")),
    *((case, {"head_norm": True}, "Linear BatchNorm1d ReLU Linear") for case in ("mocov2", "s2bnn", "infomin")),
])
def test_projection_heads(case, options, layers):
    assert [type(module).__name__ for module in make(case, **options).student_head] == layers.split()


def test_infomin_is_the_weighted_sum_and_the_patches_are_a_shuffled_grid(digits):
    method = make("infomin", jigsaw_weight=0.3).eval()
    batch = batch_of(method, digits)
    queries, keys, queue = queries_and_keys(method, batch)
    offsets, orders = method._draw(8, 32)
    assert offsets.shape == (9, 2) and int(offsets.min()) >= 0 and int(offsets.max()) <= 10 - patch_side(32)
    assert all(sorted(order) == list(range(9)) for order in orders.tolist())
    assert len(set(map(tuple, orders.tolist()))) > 1
    jigsaw = []
    for image, order in zip(batch["views"][:, 0], orders.tolist(), strict=True):
        corners = {cell: (cell // 3 * 10 + offsets[cell, 0], cell % 3 * 10 + offsets[cell, 1]) for cell in order}
        patches = torch.stack([image[:, top : top + 7, left : left + 7] for top, left in corners.values()])
        jigsaw.append(method.jigsaw_head(method.patch_head(features(method.backbone, patches)).flatten()).tolist())
    expected = 0.7 * info_nce(queries, keys, queue, 0.15) + 0.3 * info_nce(unit(jigsaw), keys, queue, 0.15)
    assert loss_of(method, batch) == near(expected, 1e-3)


def test_patches_lie_in_their_cells():
    image = torch.arange(36 * 36).view(1, 1, 36, 36).expand(1, 3, 36, 36)
    patches = cut_patches(image, torch.tensor([[2, 3]] * 9))
    assert patches.shape == (1, 9, 3, 9, 9)
    assert patches[0, :, 0, 0, 0].tolist() == [(12 * r + 2) * 36 + 12 * c + 3 for r in range(3) for c in range(3)]


@pytest.mark.parametrize("case", ["supervised", "supervised_kl"])
def test_supervised_is_cross_entropy_of_labels_or_the_teachers_soft_ones(digits, case):
    method = make(case).eval()
    batch = batch_of(method, digits)
    images = batch["views"][:, 0]
    logits = method.student_head(features(method.backbone, images))
    if case == "supervised":
        expected = cross_entropy(np.eye(10)[batch["target"]], logits)
    else:
        expected = cross_entropy(probabilities(features(method.teacher.module, images), 2), logits, 2)
    assert loss_of(method, batch) == near(expected)
    assert method.classifier() is method.student_head


def test_lighting_shifts_an_images_colour_along_the_components_and_both_networks_see_it(digits):
    images = torch.full((20000, 3, 1, 1), 100, dtype=torch.uint8)
    shifts = array(lit(images, 0.1)[:, :, 0, 0]) / 255 - 100 / 255
    assert np.abs(shifts.mean(0)).max() < 1e-3
    variances, components = np.linalg.eigh(np.cov(shifts.T))  # smallest first
    assert np.sqrt(variances) == pytest.approx([0.1 * 0.0045, 0.1 * 0.0188, 0.1 * 0.2175], rel=0.03)
    assert np.abs(components[:, 2]) == pytest.approx([0.5675, 0.5808, 0.5836], abs=0.01)  # nearly grey

    method = make("supervised_kl", lighting=0.1)
    batch = batch_of(method, digits)
    assert loss_of(copy.deepcopy(method).eval(), batch) == loss_of(copy.deepcopy(method).eval(), batch)
    method.train()
    torch.manual_seed(3)
    images = lit(batch["views"][:, 0], 0.1)
    p = probabilities(features(method.teacher.module, images), 2)
    expected = cross_entropy(p, method.student_head(features(method.backbone, images)), 2)
    torch.manual_seed(3)
    assert loss_of(method, batch) == near(expected) and math.isfinite(expected)
