"""A detector's boxes on all photos, and their average precision: VOC's 11-point one, and COCO's by pycocotools."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from ...errors import require_package
from .data import CLASSES, VocImage, test_batches
from .network import Detector
from .training import to_device
from .voc_ap import Arrays, voc_ap


@torch.no_grad()
def predict(detector: Detector, images: list[VocImage], device: torch.device, workers: int, title: str) -> list[Arrays]:
    """Detections of each photo in its own pixels: boxes float32 [N, 4], scores float32 [N], labels int64 [N]."""
    detector.eval()
    detections = []
    for batch in tqdm(test_batches(images, workers), total=len(images), desc=title, unit=" images", disable=None):
        pixels, _ = to_device(batch, device)
        detections += [{name: value.cpu().numpy() for name, value in found.items()} for found in detector(pixels)]
    return detections


def figures(detections: list[Arrays], images: list[VocImage]) -> dict:
    """VOC's and COCO's figures of the same detections, fractions."""
    truths = [vars(image) for image in images]  # boxes, labels, difficult
    voc = voc_ap(detections, truths)
    ap50 = {CLASSES[label - 1]: round(ap[0.5], 6) for label, ap in voc["classes"].items()}
    return {
        "voc": {"map": voc["map"], "ap50": voc["ap"][0.5], "ap75": voc["ap"][0.75], "classes": len(ap50),
                "ap50_by_class": ap50},
        "coco": coco_ap(detections, truths),
        "detections": sum(len(found["scores"]) for found in detections),
    }


def coco_ap(detections: Sequence[Arrays], truths: Sequence[Arrays]) -> dict[str, float]:
    """AP over IoU .50:.05:.95 (101 recall levels, at most 100 detections an image), AP50 and AP75, as fractions.

    Args:
        detections, truths: As for `voc_ap`. A difficult object is COCO's crowd, which counts neither way.

    Raises:
        BurnError: pycocotools is not installed.
    """
    require_package("pycocotools", "detection", "detection")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, objects = _rows(detections, "scores"), _rows(truths, "difficult")
    if len(found) == 0:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    annotations = [
        {"id": number, "image_id": int(image), "category_id": int(label), "bbox": box, "area": box[2] * box[3],
         "iscrowd": int(difficult)}
        for number, (image, *box, difficult, label) in enumerate(objects.tolist(), start=1)
    ]
    coco = COCO()
    coco.dataset = {
        "info": {}, "images": [{"id": image} for image in range(len(truths))], "annotations": annotations,
        "categories": [{"id": int(label)} for label in np.unique(objects[:, 6])],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("ap", "ap50", "ap75"), map(float, evaluation.stats[:3]), strict=True))


def _rows(images: Sequence[Arrays], entry: str) -> np.ndarray:
    """pycocotools' array, float64 [N, 7]: image, x, y, width, height, `entry`, label."""
    rows = [np.empty((0, 7))]
    for number, image in enumerate(images):
        boxes = image["boxes"].astype(np.float64)
        index = np.full(len(boxes), number)
        rows.append(np.column_stack((index, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], image[entry], image["labels"])))
    return np.concatenate(rows)
