"""Training on augmented views: linear evaluation as published, and the batches that fine-tuning uses too."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from tqdm import tqdm

from ..data import CorruptLog, ImageSource, ViewDataset, make_train_loader, make_view, seed_for
from ..errors import BurnError
from ..nn import Backbone
from . import linear
from .features import check_features
from .inputs import hold_out

# Random resized crop and mirror image, as BURN's and MoCo's linear evaluation have them.
VIEW, INTERPOLATION = "supervised", "bilinear"


def epochs_of_views(
    source: ImageSource, view: Callable, *, epochs: int, batch_size: int, seed: int, workers: int,
    device: torch.device, title: str | None = None,
) -> Iterable[Iterator[tuple[Tensor, Tensor]]]:
    """For each epoch its batches on `device`: views uint8 [B, 3, H, W], labels int64 [B].

    An epoch has every image; its last batch may be smaller. With `title` a progress bar shows the steps.
    """
    steps = math.ceil(len(source) / batch_size)
    corrupt = CorruptLog(len(source))
    loader = make_train_loader(
        ViewDataset(source, {"views": [view]}, seed), batch_size=batch_size, micro_steps_per_epoch=steps,
        total_micro_steps=epochs * steps, workers=workers,
    )
    bar = tqdm(total=epochs * steps, desc=title, unit=" steps", disable=title is None)

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in itertools.islice(loader, steps):
            corrupt.add(batch["corrupt"], source)
            yield batch["views"][:, 0].to(device), batch["target"].to(device)
            bar.update()

    return (epoch() for _ in range(epochs))


def augmented_probe(
    model: nn.Module, source: ImageSource, test: tuple[Tensor, Tensor], settings: linear.Settings, *,
    features_of: Callable[[ImageSource, str], tuple[Tensor, Tensor]], img_size: int, device: torch.device, workers: int,
) -> dict:
    """`linear.linear_probe` on augmented views.

    Args:
        model: gives pooled features; on `device`.
        source: the training images. A tenth of them is held out to choose the learning rate, if there are several.
        test: features float [M, D] and labels int64 [M].
        features_of: gives features and labels of images, those that can be read; the text is for a progress bar.
        img_size: side of the views in pixels.

    Raises:
        BurnError: too few images, images that cannot be read, or other classes in the test set.
    """
    linear.require_images(len(source))
    if source.num_classes is None or int(test[1].max()) >= source.num_classes:
        raise BurnError("--augment: training and test images do not have the same classes")
    held_out, rest = hold_out(source, settings.seed)
    # With one learning rate there is nothing to choose: no image is held out, and `test` is not looked at.
    held_out_features = features_of(held_out, "held-out") if len(settings.lrs) > 1 else test
    check_features(*held_out_features, *test)
    view = make_view(VIEW, img_size, settings.mirror_probability, INTERPOLATION)
    config = resolve_model_data_config(model)
    frozen = Backbone(model, config["mean"], config["std"]).to(device).eval()

    def train_on(part: ImageSource | slice):
        images = source if isinstance(part, slice) else part
        epochs = epochs_of_views(
            images, view, epochs=settings.epochs, batch_size=settings.sgd_batch_size,
            seed=seed_for(settings.seed, len(images)), workers=workers, device=device,
            title="linear probe",
        )

        def features(batches):
            for views, labels in batches:
                with torch.no_grad():
                    x = frozen(views).float()
                yield x, labels

        return (features(batches) for batches in epochs), lambda other: other

    return linear.choose_and_test(
        train_on, rest, tuple(part.to(device) for part in held_out_features), tuple(part.to(device) for part in test),
        source.num_classes, settings,
    )
