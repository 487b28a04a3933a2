import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from burn_timm.errors import BurnError
from burn_timm.evals.svm import COSTS, SHOTS, average_precision, draw, run


@pytest.fixture(scope="module")
def sets():
    """Pixels of the scanned digits and their classes: (training [800], test [400])."""
    data = load_digits()
    x, y = torch.from_numpy(data.data).float(), torch.from_numpy(data.target)
    return x[:800], y[:800], x[800:1200], y[800:1200]


def slow_average_precision(scores, positive):
    """For each recall that is reached, the best precision at that recall or beyond."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    points, hits = [], 0
    for rank, index in enumerate(order, start=1):
        hits += bool(positive[index])
        points.append((hits / sum(positive), hits / rank))
    total, reached = 0.0, 0.0
    for recall, _ in points:
        if recall > reached:
            total += (recall - reached) * max(p for r, p in points if r >= recall)
            reached = recall
    return total


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_the_area_under_the_envelope(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.normal(size=40), rng.random(40) < 0.3
    positive[0] = True
    assert average_precision(scores, positive) == pytest.approx(slow_average_precision(scores, positive.tolist()))
    assert average_precision(positive.astype(float), positive) == 1.0


def test_the_published_costs_and_shots():
    assert len(COSTS) == 19 and set(COSTS) == {1, 10, 100} | {0.5**n for n in range(4, 20)}
    assert SHOTS == (1, 2, 4, 8, 16, 32, 64, 96)


def test_a_draw_has_k_positive_and_19_k_negative_images():
    labels = np.repeat(np.arange(4), 60)
    chosen = draw(labels, 2, 3, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 60 and (labels[chosen] == 2).sum() == 3
    assert draw(labels, 2, 10, np.random.default_rng(0)) is None  # 190 others are too many for 180
    assert draw(labels[:100], 1, 41, np.random.default_rng(0)) is None


def test_low_shot_equals_a_plain_scikit_learn_script(sets):
    """Five draws on real images, with nothing of ours but the drawn indices."""
    train_x, train_y, test_x, test_y = (part.numpy() for part in sets)
    costs, k = (0.0625, 1.0, 10.0), 4
    x, z = normalize(train_x.astype(np.float64)), normalize(test_x.astype(np.float64))
    table = []
    for number in range(5):
        rng = np.random.default_rng([7, k, number])
        chosen = [draw(train_y, c, k, rng) for c in range(10)]
        row = []
        for cost in costs:
            figures = []
            for c in range(10):
                svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, dual=True, random_state=7)
                svm.fit(x[chosen[c]], np.where(train_y[chosen[c]] == c, 1, -1))
                figures.append(slow_average_precision(svm.decision_function(z).tolist(), (test_y == c).tolist()))
            row.append(np.mean(figures))
        table.append(row)
    table = np.array(table)
    best = table.mean(0).argmax()
    found = run(*sets, shots=(k,), draws=5, costs=costs, full=False, seed=7)
    entry = found["low_shot"]["4"]
    assert entry["cost"] == costs[best]
    assert entry["draws"] == pytest.approx(table[:, best].tolist(), rel=1e-6)
    assert entry["mean"] == pytest.approx(table[:, best].mean(), rel=1e-6)
    assert entry["std"] == pytest.approx(table[:, best].std(ddof=1), rel=1e-6)
    assert found["value"] == entry["mean"] and found["full"] is None


def test_full_chooses_a_cost_for_each_class_and_beats_few_shots(sets):
    found = run(*sets, shots=(1, 96), draws=2, costs=(0.001, 1.0))
    assert found["value"] == found["full"] > found["low_shot"]["1"]["mean"] + 0.1
    assert found["low_shot"]["96"] == "n/a"  # no digit comes 96 times among 800


def test_bad_settings_are_refused(sets):
    with pytest.raises(BurnError, match="no class has the 96 positive"):
        run(*sets, shots=(96,), full=False)
    one = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(BurnError, match="at least two classes"):
        run(torch.randn(20, 3), one, torch.randn(20, 3), one)
