"""The task from top to bottom: photos, detector, training, figures."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from tqdm.auto import tqdm

from ...checkpoints import state_hash
from ...errors import BurnError
from .batches import test_batches, trainable
from .coco_ap import coco_ap
from .logs import draw_curves
from .network import Detector, build_detector
from .options import DEFINING, beside, check, protocol
from .training import fit, precise_batchnorm, to_device
from .voc import CLASSES, VocImage, counts, read_split
from .voc_ap import voc_ap

DESCRIPTION = "Faster R-CNN fine-tuned on Pascal VOC (C4 as published, or FPN): 11-point mAP, AP50, AP75"


def evaluate(
    args: argparse.Namespace, device: torch.device, announce: Callable[[dict, dict], None] | None = None,
) -> dict:
    """Fine-tune a detector on the training sets and measure it on the test set.

    Beside args.output RESULT.json it writes RESULT_log.jsonl, RESULT_curves.png and RESULT_checkpoint.pt.

    Args:
        args: model, checkpoint, pretrained, data_dir, workers, seed, output, and what `add_options` adds.
        device: where the detector trains.
        announce: called with protocol and dataset before the training begins.

    Returns:
        `value`: the mean average precision of the test set, VOC 2007's (a fraction); `protocol`; `dataset`: splits and
        counts; `extra`: `test` (and with --eval-train `train`) with the VOC and COCO figures, `training`.

    Raises:
        BurnError: the options, the data or the weights are not what they should be.
    """
    check(args)
    test = read_split(args.data_dir, args.test_set)
    sets = {name: read_split(args.data_dir, name) for name in args.train_sets}
    photos = [image for images in sets.values() for image in images]
    shared = {image.path for image in photos}.intersection(image.path for image in test)
    if shared:
        raise BurnError(f"--test-set {args.test_set}: {len(shared)} of its {len(test)} photos are in --train-sets too")
    train = trainable(photos, difficult=args.difficult == "train")
    torch.manual_seed(args.seed)
    detector = build_detector(args).to(device)
    settings = {**protocol(args), "parameters": sum(p.numel() for p in detector.parameters()), "device": str(device)}
    dataset = {
        "name": "Pascal VOC layout", "data_dir": args.data_dir, "classes": len(CLASSES),
        "train": [counts(name, images) for name, images in sets.items()],
        "trained_on": {"images": len(train), "boxes": sum(len(image.boxes) for image in train)},
        "test": counts(args.test_set, test),
    }
    if announce is not None:
        announce(settings, dataset)

    files = {name: beside(args.output, name) for name in ("log.jsonl", "curves.png", "checkpoint.pt")}
    identity = {name: getattr(args, name) for name in DEFINING}
    identity |= {"model": args.model, "images": len(train), "initial_weights": state_hash(detector)}
    training = fit(detector, train, args, device, identity, files["checkpoint.pt"], files["log.jsonl"])
    draw_curves(files["log.jsonl"], files["curves.png"])
    training["precise_bn_layers"] = precise_batchnorm(detector, train, args, device)

    started = time.perf_counter()
    extra = {"test": figures(predict(detector, test, device, args.workers, "test photos"), test)}
    if args.eval_train:
        extra["train"] = figures(predict(detector, photos, device, args.workers, "training photos"), photos)
    training["test_seconds"] = round(time.perf_counter() - started, 1)
    extra |= {"training": training, "files": {name: str(path) for name, path in files.items()}}
    return {"value": extra["test"]["voc"]["map"], "protocol": settings, "dataset": dataset, "extra": extra}


@torch.no_grad()
def predict(
    detector: Detector, images: list[VocImage], device: torch.device, workers: int = 0, title: str = "photos",
) -> list[dict[str, np.ndarray]]:
    """Detections of each photo in its own pixels: boxes float32 [N, 4], scores float32 [N], labels int64 [N]."""
    detector.eval()
    detections = []
    with tqdm(total=len(images), desc=title, unit=" images", disable=None) as bar:
        for batch in test_batches(images, 1, workers):  # one by one: no image is padded to another's size
            pixels, _ = to_device(batch, device)
            detections += [{name: value.cpu().numpy() for name, value in found.items()} for found in detector(pixels)]
            bar.update(len(batch))
    return detections


def figures(detections: list[dict[str, np.ndarray]], images: list[VocImage]) -> dict:
    """VOC's and COCO's figures of the same detections, fractions."""
    truths = [image.truth() for image in images]
    voc = voc_ap(detections, truths)
    ap50 = {CLASSES[label - 1]: round(ap[0.5], 6) for label, ap in voc["classes"].items()}
    return {
        "voc": {"map": voc["map"], "ap50": voc["ap"][0.5], "ap75": voc["ap"][0.75], "classes": len(ap50),
                "ap50_by_class": ap50},
        "coco": coco_ap(detections, truths),
        "detections": sum(len(found["scores"]) for found in detections),
    }
