"""VOC's and COCO's figures against slow evaluators written from their definitions, on real annotations."""

import xml.etree.ElementTree as ET
import zipfile
from fractions import Fraction

import numpy as np
import pytest

from burn_timm.evals.detection.coco_ap import coco_ap
from burn_timm.evals.detection.voc import LABELS
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
                (LABELS[item.find("name").text], [int(item.find(f"bndbox/{key}").text) for key in KEYS], False)
                for item in root.iter("object")
            ])
    rng = np.random.default_rng(7)
    return [[(label, box, bool(rng.random() < 0.2)) for label, box, _ in photo] for photo in photos]


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
    """The same in the form that the evaluators take: continuous boxes."""
    offset = np.array([1.0, 1.0, 0.0, 0.0])
    truths = [
        {
            "boxes": np.array([box for _, box, _ in photo], dtype=float).reshape(-1, 4) - offset,
            "labels": np.array([label for label, _, _ in photo], dtype=int),
            "difficult": np.array([hard for _, _, hard in photo], dtype=bool),
        }
        for photo in objects
    ]
    found = [
        {
            "boxes": np.array([box for _, box, _ in photo], dtype=float).reshape(-1, 4) - offset,
            "labels": np.array([label for label, _, _ in photo], dtype=int),
            "scores": np.array([score for _, _, score in photo], dtype=float),
        }
        for photo in detections
    ]
    return found, truths


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
        if best >= threshold:
            if not match[2]:
                if match not in taken:
                    true += 1
                    taken.add(match)
                else:
                    false += 1
        else:
            false += 1
        if true + false:
            points.append((Fraction(true, positives), Fraction(true, true + false)))
    levels = [max((p for r, p in points if r >= Fraction(level, 10)), default=0) for level in range(11)]
    return float(sum(levels) / 11)


def slow_coco(objects, detections, label, threshold):
    """COCO's matching and 101-point average; a difficult object is a crowd. None without objects to find."""
    positives = sum(kind == label and not hard for photo in objects for kind, _, hard in photo)
    if positives == 0:
        return None
    scored = []
    for photo, found in zip(objects, detections, strict=True):
        mine = sorted((item for item in found if item[0] == label), key=lambda item: -item[2])[:100]
        own = sorted((item for item in photo if item[0] == label), key=lambda item: item[2])
        taken = set()
        for _, (x1, y1, x2, y2), score in mine:
            best, match = threshold, None
            for place, (_, (u1, v1, u2, v2), crowd) in enumerate(own):
                if place in taken and not crowd:
                    continue
                if match is not None and crowd and not own[match][2]:
                    break
                width, height = min(x2, u2) - max(x1, u1) + 1, min(y2, v2) - max(y1, v1) + 1
                common = max(width, 0) * max(height, 0)
                area = (x2 - x1 + 1) * (y2 - y1 + 1)
                union = area if crowd else area + (u2 - u1 + 1) * (v2 - v1 + 1) - common
                if common / union >= best:
                    best, match = common / union, place
            if match is None:
                scored.append((score, 0))
            elif not own[match][2]:
                taken.add(match)
                scored.append((score, 1))
    scored.sort(key=lambda item: -item[0])
    true, recall, precision = 0, [], []
    for count, (_, hit) in enumerate(scored, start=1):
        true += hit
        recall.append(true / positives)
        precision.append(true / count)
    levels = [max((p for r, p in zip(recall, precision, strict=True) if r >= level), default=0.0)
              for level in np.linspace(0, 1, 101)]
    return float(np.mean(levels))


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


@pytest.mark.parametrize("seed", range(3))
def test_coco_figures_equal_the_definition(objects, seed):
    pytest.importorskip("pycocotools")
    detections = detect(objects, seed)
    labels = sorted({label for photo in objects for label, _, _ in photo})
    slow = {}
    for t in np.linspace(0.5, 0.95, 10):
        aps = [slow_coco(objects, detections, c, t) for c in labels]
        slow[round(t, 2)] = np.mean([ap for ap in aps if ap is not None])
    result = coco_ap(*arrays(objects, detections))
    assert result["ap"] == pytest.approx(np.mean(list(slow.values())), abs=1e-9)
    assert result["ap50"] == pytest.approx(slow[0.5], abs=1e-9)
    assert result["ap75"] == pytest.approx(slow[0.75], abs=1e-9)


def test_difficult_objects_count_neither_way():
    easy, hard = [1, 1, 100, 100], [201, 1, 300, 100]
    objects = [[(1, easy, False), (1, hard, True)]]
    right, on_hard, nowhere = (1, easy, 0.5), (1, hard, 0.9), (1, [1, 301, 100, 400], 0.8)

    def ap(*found):
        return voc_ap(*arrays(objects, [list(found)]), (0.5,))["map"]

    assert ap() == 0
    assert ap(right) == 1
    assert ap(right, on_hard, on_hard) == 1  # neither true nor false, however often
    assert ap(on_hard) == 0
    assert ap(right, nowhere) == pytest.approx(0.5)  # one false before the true one
    assert ap(right, (1, easy, 0.4)) == 1  # a second detection is false, but at full recall already


def test_recall_levels_are_exact():
    # three of ten objects found without a mistake: the levels 0, .1, .2 and .3 (not 0.1 * 3) are reached
    objects = [[(1, [1 + 100 * i, 1, 50 + 100 * i, 50], False) for i in range(10)]]
    found = [[(1, box, 0.9) for _, box, _ in objects[0][:3]]]
    assert voc_ap(*arrays(objects, found), (0.5,))["map"] == pytest.approx(4 / 11)


def test_an_overlap_at_the_threshold_matches():
    objects = [[(1, [1, 1, 100, 100], False)]]
    found = arrays(objects, [[(1, [1, 1, 100, 50], 0.9)]])
    assert voc_ap(*found, (0.5,))["map"] == 1
    assert voc_ap(*found, (0.51,))["map"] == 0


def test_nothing_to_find_is_an_error():
    with pytest.raises(ValueError, match="not difficult"):
        voc_ap(*arrays([[(1, [1, 1, 9, 9], True)]], [[]]))
    with pytest.raises(ValueError, match="2 images"):
        voc_ap(*arrays([[], []], [[(1, [1, 1, 9, 9], 0.5)]] * 2)[:1], [])


def test_no_detections_give_zero():
    pytest.importorskip("pycocotools")
    assert coco_ap(*arrays([[(1, [1, 1, 9, 9], False)]], [[]])) == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
