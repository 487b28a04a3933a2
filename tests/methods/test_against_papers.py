"""The methods' losses against slow loops written from their papers."""

import math

import pytest
import torch

from burn_timm.methods.infomin import cut_patches, patch_side

from .cases import STATS, batch_of, make


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(row):
    exps = [math.exp(x - max(row)) for x in row]
    return [e / sum(exps) for e in exps]


def cross_entropy(p, s):
    return -sum(a * math.log(b) for a, b in zip(p, s, strict=True))


def normalised(images):
    return (images.float() / 255 - STATS[0][0]) / STATS[1][0]


def features(backbone, images):
    return backbone.model(normalised(images))


def info_nce(queries, keys, queue, temperature):
    """He et al., CVPR 2020, Eq. 1."""
    total = 0.0
    for q, k in zip(queries, keys, strict=True):
        positive = math.exp(dot(q, k) / temperature)
        total -= math.log(positive / (positive + sum(math.exp(dot(q, n) / temperature) for n in queue))) / len(queries)
    return total


def perturb(*modules):
    """Momentum targets start as copies: without this a test could not tell them from the trained networks."""
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))


def units(tensor):
    return [unit(row) for row in tensor.tolist()]


def test_moco_is_info_nce_of_query_key_and_queue(digits):
    method = make("mocov2", temperature=0.3).eval()
    perturb(method.keys)
    batch = batch_of(method, digits)
    queries = units(method.student_head(features(method.backbone, batch["views"][:, 0])))
    keys = units(method.keys.head.module(features(method.keys.backbone.module, batch["views"][:, 1])))
    expected = info_nce(queries, keys, method.keys.queue.tolist(), 0.3)
    assert method(batch, 0.0)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_momentum_moves_the_target_by_one_minus_m(digits):
    method = make("mocov2", target_momentum=0.75).train()
    name = "model.stages.0.0.conv1.weight"
    old = dict(method.keys.backbone.module.named_parameters())[name].clone()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    method.after_step(0.0)
    new = dict(method.keys.backbone.module.named_parameters())[name]
    torch.testing.assert_close(new, 0.75 * old + 0.25 * (old + 1.0))


