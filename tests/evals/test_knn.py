import math

import pytest
import torch

from burn_timm.evals import knn
from burn_timm.evals.knn import knn_accuracy


def slow_knn(train_x, train_y, test_x, test_y, k, temperature):
    """Wu et al. 2018, section 3.4, one image at a time in Python floats; ties to the lower index and class."""
    correct = 0
    for query, label in zip(test_x.tolist(), test_y.tolist(), strict=True):
        neighbours = []
        for index, image in enumerate(train_x.tolist()):
            dot = sum(a * b for a, b in zip(query, image, strict=True))
            norm = math.sqrt(sum(a * a for a in query)) * math.sqrt(sum(b * b for b in image))
            neighbours.append((-dot / norm, index))
        votes = {}
        for negative, index in sorted(neighbours)[:k]:
            c = int(train_y[index])
            votes[c] = votes.get(c, 0.0) + math.exp(-negative / temperature)
        winner = min(votes, key=lambda c: (-votes[c], c))
        correct += winner == label
    return correct / len(test_y)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("n", "m", "d", "classes", "k", "temperature"), [
    (60, 40, 8, 5, 20, 0.07),
    (30, 50, 3, 3, 1, 0.07),
    (25, 30, 4, 10, 25, 0.5),
    (80, 33, 2, 4, 7, 0.01),
])
def test_equals_the_slow_loop(seed, n, m, d, classes, k, temperature, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=generator)
    train_y = torch.randint(0, classes, (n,), generator=generator)
    test_y = torch.randint(0, classes, (m,), generator=generator)
    train_x = (centres[train_y] + torch.randn(n, d, generator=generator)) * 5
    test_x = centres[test_y] + torch.randn(m, d, generator=generator)
    expected = slow_knn(train_x, train_y, test_x, test_y, k, temperature)
    assert 0 < expected < 1
    for chunk in (m, 1, 7):
        monkeypatch.setattr(knn, "_SIMILARITIES", chunk * n)
        assert knn_accuracy(train_x, train_y, test_x, test_y, k, temperature) == expected


def test_ties_go_to_the_lower_index_then_to_the_lower_class():
    # 64 copies of one image, so that an unstable top-k would pick any of them.
    train_x = torch.tensor([[1.0, 0.0]]).repeat(64, 1)
    train_y = torch.tensor([3] * 3 + [1] * 61)
    query = torch.tensor([[2.0, 0.0]])
    assert knn_accuracy(train_x, train_y, query, torch.tensor([3]), k=3) == 1.0  # indices 0, 1, 2
    assert knn_accuracy(train_x, train_y, query, torch.tensor([3]), k=5) == 1.0  # 3 against 2
    assert knn_accuracy(train_x, train_y, query, torch.tensor([1]), k=6) == 1.0  # 3 against 3
    assert knn_accuracy(train_x, train_y, query, torch.tensor([1]), k=7) == 1.0


def test_small_temperature_does_not_overflow():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator), torch.randint(0, 5, (50,), generator=generator)
    q, z = torch.randn(40, 4, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    assert knn_accuracy(x, y, q, z, k=10, temperature=1e-4) == knn_accuracy(x, y, q, z, k=1)


def test_a_test_class_without_training_images_counts_as_wrong():
    x = torch.eye(3)
    assert knn_accuracy(x, torch.tensor([0, 1, 1]), x, torch.tensor([0, 1, 7]), k=1) == pytest.approx(2 / 3)
