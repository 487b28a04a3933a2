"""Accuracies where labels are at hand: kNN of pixels, untrained student, teacher, student; and during training."""

import copy
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.data import resolve_model_data_config
from tqdm.auto import tqdm

from ..checkpoints import model_source
from ..data.loader import ViewDataset, eval_loader, make_train_loader, micro_steps_per_epoch, seed_for
from ..data.sources import ImageSource, random_subset
from ..data.views import make_view
from ..errors import BurnError
from ..evals.features import calibrate_batchnorm, eval_transform, extract_features
from ..evals.knn import NEIGHBOURS, knn_accuracy
from ..evals.linear import linear_probe
from ..nn import Backbone
from .build import backbone_at, build_student
from .centre import centre
from .data import Data
from .export import export_config
from .options import Options

_logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 4096
# At most so many training and validation images; the small ones are of a figure during training.
MOST_IMAGES, SMALL_MOST_IMAGES = (50_000, 10_000), (10_000, 2_000)
PIXELS = 64  # on a side, at most, where raw pixels are compared


def untrained(options: Options, stage: str, images: ImageSource, device: torch.device) -> torch.nn.Module:
    """The run's initial network in the bits of `stage`, its BatchNorm statistics re-estimated on training views,
    its features centred as those of an export are."""
    model = build_student(options, stage, seed_for(options.seed, 0)).to(device)
    side = options.export_img_size
    view = options.view if isinstance(options.view, str) else options.view[0]
    batch_size = min(128, len(images))
    steps = min(max(1, CALIBRATION_IMAGES // batch_size), micro_steps_per_epoch(len(images), batch_size, 1))
    views = {"views": [make_view(view, side, options.hflip, options.train_interpolation)]}
    loader = make_train_loader(
        ViewDataset(images, views, seed_for(options.seed, 0xCA11)), batch_size=batch_size, micro_steps_per_epoch=steps,
        total_micro_steps=steps, workers=options.workers,
    )
    normalise = backbone_at(torch.nn.Identity(), resolve_model_data_config(model), side).to(device)
    calibrate_batchnorm(model, (normalise(batch["views"][:, 0].to(device)) for batch in loader))
    centre(model, options, images, device)
    return model


def knn_figures(
    options: Options, data: Data, student: torch.nn.Module, teacher: Backbone | None, device: torch.device,
) -> dict[str, Any]:
    """Fractions `knn_pixels`, `knn_untrained`, `knn_teacher`, `knn_student`; top-1. `knn_untrained` is left out of
    a run that began with trained weights, `knn_teacher` where no teacher gives features.

    Larger sets are cut to a seeded subset of 50,000 training and 10,000 validation images, which `knn_images` states.
    Empty where there are no labels.
    """
    if data.val is None:
        return {}
    splits = at_most(options, data, MOST_IMAGES)
    config = export_config(options, student)
    figures: dict[str, Any] = {"knn_images": [len(split) for split in splits]}

    def measure(name: str, model: torch.nn.Module, model_or_config: Any, side: int | None = None) -> None:
        transform = eval_transform(model_or_config, side)
        features = features_of(model, splits, transform, options, device, title=f"kNN {name}")
        figures[f"knn_{name}"] = top1_by_knn(features)

    measure("pixels", torch.nn.Flatten(), config, min(options.export_img_size, PIXELS))
    if not (options.initial_checkpoint or model_source(options.model)[0]):  # else it began trained
        measure("untrained", untrained(options, options.stages[-1], data.train, device), config)
    if teacher is not None and options.teacher_output == "features":
        # The teacher's own configuration, except where the run gave it another input size.
        own_size = tuple(resolve_model_data_config(teacher.model)["input_size"][-2:]) == tuple(teacher.size)
        measure("teacher", teacher.model, teacher.model, None if own_size else teacher.size[0])
    measure("student", student, config)
    return figures


def accuracy_during_training(
    options: Options, data: Data, student: torch.nn.Module, device: torch.device, tasks: Iterable[str],
) -> dict[str, float]:
    """Top-1 accuracies, fractions, by `tasks` of `knn` and `linear`, of what would be exported now, on the same small
    subsets.

    What cannot be measured is left out, with a warning. The student stays as it is.
    """
    splits, transform = at_most(options, data, SMALL_MOST_IMAGES), eval_transform(export_config(options, student))
    figures = {}
    student = copy.deepcopy(student).eval()
    try:
        centre(student, options, data.train, device)
        features = features_of(student, splits, transform, options, device)
        if "knn" in tasks:
            figures["knn"] = top1_by_knn(features)
        if "linear" in tasks:
            figures["linear"] = round(linear_probe(*features)["value"], 5)
    except BurnError as error:
        _logger.warning(f"no {' or '.join(task for task in tasks if task not in figures)} figure: {error}")
    return figures


def features_of(
    model: torch.nn.Module, splits: list[ImageSource], transform: Callable, options: Options, device: torch.device,
    title: str | None = None,
) -> list[torch.Tensor]:
    """Features and labels of the images of each split; with `title` under a progress bar."""
    found: list[torch.Tensor] = []
    for split in splits:
        loader = eval_loader(split, transform, 256, workers=options.workers)
        with tqdm(total=len(split), desc=title, unit="img", leave=False, dynamic_ncols=True, disable=not title) as bar:
            found.extend(extract_features(model, loader, device, bar.update))
    return found


def top1_by_knn(features: list[torch.Tensor]) -> float:
    """Args: features and labels of the training images, then those of the validation images."""
    return round(knn_accuracy(*features, k=min(NEIGHBOURS, len(features[0]))), 5)


def at_most(options: Options, data: Data, most: tuple[int, int]) -> list[ImageSource]:
    """Training and validation images, or seeded subsets of them where there are more than `most`."""
    return [
        random_subset(split, count, options.seed) if len(split) > count else split
        for split, count in zip((data.train, data.val), most, strict=True)
    ]