def distillation(targets, students, temperature):
    """ReActNet, Eq. 7: the mean cross-entropy of two softmaxes."""
    return sum(
        cross_entropy(softmax([x / temperature for x in t]), softmax([x / temperature for x in s])) / len(targets)
        for t, s in zip(targets, students, strict=True)
    )


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_s2bnn_is_the_cross_entropy_of_two_normalised_outputs_and_the_weighted_contrastive_loss(digits, weight):
    method = make("s2bnn_contrastive" if weight else "s2bnn", temperature=0.5).eval()
    batch = batch_of(method, digits)
    teacher = units(features(method.teacher.module, batch["views"][:, 0]))
    student = units(method.student_head(features(method.backbone, batch["views"][:, 0])))
    expected = distillation(teacher, student, 0.5)
    if weight:
        perturb(method.keys)
        keys = units(method.keys.head.module(features(method.keys.backbone.module, batch["views"][:, 1])))
        contrastive = info_nce(student, keys, method.keys.queue.tolist(), 0.5)
        assert method(batch, 0.0)["loss_contrastive"].item() == pytest.approx(contrastive, rel=1e-4)
        expected += weight * contrastive
    assert method.n_views == (2 if weight else 1)
    assert method(batch, 0.0)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_byol_is_equation_2_both_ways(digits):
    method = make("byol").eval()
    perturb(method.target_backbone, method.target_head)
    batch = batch_of(method, digits)
    expected = 0.0
    for one, other in ((0, 1), (1, 0)):
        online = method.predictor(method.student_head(features(method.backbone, batch["views"][:, one])))
        target = method.target_head.module(features(method.target_backbone.module, batch["views"][:, other]))
        for q, z in zip(units(online), units(target), strict=True):
            expected += sum((a - b) ** 2 for a, b in zip(q, z, strict=True)) / 8
    assert method(batch, 0.0)["loss"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("progress, momentum", [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_byols_momentum_rises_to_one(progress, momentum):
    assert make("byol").momentum_at(progress) == pytest.approx(momentum)


def sinkhorn(scores, epsilon, iterations):
    """Caron et al., NeurIPS 2020, Eq. 3-5: rows sum to 1, columns to N / K."""
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    n, k = len(q), len(q[0])
    for _ in range(iterations):
        columns = [sum(row[j] for row in q) for j in range(k)]
        q = [[row[j] / columns[j] / k for j in range(k)] for row in q]
        q = [[x / sum(row) / n for x in row] for row in q]
    return [[x * n for x in row] for row in q]


@pytest.mark.parametrize("with_queue", [False, True])
def test_swav_predicts_the_codes_of_the_other_views(digits, with_queue):
    method = make("swav").eval()
    if with_queue:
        method.queue.copy_(torch.nn.functional.normalize(torch.randn(2, 12, 6), dim=-1))
        method.seen = 12
    batch = batch_of(method, digits)
    images = [*batch["views"].unbind(1), *batch["small_views"].unbind(1)]
    z = [units(method.student_head(features(method.backbone, view))) for view in images]
    prototypes = units(method.prototypes.weight)
    scores = [[[dot(row, c) for c in prototypes] for row in view] for view in z]
    expected = 0.0
    for i in range(2):
        earlier = [[dot(row, c) for c in prototypes] for row in method.queue[i].tolist()] if with_queue else []
        codes = sinkhorn(earlier + scores[i], 0.05, 3)[len(earlier) :]
        for v in range(4):
            if v != i:
                for code, row in zip(codes, scores[v], strict=True):
                    expected += cross_entropy(code, softmax([s / 0.1 for s in row])) / 8 / 3 / 2
    assert method(batch, 0.0)["loss"].item() == pytest.approx(expected, rel=1e-3)


def test_swavs_prototypes_stay_at_first_and_have_length_one(digits):
    method = make("swav", freeze_prototypes_epochs=1).train()  # of 2 epochs: until half of the stage
    start = method.prototypes.weight.detach().clone()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
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
    batch = batch_of(method, digits)
    for progress, seen in ((0.4, 0), (0.5, 8), (0.6, 16)):
        method(batch, progress)
        assert method.seen == seen
    assert torch.allclose(method.queue.norm(dim=-1), torch.ones(2, 12))
    second = make("swav", queue_start_epoch=1, small_views=0)
    second.hand_over(method.state_dict())
    assert torch.equal(second.prototypes.weight, method.prototypes.weight)
    assert second.seen == 0 and not second.queue.any()


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
    perturb(method.keys)
    batch = batch_of(method, digits)
    offsets, orders = method._draw(8, 32)
    assert offsets.shape == (9, 2) and int(offsets.min()) >= 0 and int(offsets.max()) <= 10 - patch_side(32)
    assert all(sorted(order) == list(range(9)) for order in orders.tolist())
    assert len(set(map(tuple, orders.tolist()))) > 1
    images = batch["views"][:, 0]
    queries = units(method.student_head(features(method.backbone, images)))
    keys = units(method.keys.head.module(features(method.keys.backbone.module, batch["views"][:, 1])))
    jigsaw = []
    for image, order in zip(images, orders.tolist(), strict=True):
        pieces = []
        for cell in order:
            down, right = offsets[cell].tolist()
            top, left = cell // 3 * 10 + down, cell % 3 * 10 + right
            patch = image[None, :, top : top + 7, left : left + 7]
            pieces.append(method.patch_head(features(method.backbone, patch))[0])
        jigsaw.append(method.jigsaw_head(torch.cat(pieces)).tolist())
    queue = method.keys.queue.tolist()
    expected = 0.7 * info_nce(queries, keys, queue, 0.15) + 0.3 * info_nce([unit(q) for q in jigsaw], keys, queue, 0.15)
    assert method(batch, 0.0)["loss"].item() == pytest.approx(expected, rel=1e-3)


def test_patches_lie_in_their_cells():
    image = torch.arange(36 * 36).view(1, 1, 36, 36).expand(1, 3, 36, 36)
    patches = cut_patches(image, torch.tensor([[2, 3]] * 9))
    assert patches.shape == (1, 9, 3, 9, 9)
    assert patches[0, :, 0, 0, 0].tolist() == [(12 * r + 2) * 36 + 12 * c + 3 for r in range(3) for c in range(3)]


def test_supervised_is_cross_entropy_with_smoothed_labels(digits):
    method = make("supervised").eval()
    batch = batch_of(method, digits)
    logits = method.student_head(features(method.backbone, batch["views"][:, 0])).tolist()
    expected = 0.0
    for row, label in zip(logits, batch["target"].tolist(), strict=True):
        target = [0.01 + (0.9 if k == label else 0.0) for k in range(10)]
        expected += cross_entropy(target, softmax(row)) / 8
    assert method(batch, 0.0)["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert method.classifier() is method.student_head


def test_supervised_kl_is_the_cross_entropy_of_the_teachers_soft_labels(digits):
    method = make("supervised_kl").eval()
    batch = batch_of(method, digits)
    images = batch["views"][:, 0]
    teacher = features(method.teacher.module, images).tolist()
    student = method.student_head(features(method.backbone, images)).tolist()
    assert method(batch, 0.0)["loss"].item() == pytest.approx(distillation(teacher, student, 2), rel=1e-4)
