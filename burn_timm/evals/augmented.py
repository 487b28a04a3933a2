"""Linear evaluation as published: the frozen backbone sees new crops and mirror images in every epoch."""

from collections.abc import Iterable

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from tqdm import tqdm

from ..data import ImageSource, make_train_loader, make_view, micro_steps_per_epoch, random_subset, seed_for
from ..data.corrupt import CorruptLog
from ..errors import BurnError
from ..nn import Backbone
from . import linear
from .features import check_features
from .probes import Batches

# Random resized crop and mirror image, as for ImageNet. DEVIATION: resized bicubically; BURN's and MoCo's linear
# evaluation resize bilinearly.
VIEW = "supervised"


def augmented_probe(
    model: nn.Module, source: ImageSource, held: list[int], held_features: Tensor, held_labels: Tensor,
    test_features: Tensor, test_labels: Tensor, *, img_size: int, device: torch.device, workers: int,
    hflip: float = 0.5, **settings,
) -> dict:
    """`linear.linear_probe` on augmented views.

    Args:
        model: gives pooled features; on `device`.
        source: the training images.
        held: indices of the images of `source` on which the rate is chosen; none where there is one rate.
        held_features, held_labels: float [H, D], int64 [H], of those of them that could be read.
        test_features, test_labels: float [M, D], int64 [M].
        img_size: side of the views in pixels.
        settings: of `linear.Settings`.

    Raises:
        BurnError: a setting that cannot be followed, or images that cannot be read.
    """
    settings = linear.Settings(**settings)
    settings.check(len(source))
    if len(held_features):
        check_features(held_features, held_labels, test_features, test_labels)
    excluded = set(held)
    rest = [index for index in range(len(source)) if index not in excluded]
    view = make_view(VIEW, img_size, hflip)
    config = resolve_model_data_config(model)
    frozen = Backbone(model, config["mean"], config["std"]).to(device).eval()
    epochs = settings.epochs

    def part(which: list[int] | slice, *others: Tensor) -> tuple[Iterable[Batches], list[Tensor]]:
        images = source if isinstance(which, slice) else source.subset(which)
        size = min(settings.batch_size, len(images))
        per_epoch = micro_steps_per_epoch(len(images), size, 1)
        corrupt = CorruptLog(len(images))
        loader = iter(make_train_loader(
            images, view, n_views=1, batch_size=size, seed=seed_for(settings.seed, len(images)), rank=0, world_size=1,
            start_micro_step=0, micro_steps_per_epoch=per_epoch, total_micro_steps=epochs * per_epoch, workers=workers,
        ))
        bar = tqdm(total=epochs * per_epoch, desc="linear probe", unit=" steps")

        def batches() -> Batches:
            for _ in range(per_epoch):
                batch = next(loader)
                corrupt.add(batch["corrupt"], images)
                with torch.no_grad():
                    features = frozen(batch["views"][:, 0].to(device)).float()
                yield features, batch["target"].to(device)
                bar.update()

        return (batches() for _ in range(epochs)), list(others)

    most = int(test_labels.max())
    if source.num_classes is None or most >= source.num_classes:
        raise BurnError("--augment: training and test images do not have the same classes")
    return linear.choose_and_test(
        part, rest, (held_features.to(device), held_labels.to(device)),
        (test_features.to(device), test_labels.to(device)), source.num_classes, settings,
    )


def held_out(source: ImageSource, seed: int) -> tuple[ImageSource, list[int]]:
    """A seeded tenth of the training images, on which the learning rate is chosen, and their indices."""
    count = max(1, round(linear.HOLD_OUT * len(source)))
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:count]
    return random_subset(source, count, seed), chosen.sort().values.tolist()
