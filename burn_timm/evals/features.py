"""Frozen features of a backbone over a dataset, the transform that goes with it, and BatchNorm re-estimation."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import BurnError
from ..nn.batchnorm import averaged_statistics

Batches = Iterable[tuple[Tensor, Tensor]]


def eval_transform(model_or_cfg: nn.Module | dict, img_size: int | None = None) -> Callable:
    """timm's evaluation transform (PIL image -> float32 [C, H, W]) of `data_config`."""
    return create_transform(**data_config(model_or_cfg, img_size), is_training=False)


def data_config(model_or_cfg: nn.Module | dict, img_size: int | None = None) -> dict:
    """A timm model's own data config, or a dict's with timm's defaults for what is missing, at `img_size` if given.

    Raises:
        BurnError: the model does not take RGB images.
    """
    if isinstance(model_or_cfg, nn.Module):
        config = resolve_model_data_config(model_or_cfg)
    else:
        config = resolve_data_config({"img_size": None}, pretrained_cfg=model_or_cfg)
    channels = config["input_size"][0]
    if channels != 3:
        raise BurnError(f"the model takes {channels} input channels; the evaluations feed RGB images (3 channels)")
    if img_size is not None:
        config["input_size"] = (channels, img_size, img_size)
    return config


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode inside the block; give each its own former mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def extract_features(
    model: nn.Module,
    loader: Batches,
    device: str | torch.device = "cpu",
    progress: Callable[[int], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pooled features of every image: (float32 [N, D], int64 labels [N]), both on the CPU, in the loader's order.

    Args:
        model: with pooled outputs, [B, D]. It is moved to `device`; its modules keep their modes.
        progress: called with the number of images of each batch that is done, e.g. `tqdm.update`.

    Raises:
        BurnError: the loader is empty, or the output is not [B, D].
    """
    model.to(device)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    features, labels = [], []
    with eval_mode(model):
        for images, targets in loader:
            output = model(images.to(device=device, dtype=dtype, non_blocking=True))
            if not isinstance(output, Tensor) or output.ndim != 2:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise BurnError(f"the model's output is {shape}, not [B, D]: build it with num_classes=0 and pooling")
            features.append(output.float().cpu())
            labels.append(torch.as_tensor(targets, dtype=torch.int64).cpu())
            if progress is not None:
                progress(len(images))
    if not features:
        raise BurnError("no image to evaluate: the loader gave no batch; check the split and the limits")
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def calibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Re-estimate the statistics of every BatchNorm as `averaged_statistics` does; returns the number of layers.

    Each batch is normalised by its own statistics on its way through; all other modules are in eval mode. Modes,
    momenta and weights are afterwards what they were.

    Raises:
        BurnError: no batch (the statistics are then untouched), or a batch of a single image.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise BurnError("BatchNorm calibration got no batch: give at least one batch of training images")
    if not norms:
        return 0
    parameter = next(model.parameters())
    with eval_mode(model), averaged_statistics(norms):
        for norm in norms:
            norm.train()
        for batch in itertools.chain([first], batches):
            if len(batch) < 2:
                raise BurnError("BatchNorm calibration needs batches of at least two images, got one of a single")
            model(batch.to(device=parameter.device, dtype=parameter.dtype))
    return len(norms)


def check_features(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, multi_label: bool = False,
) -> None:
    """Raise BurnError, naming the set, for what no task can score: shapes that do not fit each other, images without
    label, features that are not finite.

    Args:
        multi_label: the labels are matrices [N, C] of 1, 0 ("difficult") and -1, not classes [N].
    """
    _check_set("training", train_features, train_labels, multi_label)
    _check_set("test", test_features, test_labels, multi_label)
    widths = {"features differ in size": (train_features.shape[1], test_features.shape[1])}
    if multi_label:
        widths["labels differ in classes"] = train_labels.shape[1], test_labels.shape[1]
    for what, (train, test) in widths.items():
        if train != test:
            raise BurnError(f"{what}: {train} (training), {test} (test); use one model and the same classes for both")


def _check_set(name: str, x: Tensor, y: Tensor, multi_label: bool) -> None:
    if x.ndim != 2 or y.ndim != 1 + multi_label or len(x) != len(y) or len(x) == 0:
        expected = f"features [N, D] and labels {'[N, C]' if multi_label else '[N]'}"
        raise BurnError(f"{name} set: expected {expected}, got {tuple(x.shape)} and {tuple(y.shape)}")
    if multi_label and not ((y == 1) | (y == 0) | (y == -1)).all():
        raise BurnError(f"{name} set: a matrix of labels holds 1, 0 and -1 only; this one holds other values")
    if not multi_label and (unlabelled := int((y < 0).sum())):
        raise BurnError(f"{name} set: {unlabelled} of {len(y)} images have no label; choose a labelled split")
    if bad := int((~torch.isfinite(x)).any(1).sum()):
        raise BurnError(f"{name} set: the features of {bad} of {len(x)} images are not finite; check the weights")
