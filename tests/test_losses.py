"""Losses against slow loops written from the papers' equations."""

import math

import pytest
import torch

from burn_timm.losses import feature_similarity, kl_divergence, nt_xent, sinkhorn, target_entropies

SHAPES = [(1, 2), (4, 7), (9, 300)]


def softmax(row, temperature):
    exps = [math.exp((x - max(row)) / temperature) for x in row]
    return [e / sum(exps) for e in exps]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def rows(shape, scale=1.0):
    return (torch.randn(shape, dtype=torch.float64) * scale).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_kl_is_line_24_of_algorithm_1(shape, temperature):
    target, student = rows(shape), rows(shape)
    forward = backward = 0.0
    for t_row, s_row in zip(target.tolist(), student.tolist(), strict=True):
        p1, p2 = softmax(t_row, temperature), softmax(s_row, temperature)
        forward += sum(b * math.log(b / a) for a, b in zip(p1, p2, strict=True)) / shape[0]
        backward += sum(a * math.log(a / b) for a, b in zip(p1, p2, strict=True)) / shape[0]
    assert kl_divergence(target, student, temperature).item() == pytest.approx(forward, rel=1e-9)
    assert kl_divergence(target, student, temperature, "target-student").item() == pytest.approx(backward, rel=1e-9)
    kl_divergence(target, student, temperature).backward()  # trains both sides
    assert target.grad.abs().min() > 0 and student.grad.abs().min() > 0
    assert kl_divergence(target, target, temperature).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_feature_similarity_is_section_3_2_and_table_6(shape):
    v1, v2 = rows(shape), rows(shape)
    expected = {"cosine": 0.0, "l1": 0.0, "l2": 0.0}
    for a, b in zip(v1.tolist(), v2.tolist(), strict=True):
        expected["cosine"] += (1 - cosine(a, b)) / shape[0]
        expected["l1"] += sum(abs(x - y) for x, y in zip(a, b, strict=True)) / shape[0]
        expected["l2"] += math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) / shape[0]
    for kind, value in expected.items():
        assert feature_similarity(v1, v2, kind).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_feature_similarity_by_softmaxes(shape):
    """`relations` and `assignment`, of the unit vectors."""
    v1, v2 = rows(shape), rows(shape)
    expected = {"relations": 0.0}
    for n, student in enumerate(v2.tolist()):
        found = softmax([cosine(student, other) for other in v1.tolist()], 0.3)
        wanted = softmax([cosine(v1.tolist()[n], other) for other in v1.tolist()], 0.3)
        expected["relations"] -= sum(p * math.log(q) for p, q in zip(wanted, found, strict=True)) / shape[0]
    pairs = [[softmax([x / math.hypot(*row) for x in row], 0.3) for row in v.tolist()] for v in (v1, v2)]
    expected["assignment"] = -sum(
        p * math.log(q) for a, b in zip(*pairs, strict=True) for p, q in zip(a, b, strict=True)
    ) / shape[0]
    for kind, value in expected.items():
        assert feature_similarity(v1, v2, kind, 0.3).item() == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_target_entropies(shape):
    logits = rows(shape)
    table = [softmax(row, 0.5) for row in logits.tolist()]
    mean = [sum(column) / len(table) for column in zip(*table, strict=True)]
    entropy_of_mean, mean_entropy = target_entropies(logits, 0.5)
    assert entropy_of_mean.item() == pytest.approx(-sum(p * math.log(p) for p in mean), rel=1e-9)
    expected = sum(-sum(p * math.log(p) for p in row) for row in table) / len(table)
    assert mean_entropy.item() == pytest.approx(expected, rel=1e-9)


def test_information_is_zero_for_a_constant_target_and_log_k_for_a_sharp_even_one():
    constant = torch.randn(1, 10).expand(8, 10)
    entropy_of_mean, mean_entropy = target_entropies(constant)
    assert (entropy_of_mean - mean_entropy).abs() < 1e-5
    sharp = (200.0 * torch.eye(10)).requires_grad_()  # float32: probabilities underflow to exactly 0
    entropy_of_mean, mean_entropy = target_entropies(sharp)
    assert (entropy_of_mean - mean_entropy).item() == pytest.approx(math.log(10), rel=1e-5)
    (entropy_of_mean - mean_entropy).backward()
    assert torch.isfinite(sharp.grad).all()


@pytest.mark.parametrize("batch", [2, 5])
def test_nt_xent_is_simclr_equation_1(batch):
    z1, z2 = rows((batch, 6)), rows((batch, 6))
    z = z1.tolist() + z2.tolist()
    temperature, total = 0.3, 0.0
    for i in range(2 * batch):
        j = (i + batch) % (2 * batch)
        below = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * batch) if k != i)
        total -= math.log(math.exp(cosine(z[i], z[j]) / temperature) / below) / (2 * batch)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(total, rel=1e-9)


def test_sinkhorn_gives_every_prototype_its_share_and_survives_one_that_nobody_is_near():
    q = sinkhorn(torch.randn(12, 4).clamp(-1, 1), epsilon=0.5, iterations=60)
    torch.testing.assert_close(q.sum(1), torch.ones(12, dtype=q.dtype))
    torch.testing.assert_close(q.sum(0), torch.full((4,), 3.0, dtype=q.dtype))
    assert sinkhorn(torch.tensor([[0.0, 1.0, -500.0], [1.0, 0.0, -600.0]])).isfinite().all()
