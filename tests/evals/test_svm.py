import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from burn_timm.data.published import PUBLISHED
from burn_timm.errors import BurnError
from burn_timm.evals.features import data_config
from burn_timm.evals.svm import (
    COSTS,
    SHOTS,
    FourPlaces,
    Settings,
    draw,
    run,
    voc07_transform,
)

# Digits as an image with several labels: whether it is even, greater than 5 (5 itself: difficult), has a loop (2 and 4
# are written with and without one: difficult), is greater than 9.
MARKS = np.array([
    [1, -1, 1, -1, 1, -1, 1, -1, 1, -1],
    [-1, -1, -1, -1, -1, 0, 1, 1, 1, 1],
    [1, -1, 0, -1, 0, -1, 1, -1, 1, 1],
    [-1] * 10,
]).T.astype(np.int8)


@pytest.fixture(scope="module")
def sets():
    """Pixels of the scanned digits and their classes: (training [800], test [400])."""
    data = load_digits()
    x, y = torch.from_numpy(data.data).float(), torch.from_numpy(data.target)
    return x[:800], y[:800], x[800:1200], y[800:1200]


@pytest.fixture(scope="module")
def several(sets):
    """The digits with the labels of MARKS: (training [300], test [200])."""
    marks = torch.from_numpy(MARKS)
    return sets[0][:300], marks[sets[1][:300]], sets[2][:200], marks[sets[3][:200]]


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


def plain_svm(cost, seed):
    return LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, penalty="l2", loss="squared_hinge", tol=1e-4, dual=True, max_iter=2000,
        random_state=seed,
    )


def plain_low_shot(train_x, train_marks, test_x, test_marks, k, costs, seed, draws=5):
    """{"draws", "cost"} by scikit-learn alone: `*_marks` hold, for each class, +1, 0 or -1 for each image.

    A draw: from the generator seeded by (seed, k, number of the draw), class after class, k positive images and then
    19 k negative ones, without replacement; the training set is in the order of the images.
    """
    x, z = normalize(np.asarray(train_x, np.float64)), normalize(np.asarray(test_x, np.float64))
    table = np.zeros((draws, len(costs)))
    for number in range(draws):
        rng = np.random.default_rng([seed, k, number])
        of_class = np.zeros((len(costs), len(train_marks)))
        for c, (marks, truth) in enumerate(zip(train_marks, test_marks, strict=True)):
            ups = rng.choice([i for i, mark in enumerate(marks) if mark > 0], k, replace=False)
            downs = rng.choice([i for i, mark in enumerate(marks) if mark < 0], 19 * k, replace=False)
            chosen = sorted([*ups.tolist(), *downs.tolist()])
            tested = [i for i, mark in enumerate(truth) if mark != 0]
            for row, cost in enumerate(costs):
                svm = plain_svm(cost, seed).fit(x[chosen], [int(marks[i]) for i in chosen])
                scores = svm.decision_function(z[tested]).tolist()
                of_class[row, c] = slow_average_precision(scores, [truth[i] > 0 for i in tested])
        table[number] = of_class.mean(1)
    best = max(range(len(costs)), key=lambda row: table[:, row].mean())
    return {"draws": table[:, best].tolist(), "cost": costs[best]}


def test_the_defaults_are_published():
    assert len(COSTS) == 19 and set(COSTS) == {1, 10, 100} | {0.5**n for n in range(4, 20)}
    assert SHOTS == (1, 2, 4, 8, 16, 32, 64, 96)


def test_a_class_an_image_is_a_matrix_with_one_label_a_row(sets):
    settings = {"shots": (1, 4), "costs": (0.0625, 1.0, 10.0), "full": False, "seed": 3}
    found = run(*sets, Settings(**settings))
    marks = [2 * torch.eye(10, dtype=torch.int8)[labels] - 1 for labels in (sets[1], sets[3])]
    same = run(sets[0], marks[0], sets[2], marks[1], Settings(**settings, multi_label=True))
    assert same == {**found, "classes": list(range(10))}
    assert found["value"] == found["low_shot"]["4"]["mean"] and found["full"] is None


def test_several_labels_equal_a_plain_scikit_learn_script(several):
    train_x, train_y, test_x, test_y = (part.numpy() for part in several)
    costs, seed = [0.0625, 1.0, 10.0], 5
    found = run(*several, Settings(shots=(2,), draws=5, costs=costs, seed=seed, multi_label=True))
    assert found["classes"] == [0, 1, 2]  # no digit is greater than 9
    x, z = normalize(train_x.astype(np.float64)), normalize(test_x.astype(np.float64))
    figures, chosen = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in range(3):
            target = np.where(train_y[:, c] == 1, 1, -1)  # difficult: negative
            folds = [
                cross_val_score(plain_svm(cost, seed), x, target, cv=3, scoring="average_precision").mean()
                for cost in costs
            ]
            chosen.append(costs[int(np.argmax(folds))])
            svm, tested = plain_svm(chosen[-1], seed).fit(x, target), test_y[:, c] != 0
            truth = (test_y[tested, c] == 1).tolist()
            figures.append(slow_average_precision(svm.decision_function(z[tested]).tolist(), truth))
        plain = plain_low_shot(train_x, train_y.T[:3], test_x, test_y.T[:3], 2, costs, seed)
    assert found["full"] == found["value"] == pytest.approx(np.mean(figures), rel=1e-9)
    assert len(set(chosen)) > 1  # a cost for each class
    entry = found["low_shot"]["2"]
    assert entry["cost"] == plain["cost"] and len(entry["draws"]) == 5
    assert entry["draws"] == pytest.approx(plain["draws"], rel=1e-9)
    assert entry["mean"] == pytest.approx(np.mean(plain["draws"]), rel=1e-9)
    assert entry["std"] == pytest.approx(np.std(plain["draws"]), rel=1e-6)  # n, as published


