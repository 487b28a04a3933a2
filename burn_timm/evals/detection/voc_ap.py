"""Average precision of Pascal VOC 2007: eleven recall levels, "difficult" objects counted neither way. Pure numpy.

Source: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010, Sec. 4.2, and the rules of the
development kit: detections in order of confidence; each is assigned to the object of its class and image that it
overlaps most; it is true if the overlap reaches the threshold and the object has no detection yet.

The kit's boxes are inclusive 1-based pixels with sides x2 - x1 + 1; here boxes are continuous, (xmin - 1, ymin - 1,
xmax, ymax), which gives the same overlaps.
"""

from collections.abc import Sequence

import numpy as np

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))

Arrays = dict[str, np.ndarray]


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union, float64 [N], of one box [4] with boxes [N, 4], (x1, y1, x2, y2) in pixels."""
    box, boxes = box.astype(np.float64), boxes.astype(np.float64)
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    return common / np.maximum(union, np.finfo(np.float64).tiny)


def eleven_point(true: np.ndarray, false: np.ndarray, positives: int) -> float:
    """Mean over the recall levels 0, .1, ..., 1 of the best precision at that recall or a higher one, in [0, 1].

    Args:
        true, false: bool [N], in order of falling confidence; a detection that is neither is ignored.
        positives: number of objects, not counting difficult ones; at least 1.

    The levels are compared exactly, in integers (0.1 * 3 > 0.3 in floating point).
    """
    hits, misses = np.cumsum(true), np.cumsum(false)
    precision = hits / np.maximum(hits + misses, 1)
    levels = [precision[hits * 10 >= level * positives] for level in range(11)]
    return float(np.mean([reached.max(initial=0.0) for reached in levels]))


def voc_ap(detections: Sequence[Arrays], truths: Sequence[Arrays], thresholds: Sequence[float] = THRESHOLDS) -> dict:
    """Average precision by class and threshold, and the means over classes.

    Args:
        detections: for each image `boxes` [N, 4] (x1, y1, x2, y2), `scores` [N], `labels` int [N].
        truths: for each image, in the same order, `boxes` [M, 4], `labels` int [M], `difficult` bool [M].
        thresholds: least overlaps for a match.

    Returns:
        `map`: mean over thresholds and classes; `ap`: {threshold: mean over classes}; `classes`: {label: {threshold:
        average precision}} of the classes with an object that is not difficult. All are fractions.

    Raises:
        ValueError: the lists differ in length, or no object is left to be found.
    """
    if len(detections) != len(truths):
        raise ValueError(f"{len(detections)} images have detections, {len(truths)} have annotations")
    labels = np.concatenate([truth["labels"][~truth["difficult"]] for truth in truths] or [[]]).astype(int)
    if len(labels) == 0:
        raise ValueError("no annotated object that is not difficult")
    classes = {}
    for label in np.unique(labels).tolist():
        found, overlap, difficult = _assign(detections, truths, label)
        positives = int((labels == label).sum())
        classes[label] = {t: _class_ap(found, overlap, difficult, positives, t) for t in thresholds}
    means = {t: float(np.mean([ap[t] for ap in classes.values()])) for t in thresholds}
    return {"map": float(np.mean(list(means.values()))), "ap": means, "classes": classes}


def _assign(detections, truths, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For all detections of a class by falling confidence: the object each overlaps most, how much, if it is difficult.

    Equal confidences keep the order of the images, equal overlaps take the first object; -1 is no object.
    """
    scores, objects, overlap, difficult = [], [], [], []
    seen = 0
    for detection, truth in zip(detections, truths, strict=True):
        own = truth["labels"] == label
        boxes, hard = truth["boxes"][own], truth["difficult"][own]
        mine = detection["labels"] == label
        for box, score in zip(detection["boxes"][mine], detection["scores"][mine], strict=True):
            ious = overlaps(box, boxes)
            best = int(ious.argmax()) if len(ious) else -1
            scores.append(score)
            objects.append(seen + best if best >= 0 else -1)
            overlap.append(ious[best] if best >= 0 else 0.0)
            difficult.append(hard[best] if best >= 0 else False)
        seen += len(boxes)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return np.asarray(objects, int)[order], np.asarray(overlap, float)[order], np.asarray(difficult, bool)[order]


def _class_ap(objects, overlap, difficult, positives: int, threshold: float) -> float:
    matched = (objects >= 0) & (overlap >= threshold)
    ignored = matched & difficult
    candidates = np.flatnonzero(matched & ~difficult)
    _, first = np.unique(objects[candidates], return_index=True)
    true = np.zeros(len(objects), bool)
    true[candidates[first]] = True
    return eleven_point(true, ~true & ~ignored, positives)
