"""VOC's and COCO's figures on real annotations: against the definition, and against golden values."""

import xml.etree.ElementTree as ET
import zipfile
from fractions import Fraction

import numpy as np
import pytest

from burn_timm import errors
from burn_timm.errors import BurnError
from burn_timm.evals.detection.data import LABELS
from burn_timm.evals.detection.measure import coco_ap
from burn_timm.evals.detection.voc_ap import THRESHOLDS, voc_ap

KEYS = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def objects(burn_data):
    """The test photos of coco128: for each a list of (label, [xmin, ymin, xmax, ymax] as in the file, difficult)."""
    photos = []
    with zipfile.ZipFile(f"{burn_data}/detection/coco128_voc.zip") as archive:
        names = archive.read("VOCdevkit/VOC2007/ImageSets/Main/test.txt").decode().split()
        for name in names:
            root = ET.fromstring(archive.read(f"VOCdevkit/VOC2007/Annotations/{name}.xml"))
            photos.append([
                (LABELS[item.find("name").text], [int(item.find(f"bndbox/{key}").text) for key in KEYS])
                for item in root.iter("object")
            ])
    rng = np.random.default_rng(7)
    return [[(label, box, bool(rng.random() < 0.2)) for label, box in photo] for photo in photos]


def detect(objects, seed):
    """Several detections near most objects, some of another class, some nowhere; half on whole pixels, some ties.

    Boxes are VOC's inclusive 1-based pixels, like those of `objects`."""
    rng = np.random.default_rng(seed)
    labels = sorted({label for photo in objects for label, _, _ in photo})
    photos = []
    for photo in objects:
        found = []
        for label, box, _ in photo:
            for _ in range(rng.integers(0, 4)):
                sides = np.array([box[2] - box[0] + 1, box[3] - box[1] + 1] * 2)
                moved = np.array(box) + rng.normal(0, rng.choice([0.02, 0.08, 0.2]), 4) * sides
                if rng.random() < 0.5:
                    moved = np.round(moved)
                if rng.random() < 0.1:
                    label = int(rng.choice(labels))
                found.append((label, moved, round(float(rng.random()), 2)))
        for _ in range(3):
            corner, side = rng.uniform(1, 300, 2), rng.uniform(5, 200, 2)
            found.append((int(rng.choice(labels)), np.concatenate([corner, corner + side]), float(rng.random())))
        photos.append([(label, box, score) for label, box, score in found if (box[2:] > box[:2]).all()])
    return photos


def arrays(objects, detections):
    """The same in the form that the metrics take: continuous boxes."""

    def photo(items, name, kind):
        labels, boxes, values = zip(*items, strict=True) if items else ((), (), ())
        boxes = np.array(boxes, dtype=float).reshape(-1, 4) - [1, 1, 0, 0]
        return {"boxes": boxes, "labels": np.array(labels, dtype=int), name: np.array(values, dtype=kind)}

    return [photo(p, "scores", float) for p in detections], [photo(p, "difficult", bool) for p in objects]


def slow_voc(objects, detections, label, threshold):
    """The development kit's rules, a detection at a time; None for a class without objects to find."""
    positives = sum(kind == label and not hard for photo in objects for kind, _, hard in photo)
    if positives == 0:
        return None
    claims = [
        (-score, number, box) for number, photo in enumerate(detections) for kind, box, score in photo if kind == label
    ]
    claims.sort(key=lambda claim: claim[0])
    taken, true, false, points = set(), 0, 0, []
    for _, number, (x1, y1, x2, y2) in claims:
        best, match = -1.0, None
        for place, (kind, (u1, v1, u2, v2), hard) in enumerate(objects[number]):
            if kind != label:
                continue
            width, height = min(x2, u2) - max(x1, u1) + 1, min(y2, v2) - max(y1, v1) + 1
            common = width * height if width > 0 and height > 0 else 0.0
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + (u2 - u1 + 1) * (v2 - v1 + 1) - common
            if common / union > best:
                best, match = common / union, (number, place, hard)
        if best < threshold or match in taken:
            false += 1
        elif not match[2]:
            true += 1
            taken.add(match)
        if true + false:
            points.append((Fraction(true, positives), Fraction(true, true + false)))
    levels = [max((p for r, p in points if r >= Fraction(level, 10)), default=0) for level in range(11)]
    return float(sum(levels) / 11)


@pytest.mark.parametrize("seed", range(3))
def test_voc_figures_equal_the_kits_rules(objects, seed):
    detections = detect(objects, seed)
    result = voc_ap(*arrays(objects, detections))
    labels = sorted({label for photo in objects for label, _, _ in photo})
    slow = {t: {c: slow_voc(objects, detections, c, t) for c in labels} for t in THRESHOLDS}
    means = {t: np.mean([ap for ap in row.values() if ap is not None]) for t, row in slow.items()}
    for t in THRESHOLDS:
        for c, ap in slow[t].items():
            assert ap is None if c not in result["classes"] else result["classes"][c][t] == pytest.approx(ap, abs=1e-12)
        assert result["ap"][t] == pytest.approx(means[t], abs=1e-12)
    assert result["map"] == pytest.approx(np.mean(list(means.values())), abs=1e-12)
    assert 0.1 < result["map"] < result["ap"][0.5] < 0.9  # neither trivial end


EASY, HARD = [1, 1, 100, 100], [201, 1, 300, 100]
ROW = [(1, [1 + 100 * i, 1, 50 + 100 * i, 50], False) for i in range(10)]


def test_recall_levels_and_thresholds_are_exact():
    # three of ten objects found without a mistake: the levels 0, .1, .2 and .3 (not 0.1 * 3) are reached
    found = [(label, box, 0.9) for label, box, _ in ROW[:3]]
    assert voc_ap(*arrays([ROW], [found]), (0.5,))["map"] == pytest.approx(4 / 11)
    half = arrays([[(1, EASY, False)]], [[(1, [1, 1, 100, 50], 0.9)]])
    assert voc_ap(*half, (0.5,))["map"] == 1
    assert voc_ap(*half, (0.51,))["map"] == 0


def test_nothing_to_find_is_an_error():
    with pytest.raises(ValueError, match="not difficult"):
        voc_ap(*arrays([[(1, EASY, True)]], [[]]))
    with pytest.raises(ValueError, match="2 images"):
        voc_ap(*arrays([], [[(1, EASY, 0.5)]] * 2))


@pytest.mark.parametrize(("found", "expected"), [
    ([[], []], (0, 0, 0)),
    ([[(1, HARD, 0.9)], [(2, HARD, 0.4)]], (1, 1, 1)),  # the difficult one does not count as false
    ([[], [(2, [201, 1, 300, 62], 0.4)]], (0.3, 1, 0)),  # overlap 0.62: true at .5, .55 and .6
    ([[], [(2, HARD, 0.4), (2, EASY, 0.8)]], (0.5, 0.5, 0.5)),  # one false before the true one
    ([[(2, HARD, 0.9)], [(1, HARD, 0.9)]], (0, 0, 0)),  # the other photo, the other class
])
def test_coco_figures_by_hand(found, expected):
    pytest.importorskip("pycocotools")
    objects = [[(1, HARD, True)], [(2, HARD, False)]]
    assert tuple(coco_ap(*arrays(objects, found)).values()) == pytest.approx(expected)


def test_without_pycocotools_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BurnError, match=r"pip install .burn-timm\[detection\]"):
        coco_ap([], [])