def test_low_shot_of_the_real_voc_labels(burn_data, tmp_path):
    """96 is the most that every class of trainval supplies: there are 96 images with sheep."""
    with zipfile.ZipFile(Path(burn_data) / "lists/voc2007_imagesets_main.zip") as archive:
        archive.extractall(tmp_path)
    labels = PUBLISHED["voc07"].read(str(tmp_path / "VOCdevkit/VOC2007"), "trainval").label_matrix
    sheep, person = 16, 14
    for c in range(20):
        chosen = draw(labels, c, 96, np.random.default_rng(c))
        assert np.bincount(labels[chosen, c] + 1, minlength=3).tolist() == [19 * 96, 0, 96]
    assert draw(labels, sheep, 97, np.random.default_rng(0)) is None
    assert draw(labels, person, 153, np.random.default_rng(0)) is not None
    assert draw(labels, person, 154, np.random.default_rng(0)) is None  # 2,916 negatives: 87 difficult do not count


@pytest.mark.parametrize(("side", "shorter"), [(224, 256), (64, 73)])
def test_the_published_transform_of_voc07(side, shorter):
    image = Image.fromarray((load_digits().images[7] * 15).astype(np.uint8)).convert("RGB").resize((90, 60))
    config = data_config({"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bicubic"}, side)
    whole = image.resize((shorter * 3 // 2, shorter), Image.BILINEAR)
    pixels = np.asarray(whole.resize((side, side), Image.BILINEAR)).astype(np.float32) / 255
    expected = ((pixels - np.array((0.1, 0.2, 0.3))) / np.array((0.4, 0.5, 0.6))).transpose(2, 0, 1)
    transform, told = voc07_transform(config)
    found = transform(image)
    assert found.shape == (3, side, side) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert told["resize_shorter_side"] == shorter and told["squash_to"] == [side, side]
    assert told["interpolation"] == "bilinear" and told["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("name", "side"), [("test_resnet", (64, 128)), ("reactnet_a_025", (96, 224))])
def test_features_of_four_places_are_means_of_windows_a_row_and_a_column_smaller_than_the_maps(name, side):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        images = torch.randn(2, 3, *side)
        maps, found = model.forward_features(images), FourPlaces(model, images.shape[1:])(images)
    height, width = maps.shape[2:]
    assert (height, width) == tuple(pixels // 32 for pixels in side) and found.shape == (2, 4 * model.num_features)
    windows = [maps[:, :, top : top + height - 1, left : left + width - 1] for top in (0, 1) for left in (0, 1)]
    expected = torch.stack([window.mean((2, 3)) for window in windows], 2)
    torch.testing.assert_close(found.view(2, -1, 4), expected)


def test_too_few_images_of_a_class_cost_the_full_figure_alone():
    torch.manual_seed(0)
    y = torch.tensor([0] * 30 + [1] * 30 + [2] * 2)
    x, z = torch.randn(62, 5) + y[:, None], torch.randn(62, 5) + y[:, None]
    found = run(x, y, z, y, Settings(shots=(1, 40), draws=3, costs=(1.0,)))
    assert found["full"] == "n/a" and found["full_lacks"] == "class 2 has 2 training images, 3 are needed"
    assert found["value"] == found["low_shot"]["1"]["mean"] > 0.3 and found["low_shot"]["40"] == "n/a"
    with pytest.raises(BurnError, match="class 2 has 2 .* are needed; --shots 40: not every class has 40 positive"):
        run(x, y, z, y, Settings(shots=(40,), costs=(1.0,)))
    enough = run(x[:60], y[:60], z[:60], y[:60], Settings(shots=(1,), draws=2, costs=(1.0,)))
    assert enough["value"] == enough["full"] and "full_lacks" not in enough


@pytest.mark.parametrize(("changed", "settings", "message"), [
    (lambda x, y, z, t: (x, y, z, t), {"multi_label": False}, r"expected features \[N, D\] and labels \[N\], got"),
    (lambda x, y, z, t: (x, y[:, 0], z, t[:, 0]), {}, r"labels \[N, C\]"),
    (lambda x, y, z, t: (x, y, z, t[:, :3]), {}, r"labels differ in classes: 4 \(training\), 3 \(test\)"),
    (lambda x, y, z, t: (x, y, z, t + 1), {}, "test set: a matrix of labels holds 1, 0 and -1 only"),
    (lambda x, y, z, t: (x, y[:, 2:], z, t[:, 2:]), {}, "at least two classes"),
    (lambda x, y, z, t: (x, torch.cat([-torch.ones_like(y[:2]), torch.ones_like(y[2:])]), z, t), {"shots": ()},
     "class 0 has 2 other training images, 3 are needed"),
    (lambda x, y, z, t: (x, y, z, t), {"shots": (), "full": False}, "--no-full and no --shots leave nothing to do"),
])
def test_labels_and_settings_without_a_figure_are_refused(several, changed, settings, message):
    with pytest.raises(BurnError, match=message):
        run(*changed(*several), Settings(**{"multi_label": True, **settings}))
