"""Views: random crops and colours of one image, as uint8 tensors.

`VIEWS` holds the published settings; `make_view` turns one into a callable, PIL RGB image -> uint8 [3, S, S].
All randomness comes from torch's default generator, so that seeding it determines the view. The crop is torchvision's;
the colours are in `colour.py`.

Blur: MoCo v2 blurs with sigma 0.1 to 2 at 224 px. Here, as in SimCLR, the Gaussian (3 sigma to each side) must fit in a
tenth of the image's side, so sigma ends at min(2, side / 60): 2 px from 120 px on, 1.07 at 64, 0.53 at 32. Below 24 px
there is no blur: the image has nothing finer to lose.

Crops are resized bicubically, as BURN's, BYOL's and SimCLR's are. DEVIATION: MoCo v2, S2-BNN, SwAV, InfoMin and the
usual supervised training resize bilinearly (torchvision's default). So does `moco_original`; for the others, with which
figures of ours were measured, `interpolation` says it, as the recipes for ImageNet do.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from burn_timm.data import colour
from burn_timm.errors import BurnError

_SMALLEST_BLURRED = 24  # px
INTERPOLATIONS = ("bicubic", "bilinear")
_LEAST_SIGMA, _MOST_SIGMA = 0.1, 2.0  # px, MoCo v2


@dataclass(frozen=True)
class ViewSettings:
    """One recipe; `jitter` is torchvision's (brightness, contrast, saturation, hue), `*_p` are probabilities."""

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grey_p: float = 0.0
    blur_p: float = 0.0
    solarize_p: float = 0.0
    rand_augment: int = 0  # operations of RandAugment (arXiv 1909.13719), at torchvision's magnitude 9 of 30
    interpolation: str = "bicubic"  # of the crop


