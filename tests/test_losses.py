"""Losses against the papers' equations by scipy."""

import math

import numpy as np
import pytest
import torch
from methods.oracles import array, entropy, probabilities, sinkhorn, unit
from scipy.spatial import distance
from scipy.special import log_softmax, rel_entr

from burn_timm import losses
from burn_timm.losses import feature_similarity, kl_divergence, nt_xent, target_entropies

SHAPES = [(1, 2), (4, 7), (9, 300)]
close = pytest.approx


def two(shape):
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_kl_is_line_24_of_algorithm_1(shape, temperature):
    target, student = two(shape)
    p1, p2 = (probabilities(rows, temperature) for rows in (target, student))
    loss = kl_divergence(target, student, temperature)
    reverse = kl_divergence(target, student, temperature, "target-student")
    assert loss.item() == close(rel_entr(p2, p1).sum(1).mean(), rel=1e-9)
    assert reverse.item() == close(rel_entr(p1, p2).sum(1).mean(), rel=1e-9)
    loss.backward()  # trains both sides
    assert target.grad.abs().min() > 0 and student.grad.abs().min() > 0
    with pytest.raises(ValueError, match="student-target, target-student"):
        kl_divergence(target, student, 1.0, "both")


@pytest.mark.parametrize("shape", SHAPES)
def test_feature_similarity(shape):
    """BURN, Sec. 3.2 and Table 6, its released code's, and those by softmaxes of the unit vectors at 0.3."""
    v1, v2 = two(shape)
    a, b = unit(v1), unit(v2)
    measures = {"cosine": distance.cosine, "l1": distance.cityblock, "l2": distance.euclidean}
    expected = {
        kind: np.mean([measure(x, y) for x, y in zip(array(v1), array(v2), strict=True)])
        for kind, measure in measures.items()
    }
    expected["unit-l2"] = np.mean([distance.sqeuclidean(x, y) for x, y in zip(a, b, strict=True)])
    for kind, rows, others in (("relations", a @ a.T, b @ a.T), ("assignment", a, b)):
        expected[kind] = -(probabilities(rows, 0.3) * log_softmax(others / 0.3, axis=1)).sum(1).mean()
    assert set(expected) == set(losses.FS_LOSSES)
    for kind, value in expected.items():
        assert feature_similarity(v1, v2, kind, 0.3).item() == close(value, rel=1e-9, abs=1e-12), kind
    with pytest.raises(ValueError, match="cosine, l1"):
        feature_similarity(v1, v2, "none")


@pytest.mark.parametrize("shape", SHAPES)
def test_target_entropies(shape):
    logits = two(shape)[0]
    p = probabilities(logits, 0.5)
    found = [value.item() for value in target_entropies(logits, 0.5)]
    assert found == close([entropy(p.mean(0)), entropy(p).mean()], rel=1e-9)


def test_information_is_zero_for_a_constant_target_and_log_k_for_a_sharp_even_one():
    sharp = (200.0 * torch.eye(10)).requires_grad_()  # float32: probabilities underflow to exactly 0
    for logits, expected in ((torch.randn(1, 10).expand(8, 10), 0.0), (sharp, math.log(10))):
        entropy_of_mean, mean_entropy = target_entropies(logits)
        assert (entropy_of_mean - mean_entropy).item() == close(expected, abs=1e-5)
    (entropy_of_mean - mean_entropy).backward()
    assert torch.isfinite(sharp.grad).all()


@pytest.mark.parametrize("batch", [2, 5])
def test_nt_xent_is_simclr_equation_1(batch):
    z1, z2 = two((batch, 6))
    z = unit(torch.cat([z1, z2]))
    logits = z @ z.T / 0.3
    np.fill_diagonal(logits, -np.inf)
    partners = np.roll(np.arange(2 * batch), batch)
    expected = -log_softmax(logits, axis=1)[np.arange(2 * batch), partners].mean()
    assert nt_xent(z1, z2, 0.3).item() == close(expected, rel=1e-9)


def test_sinkhorn_gives_every_prototype_its_share_and_survives_one_that_nobody_is_near():
    scores = torch.randn(12, 4).clamp(-1, 1)
    torch.testing.assert_close(losses.sinkhorn(scores, 0.5, 2), torch.from_numpy(sinkhorn(scores, 0.5, 2)))
    q = losses.sinkhorn(scores, epsilon=0.5, iterations=60)
    torch.testing.assert_close(q.sum(0), torch.full((4,), 3.0, dtype=q.dtype))
    assert losses.sinkhorn(torch.tensor([[0.0, 1.0, -500.0], [1.0, 0.0, -600.0]])).isfinite().all()
