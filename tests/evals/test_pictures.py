"""Neighbours and confusion: what the pictures show, against slow loops and scikit-learn, and the commands that draw."""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix

import eval_downstream
from burn_timm.data import open_dataset, random_subset
from burn_timm.errors import BurnError
from burn_timm.evals import pictures

NET = ["--model", "test_resnet", "--img-size", "32", "--workers", "0", "--threads", "1"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self) or save(self, *a, **k))
    return figures


def test_every_place_shows_a_nearest_image_and_whether_its_class_is_right(tmp_path, drawn):
    train = random_subset(open_dataset("digits", None, "train"), 60, 0)
    test = random_subset(open_dataset("digits", None, "validation"), 30, 0)
    generator = torch.Generator().manual_seed(0)
    features = {name: tuple(torch.randn(len(part), 3, generator=generator) for part in (train, test))
                for name in ("pixels", "trained")}
    found = pictures.draw_neighbours(tmp_path / "n.png", train, test, features, images=10, neighbours=2)
    (figure,) = drawn
    places = figure.axes
    assert len(places) == 10 * 2 * 3
    where = {test.load(index)[0].tobytes(): index for index in range(len(test))}
    queries = [where[places[6 * row].images[0].get_array().tobytes()] for row in range(10)]
    assert {test.labels()[query] for query in queries} == set(test.labels())  # every class before one comes again
    for number, (name, (x, z)) in enumerate(features.items()):
        for row, query in enumerate(queries):
            cosines = [float(z[query] @ other) / math.sqrt(float(z[query] @ z[query]) * float(other @ other))
                       for other in x]
            nearest = sorted(range(len(x)), key=lambda i: -cosines[i])[:2]
            assert found[name][row].tolist() == nearest
            for place, index in zip(places[6 * row + 3 * number + 1 :], nearest, strict=False):
                assert np.array_equal(place.images[0].get_array(), np.asarray(train.load(index)[0]))
                right = train.labels()[index] == test.labels()[query]
                frame = to_hex(place.spines["left"].get_edgecolor()).upper()
                assert frame == (pictures.RIGHT if right else pictures.WRONG)
                assert place.get_title() == str(train.labels()[index])
    assert Image.open(tmp_path / "n.png").size[0] > 400
    with pytest.raises(BurnError, match="29 images have features .trained."):
        pictures.draw_neighbours(tmp_path / "n.png", train, test, {"trained": (x, z[1:])})


def folder(root, names, broken=()):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (2 * number % 256, 40 * (number % 7), 255 - number % 256)).save(path)
        if number in broken:
            path.write_bytes(b"no image")


def test_any_folder_without_labels_or_test_split(tmp_path, drawn):
    """An image that cannot be read moves no other image into its place."""
    folder(tmp_path / "photos", [f"{number:03}.png" for number in range(200)], broken=[7])
    eval_downstream.main(["knn", "--pixels", "--dataset", "folder", "--data-dir", str(tmp_path / "photos"),
                          "--workers", "0", "--neighbours", str(tmp_path / "out" / "n.png")])
    (figure,) = drawn
    assert len(figure.axes) == 8 * 9 and sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    for row in range(8):  # by pixels the nearest photo is one of nearly the same colours
        query, nearest = (figure.axes[9 * row + column].images[0].get_array()[0, 0].astype(int) for column in (0, 1))
        assert abs(query - nearest).max() <= 16
        assert to_hex(figure.axes[9 * row + 1].spines["left"].get_edgecolor()) == to_hex(pictures.UNKNOWN)


def test_a_handful_of_photos_is_enough_for_a_picture(tmp_path, drawn):
    folder(tmp_path / "photos", ["a.png", "b.png"])
    eval_downstream.main(["knn", "--pixels", "--dataset", "folder", "--data-dir", str(tmp_path / "photos"),
                          "--workers", "0", "--neighbours", str(tmp_path / "n.png")])
    assert len(drawn[0].axes) == 1 * 2  # one test photo and the other one


def test_confusion_of_a_probe_has_the_names_of_the_classes(tmp_path, drawn):
    folder(tmp_path, [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in ("cat", "dog", "emu")
                      for number in range(8)])
    for options in (["--epochs", "2"], ["--classifier", "lbfgs"]):
        eval_downstream.main(["linear", *NET, "--dataset", "folder", "--data-dir", str(tmp_path), *options, "--output",
                              str(tmp_path / "r.json"), "--confusion", str(tmp_path / "c.png")])
        axis = drawn.pop().axes[0]
        assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog", "emu"]
        value = eval_downstream.read_results([tmp_path / "r.json"])[0]["value"]
        shares = np.asarray(axis.images[0].get_array())
        assert shares.sum(1) == pytest.approx([100] * 3) and np.diag(shares).mean() == pytest.approx(100 * value)


@pytest.mark.parametrize("classes", [5, 45])
def test_confusion_matrix_and_its_worst_classes(tmp_path, drawn, classes):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (4000,), generator=generator)
    predicted = torch.where(torch.rand(4000, generator=generator) < 0.5, labels, labels.roll(1))
    predicted[labels % 4 == 3] = labels[labels % 4 == 3]  # these classes are always right
    counts = pictures.draw_confusion(tmp_path / "c.png", labels, predicted)
    assert np.array_equal(counts, confusion_matrix(labels, predicted))
    axis = drawn[0].axes[0]
    shown = [int(label.get_text()) for label in axis.get_yticklabels()]
    mistakes = {c: int(((labels == c) ^ (predicted == c)).sum()) for c in range(classes)}
    if classes == 5:
        assert shown == list(range(5)) and "classes with" not in axis.get_title()
    else:
        assert len(shown) == 40 and "the 40 of 45 classes with the most mistakes" in axis.get_title()
        assert min(mistakes[c] for c in shown) >= max(mistakes[c] for c in range(45) if c not in shown)


@pytest.mark.parametrize(("argv", "message"), [
    (["knn", "--dataset", "digits"], "knn needs --output RESULT.json, --neighbours FILE.png or both"),
    (["knn", "--dataset", "digits", "--neighbours", "n.jpg"], "ends in .png, not n.jpg"),
    (["knn", "--dataset", "digits", "--neighbours", f"{__file__}/n.png"], "its folder cannot be made"),
    (["linear", "--dataset", "digits", "--confusion", "c.png"], "--output"),
])
def test_what_cannot_be_drawn_is_one_line(argv, message, eval_fails):
    assert message in eval_fails(*argv, *NET)


def test_a_picture_beside_a_result_needs_labels(tmp_path, eval_fails):
    folder(tmp_path / "train", [f"{number}.png" for number in range(12)])
    folder(tmp_path / "val", ["a.png", "b.png"])
    line = eval_fails("knn", *NET, "--dataset", "folder", "--data-dir", tmp_path, "--output", tmp_path / "r.json",
                      "--neighbours", tmp_path / "n.png")
    assert "--train-split: needs labels, and 12 of 12 images of folder" in line
