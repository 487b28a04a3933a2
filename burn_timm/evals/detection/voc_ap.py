"""Average precision of Pascal VOC 2007: eleven recall levels, "difficult" objects counted neither way.

Source: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010, Sec. 4.2, and the rules of the
development kit: detections in order of confidence; each is assigned to the object of its class and image that it
overlaps most; it is true if the overlap reaches the threshold and the object has no detection yet.

The kit's boxes are inclusive 1-based pixels with sides x2 - x1 + 1; here boxes are continuous, (xmin - 1, ymin - 1,
xmax, ymax), which gives the same overlaps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_iou

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))

Arrays = dict[str, np.ndarray]


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

    Equal confidences keep the order of the images, equal overlaps take the first object.
    """
    rows, seen = [np.empty((4, 0))], 0
    for detection, truth in zip(detections, truths, strict=True):
        found, own = detection["labels"] == label, truth["labels"] == label
        boxes = (torch.as_tensor(part["boxes"][chosen]).double() for part, chosen in ((detection, found), (truth, own)))
        overlap = np.pad(box_iou(*boxes).numpy(), ((0, 0), (0, 1)))  # the last column: no object
        best = overlap.argmax(1)
        difficult = np.append(truth["difficult"][own], False)[best]
        rows.append(np.stack((detection["scores"][found], seen + best, overlap.max(1), difficult)))
        seen += int(own.sum())
    scores, objects, overlap, difficult = np.concatenate(rows, axis=1)
    order = np.argsort(-scores, kind="stable")
    return objects[order], overlap[order], difficult[order].astype(bool)


def _class_ap(objects, overlap, difficult, positives: int, threshold: float) -> float:
    matched = overlap >= threshold
    ignored = matched & difficult
    candidates = np.flatnonzero(matched & ~difficult)
    _, first = np.unique(objects[candidates], return_index=True)
    true = np.zeros(len(objects), bool)
    true[candidates[first]] = True
    return eleven_point(true, ~true & ~ignored, positives)
