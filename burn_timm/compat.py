"""Every private or version-dependent corner of timm, torch and accelerate that we touch, each a function of its own.

`tests/test_compat.py` has a test for each: when an upgrade breaks one, the test says which, and what to do.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models._features import feature_take_indices as feature_take_indices

# timm: models and their registry ------------------------------------------------------------------------------------

# Also `feature_take_indices`, above: which stages a call of forward_intermediates asks for.


# timm: dataset readers ----------------------------------------------------------------------------------------------


def wds_split(dataset) -> Any:
    """Of timm's dataset of shards: `num_samples`, `filenames` and `alt_label` (a field of the JSON, '' for none)."""
    return dataset.reader.split_info


def wds_share(dataset, rank: int, world_size: int) -> None:
    """Make timm's dataset of shards read the share of process `rank`, whatever torch.distributed says."""
    dataset.reader.dist_rank = rank
    dataset.reader.dist_num_replicas = world_size


def wds_decoder(dataset, decode: Callable[[dict], dict]) -> None:
    """Put `decode` (sample -> {"image": ..., "target": ...}) in place of timm's own decoder of samples.

    timm builds its pipeline at the first pass, in the process that reads; the last two stages are its decoder and a
    renaming of what that returns. A sample for which `decode` raises an error is left out with a warning, as in timm.
    """
    import webdataset
    from timm.data.readers.reader_wds import log_and_continue

    reader = dataset.reader
    if reader.ds is None:
        reader._lazy_init()
        reader.ds.pipeline[-2:] = [webdataset.map(decode, handler=log_and_continue)]


def wds_own_epoch(dataset) -> None:
    """Give timm's dataset of shards an epoch counter of its own: timm shares one between workers, and these do not turn
    over together."""
    dataset.reader.epoch_count = type(dataset.reader.epoch_count)()


def torchvision_targets(dataset) -> np.ndarray:
    """The classes of all images of a torchvision dataset, int64 [N]: most have `targets`, INaturalist an index of
    (class, file), and QMNIST's targets have the class in the first of eight columns."""
    known = getattr(dataset, "targets", None)
    if known is None:
        known = [category for category, _ in dataset.index]
    known = np.asarray(known, dtype=np.int64)
    return known if known.ndim == 1 else known[:, 0]


# torch: modules and state dicts -------------------------------------------------------------------------------------


# torch: optimisers and operators ------------------------------------------------------------------------------------


def convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x `[B, I, H, W]` and weight `[O, I, k, k]` of `F.conv2d(x, weight, None, stride, padding)`.

    ATen's own operator, which no function of torch's interface calls for both at once.
    """
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, True, False],
    )[:2]


# torch: reading and exporting files ---------------------------------------------------------------------------------


def export_onnx(network: torch.nn.Module, path: Path, images: torch.Tensor, names: Sequence[str], opset: int) -> None:
    """Write an ONNX file with the input `images` and outputs of these names, all of fixed shape.

    Through torch's TorchScript exporter (`dynamo=False`): it needs no package but onnx, and works since torch 2.6.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, and shapes that become constants, as they shall
        torch.onnx.export(
            network, (images,), str(path), input_names=["images"], output_names=list(names), opset_version=opset,
            dynamo=False,
        )


# accelerate ---------------------------------------------------------------------------------------------------------
