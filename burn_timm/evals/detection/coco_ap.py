"""The COCO figures of the same detections, by pycocotools (extra `detection`)."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np

from ...errors import BurnError

Arrays = dict[str, np.ndarray]


def require_pycocotools() -> None:
    """Raise BurnError, with what to install, where pycocotools is missing."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise BurnError("detection needs pycocotools: pip install 'burn-timm[detection]'") from error


def coco_ap(detections: Sequence[Arrays], truths: Sequence[Arrays]) -> dict[str, float]:
    """AP over IoU .50:.05:.95 (101 recall levels, at most 100 detections an image), AP50 and AP75, as fractions.

    Args:
        detections, truths: as for `voc_ap`. A difficult object is COCO's crowd, which counts neither way.

    Raises:
        BurnError: pycocotools is not installed.
    """
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects, results, labels = [], [], set()
    for image, (detection, truth) in enumerate(zip(detections, truths, strict=True), start=1):
        for box, label, hard in zip(truth["boxes"], truth["labels"], truth["difficult"], strict=True):
            corners = _corner_and_sides(box)
            objects.append({
                "id": len(objects) + 1, "image_id": image, "category_id": int(label), "bbox": corners,
                "area": corners[2] * corners[3], "iscrowd": int(hard),
            })
            labels.add(int(label))
        for box, label, score in zip(detection["boxes"], detection["labels"], detection["scores"], strict=True):
            results.append({
                "image_id": image, "category_id": int(label), "bbox": _corner_and_sides(box), "score": float(score),
            })
    if not results:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        coco = COCO()
        coco.dataset = {
            "info": {}, "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "annotations": objects, "categories": [{"id": label} for label in sorted(labels)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("ap", "ap50", "ap75"), map(float, evaluation.stats[:3]), strict=True))


def _corner_and_sides(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]