VIEWS: dict[str, ViewSettings | None] = {
    # The released BURN code's setting (MoCo v2 as tuned for binary networks by S2-BNN, with a wider crop).
    "burn": ViewSettings((0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.6, grey_p=0.2, blur_p=0.2),
    # S2-BNN's tuned MoCo v2 (arXiv 2102.08946).
    "moco": ViewSettings((0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.6, grey_p=0.2, blur_p=0.2),
    # MoCo v2's own (arXiv 2003.04297).
    "moco_original": ViewSettings(
        (0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.5, interpolation="bilinear",
    ),
    # SimCLR (arXiv 2002.05709, appendix A), colour strength 1.
    "simclr": ViewSettings((0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, grey_p=0.2, blur_p=0.5),
    # BYOL's two views (arXiv 2006.07733, table 6): one is always blurred, the other seldom, but solarised.
    "byol1": ViewSettings((0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=1.0),
    "byol2": ViewSettings(
        (0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.1, solarize_p=0.2,
    ),
    # SwAV's multi-crop (arXiv 2006.09882, appendix): large and small crops, SimCLR's colours.
    "swav": ViewSettings((0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, grey_p=0.2, blur_p=0.5),
    "swav_small": ViewSettings((0.05, 0.14), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, grey_p=0.2, blur_p=0.5),
    # InfoMin (arXiv 2005.10243, appendix): MoCo v2's crops, SimCLR's colours, RandAugment with two operations.
    # DEVIATION: it comes first and at magnitude 9; published: after jitter and blur, at 10 with a deviation of 0.5.
    "infomin": ViewSettings(
        (0.2, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, grey_p=0.2, blur_p=0.5, rand_augment=2,
    ),
    # ImageNet's usual supervised training.
    "supervised": ViewSettings((0.08, 1.0)),
    # For digits and other tiny images, where a small crop leaves nothing to recognise.
    "light": ViewSettings((0.6, 1.0), ratio=(0.8, 1.25), jitter=(0.2, 0.2, 0.2, 0.0), jitter_p=0.8),
    # Resize and centre crop: no randomness.
    "none": None,
}


class RandomView:
    """PIL RGB image -> uint8 [3, S, S]: resized crop, RandAugment, jitter, grey, blur, solarise, flip."""

    def __init__(self, settings: ViewSettings, img_size: int, flip_p: float | None = None) -> None:
        self.settings = settings
        self.crop = v2.RandomResizedCrop(
            img_size, settings.scale, settings.ratio, interpolation=v2.InterpolationMode(settings.interpolation)
        )
        self.rand_augment = v2.RandAugment(settings.rand_augment) if settings.rand_augment else None
        self.flip_p = settings.flip_p if flip_p is None else flip_p
        self.blur_p = settings.blur_p if img_size >= _SMALLEST_BLURRED else 0.0
        self.most_sigma = min(_MOST_SIGMA, img_size / 60)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        settings = self.settings
        image = self.crop(image)
        if self.rand_augment is not None:
            image = self.rand_augment(image)
        pixels = np.asarray(image)
        # One draw for all decisions, used or not: four coins, the strength of the blur, four strengths of jitter.
        flip, jitter, grey, blur, sigma, *strengths = torch.rand(9).tolist()
        solarise = settings.solarize_p > 0 and float(torch.rand(())) < settings.solarize_p
        if jitter < settings.jitter_p:
            pixels = self._jitter(pixels, strengths)
        if grey < settings.grey_p:
            pixels = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
        if blur < self.blur_p:
            sigma = _LEAST_SIGMA + sigma * (self.most_sigma - _LEAST_SIGMA)
            pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))
        if solarise:
            pixels = np.where(pixels < 128, pixels, 255 - pixels)
        if flip < self.flip_p:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))

    def _jitter(self, pixels: np.ndarray, strengths: list[float]) -> np.ndarray:
        """uint8 [H, W, 3] -> the same; `strengths` are four uniform numbers in [0, 1)."""
        x = np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C")
        x *= np.float32(1 / 255)
        for which in torch.randperm(4).tolist():
            most = self.settings.jitter[which]
            if most == 0:
                continue
            shift = (2 * strengths[which] - 1) * most
            if which == 3:
                colour.hue(x, shift)
            else:
                (colour.brightness, colour.contrast, colour.saturation)[which](x, 1 + shift)
        x *= 255
        np.rint(x, out=x)
        return np.ascontiguousarray(x.transpose(1, 2, 0), dtype=np.uint8)


def make_view(name: str, img_size: int, flip_p: float | None = None, interpolation: str | None = None):
    """Return the view `name` of `VIEWS`: a picklable callable, PIL RGB image -> uint8 [3, img_size, img_size].

    `flip_p` is the probability of the mirror image, `interpolation` one of `INTERPOLATIONS`; None for the setting's
    own. A `flip_p` of 0 suits digits. Raises BurnError for an unknown name or a size below 1.
    """
    if name not in VIEWS:
        raise BurnError(f"--views {name}: unknown; choose from {', '.join(VIEWS)}")
    if img_size < 1:
        raise BurnError(f"--img-size {img_size}: must be at least 1 px")
    settings = VIEWS[name]
    if settings is None:
        return v2.Compose(
            [
                v2.Resize(img_size, interpolation=v2.InterpolationMode(interpolation or "bicubic"), antialias=True),
                v2.CenterCrop(img_size),
                v2.PILToTensor(),
                torch.Tensor.contiguous,
            ]
        )
    if interpolation is not None:
        settings = replace(settings, interpolation=interpolation)
    return RandomView(settings, img_size, flip_p)


def make_views(
    names: str | tuple[str, ...], img_size: int, flip_p: float | None = None, interpolation: str | None = None,
):
    """The views of one image: `make_view` of the one name for all, or a tuple with the view of each name."""
    if isinstance(names, str):
        return make_view(names, img_size, flip_p, interpolation)
    return tuple(make_view(name, img_size, flip_p, interpolation) for name in names)
