"""Accuracies where labels are at hand: kNN of pixels, untrained student, teacher, student; both during training."""

import argparse
import logging
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from timm.data import resolve_model_data_config
from tqdm.auto import tqdm

from ..data.datasets import open_dataset
from ..data.loader import eval_loader, make_train_loader, micro_steps_per_epoch, seed_for
from ..data.sources import random_subset
from ..data.views import make_view
from ..errors import BurnError
from ..evals.features import calibrate_batchnorm, eval_transform, extract_features, pixel_features
from ..evals.knn import knn_accuracy
from ..evals.linear import linear_probe
from ..nn import Backbone
from .export import export_crop_pct
from .networks import build_student

_logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 4096
BANK, QUERIES, PIXELS = 50_000, 10_000, 64  # bounds: at most so many images, and pixels on a side for raw pixels
SMALL_BANK, SMALL_QUERIES = 10_000, 2_000  # of a figure during training


def open_val(args: argparse.Namespace, source):
    """The labelled split for kNN, or None where there is none."""
    if args.val_split == "none" or source.streaming or not source.labelled:
        return None
    for split in [args.val_split] if args.val_split else ["validation", "val", "test"]:
        try:
            val = open_dataset(
                args.dataset, args.data_dir, split, args.input_key, args.target_key, args.dataset_download,
            )
        except BurnError:
            if args.val_split:
                raise
            continue
        if val.labelled and val.description != source.description:
            return val
    return None


def untrained(args: argparse.Namespace, stage: str, source, device: torch.device) -> torch.nn.Module:
    """The run's initial network in the bits of `stage`, its BatchNorm statistics re-estimated on the training views."""
    model = build_student(args, stage, seed_for(args.seed, 0)).to(device)
    calibrate(model, args, source)
    return model


def calibrate(model: torch.nn.Module, args: argparse.Namespace, source) -> None:
    """Set BatchNorm statistics to their average over the same training views in every run of the same seed."""
    config = resolve_model_data_config(model)
    name = args.view if isinstance(args.view, str) else args.view[0]
    batch_size = min(128, len(source))
    steps = min(max(1, CALIBRATION_IMAGES // batch_size), micro_steps_per_epoch(len(source), batch_size, 1))
    loader = make_train_loader(
        source, make_view(name, args.export_img_size, args.hflip), n_views=1, batch_size=batch_size,
        seed=seed_for(args.seed, 0xCA11), rank=0, world_size=1, start_micro_step=0,
        micro_steps_per_epoch=steps, total_micro_steps=steps, workers=args.workers,
    )
    device = next(model.parameters()).device
    normalise = Backbone(torch.nn.Identity(), config["mean"], config["std"], (args.export_img_size,) * 2).to(device)
    calibrate_batchnorm(model, (normalise(batch["views"][:, 0].to(device)) for batch in loader))


def knn_figures(args, stage: str, source, val, student, teacher, accelerator: Accelerator) -> dict[str, float]:
    """Fractions `knn_pixels`, `knn_untrained`, `knn_teacher` (if there is one), `knn_student`; top-1, k 20, T 0.07.

    Larger sets are cut to a seeded subset of 50,000 training and 10,000 validation images, which `knn_images` states.
    """
    if val is None:
        return {}
    device = accelerator.device
    sets = at_most(args, source, val, BANK, QUERIES)
    config = export_config(args, student)
    figures = {"knn_images": [len(split) for split in sets]}

    def knn(name, features_of, transform):
        features = []
        for split in sets:
            bar = tqdm(total=len(split), desc=f"kNN {name}", unit="img", leave=False, dynamic_ncols=True)
            features.extend(features_of(eval_loader(split, transform, 256, workers=args.workers), bar.update))
            bar.close()
        figures[f"knn_{name}"] = round(knn_accuracy(*features, k=min(20, len(features[0]))), 5)

    def of(model):
        return lambda loader, progress: extract_features(model, loader, device, progress)

    knn("pixels", pixel_features, eval_transform(config, min(args.export_img_size, PIXELS)))
    knn("untrained", of(untrained(args, stage, source, device)), eval_transform(config))
    if teacher is not None:
        side = teacher.size[0]
        # The teacher's own configuration, except where the run gave it another input size.
        own_size = tuple(resolve_model_data_config(teacher.model)["input_size"][-2:]) == tuple(teacher.size)
        knn("teacher", of(teacher.model), eval_transform(teacher.model, None if own_size else side))
    knn("student", of(student), eval_transform(config))
    return figures


def accuracy_during_training(
    args, source, val, student, device: torch.device, tasks: Iterable[str],
) -> dict[str, float]:
    """Top-1 accuracies of the student as it is, fractions, by `tasks` of `knn` and `linear`, on the same small subsets.

    What cannot be measured is left out, with a warning. The student's mode and statistics stay as they are.
    """
    transform = eval_transform(export_config(args, student))
    features, figures = [], {}
    try:
        for split in at_most(args, source, val, SMALL_BANK, SMALL_QUERIES):
            loader = eval_loader(split, transform, 256, workers=args.workers)
            features.extend(extract_features(student, loader, device))
        if "knn" in tasks:
            figures["knn"] = round(knn_accuracy(*features, k=min(20, len(features[0]))), 5)
        if "linear" in tasks:
            figures["linear"] = round(linear_probe(*features)["value"], 5)
    except BurnError as error:
        _logger.warning(f"no {' or '.join(task for task in tasks if task not in figures)} figure: {error}")
    return figures


def export_config(args, student) -> dict:
    """The data configuration that the export will have."""
    return {**student.pretrained_cfg, "input_size": (3, args.export_img_size, args.export_img_size),
            "crop_pct": export_crop_pct(args.export_img_size)}


def at_most(args, source, val, bank: int, queries: int) -> list:
    """Both splits, or seeded subsets of them, no larger than `bank` and `queries`."""
    return [
        random_subset(split, most, args.seed) if len(split) > most else split
        for split, most in ((source, bank), (val, queries))
    ]
