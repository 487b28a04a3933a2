"""Write the golden outputs of a released tag: `python tests/models/golden.py TAG`, for instance
reactnet_a_burn.distill_tiny_imagenet_80_64. Two photos (the digits' scans, coloured and enlarged, which any machine
has) and the network's features, computed in float64, where no sign is close enough to zero to differ between
machines."""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits

import burn_timm  # noqa: F401 - registers the models


def photos(size: int) -> np.ndarray:
    """uint8 [2, 3, size, size]."""
    rng = np.random.default_rng(0)
    scans = torch.tensor(load_digits().images[[3, 8]])[:, None] / 16
    large = torch.nn.functional.interpolate(scans, size, mode="bicubic", align_corners=False).clamp(0, 1).numpy()
    colours = rng.uniform(0.2, 1, (2, 3, 1, 1))
    return np.round(255 * np.clip(large * colours + rng.uniform(0, 0.1, (2, 3, size, size)), 0, 1)).astype(np.uint8)


def features(tag: str, images: np.ndarray) -> np.ndarray:
    """float64 [2, C]: normalised as the tag's configuration says."""
    model = timm.create_model(tag, pretrained=True, num_classes=0).eval().double()
    mean, std = (torch.tensor(model.pretrained_cfg[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        return model((torch.tensor(images).double() / 255 - mean) / std).numpy()


if __name__ == "__main__":
    name = sys.argv[1]
    images = photos(timm.get_pretrained_cfg(name).input_size[-1])
    path = Path(__file__).parent / "golden_outputs" / f"{name}.npz"
    np.savez_compressed(path, images=images, features=features(name, images))
