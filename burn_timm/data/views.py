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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import default_collate
from torchvision.transforms import v2

from burn_timm.data import colour
from burn_timm.errors import BurnError

View = Callable[[Image.Image], torch.Tensor]
Views = View | Sequence[View]  # one for all views, or one for each

_SMALLEST_BLURRED = 24  # px
DEFAULT_INTERPOLATION = "bicubic"
INTERPOLATIONS = (DEFAULT_INTERPOLATION, "bilinear")
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
    interpolation: str = DEFAULT_INTERPOLATION  # of the crop


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


@dataclass(frozen=True)
class Drawn:
    """The random choices of one view, apart from RandAugment's."""

    crop: tuple[int, int, int, int]  # top, left, height, width
    order: tuple[int, ...]  # of the colour operations that change anything, as indices into `jitter`; () without jitter
    jitter: tuple[float, float, float, float]  # factors of brightness, contrast and saturation; hue's shift in circles
    grey: bool
    sigma: float  # of the blur in pixels, 0 for none
    solarise: bool
    flip: bool

    def numbers(self) -> list[float]:
        """The same as 16 numbers: crop (4), order (4, filled up with -1), jitter (4), grey, sigma, solarise, flip."""
        order = (*self.order, -1, -1, -1, -1)[:4]
        return [*self.crop, *order, *self.jitter, self.grey, self.sigma, self.solarise, self.flip]


class RandomView:
    """PIL RGB image -> uint8 [3, S, S]: resized crop, RandAugment, jitter, grey, blur, solarise, flip.

    Without RandAugment, `apply(image, draw(image))` is the same; `device_views.py` applies what is drawn to batches.
    """

    def __init__(self, settings: ViewSettings, img_size: int, flip_p: float | None = None) -> None:
        self.settings = settings
        self.img_size = img_size
        self.crop = v2.RandomResizedCrop(
            img_size, settings.scale, settings.ratio, interpolation=v2.InterpolationMode(settings.interpolation)
        )
        self.rand_augment = v2.RandAugment(settings.rand_augment) if settings.rand_augment else None
        self.flip_p = settings.flip_p if flip_p is None else flip_p
        self.blur_p = settings.blur_p if img_size >= _SMALLEST_BLURRED else 0.0
        self.most_sigma = min(_MOST_SIGMA, img_size / 60)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        crop = self._draw_crop(image)
        image = self.cropped(image, crop)
        if self.rand_augment is not None:
            image = self.rand_augment(image)
        return self._coloured(image, self._draw_rest(crop))

    def draw(self, image: Image.Image) -> Drawn:
        """What `__call__` would do with an image of this size; takes the same numbers from torch's generator."""
        return self._draw_rest(self._draw_crop(image))

    def apply(self, image: Image.Image, drawn: Drawn) -> torch.Tensor:
        """The view uint8 [3, S, S] that was drawn for `image`."""
        return self._coloured(self.cropped(image, drawn.crop), drawn)

    def cropped(self, image: Image.Image, crop: tuple[int, int, int, int]) -> Image.Image:
        """The crop (top, left, height, width), resized to S x S."""
        return self.crop.transform(image, dict(zip(("top", "left", "height", "width"), crop, strict=True)))

    def _draw_crop(self, image: Image.Image) -> tuple[int, int, int, int]:
        where = self.crop.make_params([image])
        return where["top"], where["left"], where["height"], where["width"]

    def _draw_rest(self, crop: tuple[int, int, int, int]) -> Drawn:
        settings = self.settings
        # One draw for all decisions, used or not: four coins, the strength of the blur, four strengths of jitter.
        flip, jitter, grey, blur, sigma, *strengths = torch.rand(9).tolist()
        solarise = settings.solarize_p > 0 and float(torch.rand(())) < settings.solarize_p
        order = torch.randperm(4).tolist() if jitter < settings.jitter_p else []
        shifts = [(2 * strength - 1) * most for strength, most in zip(strengths, settings.jitter, strict=True)]
        return Drawn(
            crop=crop,
            order=tuple(which for which in order if settings.jitter[which]),
            jitter=(1 + shifts[0], 1 + shifts[1], 1 + shifts[2], shifts[3]),
            grey=grey < settings.grey_p,
            sigma=_LEAST_SIGMA + sigma * (self.most_sigma - _LEAST_SIGMA) if blur < self.blur_p else 0.0,
            solarise=solarise,
            flip=flip < self.flip_p,
        )

    def _coloured(self, image: Image.Image, drawn: Drawn) -> torch.Tensor:
        pixels = np.asarray(image)
        if drawn.order:
            pixels = _jittered(pixels, drawn)
        if drawn.grey:
            pixels = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
        if drawn.sigma:
            pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(drawn.sigma)))
        if drawn.solarise:
            pixels = np.where(pixels < 128, pixels, 255 - pixels)
        if drawn.flip:
            pixels = pixels[:, ::-1]
        return as_tensor(pixels)


def as_tensor(pixels: Image.Image | np.ndarray) -> torch.Tensor:
    """An RGB image, or uint8 [H, W, 3] -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(np.asarray(pixels).transpose(2, 0, 1), order="C"))


def _jittered(pixels: np.ndarray, drawn: Drawn) -> np.ndarray:
    """uint8 [H, W, 3] -> the same."""
    x = np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C")
    x *= np.float32(1 / 255)
    for which in drawn.order:
        (colour.brightness, colour.contrast, colour.saturation, colour.hue)[which](x, drawn.jitter[which])
    x *= 255
    np.rint(x, out=x)
    return np.ascontiguousarray(x.transpose(1, 2, 0), dtype=np.uint8)


def make_view(name: str, img_size: int, flip_p: float | None = None, interpolation: str | None = None):
    """Return the view `name` of `VIEWS`: a picklable callable, PIL RGB image -> uint8 [3, img_size, img_size].

    `flip_p` is the probability of the mirror image, `interpolation` one of `INTERPOLATIONS`; None for the setting's
    own. A `flip_p` of 0 suits digits. Raises BurnError for an unknown name or a size below 1.
    """
    if name not in VIEWS:
        raise BurnError(f"--view {name}: unknown; choose from {', '.join(VIEWS)}")
    if img_size < 1:
        raise BurnError(f"--img-size {img_size}: must be at least 1 px")
    settings = VIEWS[name]
    if settings is None:
        mode = v2.InterpolationMode(interpolation or DEFAULT_INTERPOLATION)
        return v2.Compose(
            [
                v2.Resize(img_size, interpolation=mode, antialias=True),
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


def view_groups(view: Views, n_views: int, small_view: View | None, n_small_views: int) -> dict[str, list[View]]:
    """The views of an image, by the key of the batch in which they are stacked."""
    views = [view] * n_views if callable(view) else list(view)
    if len(views) != n_views:
        raise ValueError(f"{len(views)} views given, {n_views} wanted")
    groups = {"views": views}
    if n_small_views:
        groups["small_views"] = [small_view] * n_small_views
    return groups


def made_views(groups: dict[str, list[View]], image: Image.Image) -> dict[str, torch.Tensor]:
    """The views of an image, uint8 [V, 3, H, W] of each group."""
    return {key: torch.stack([view(image) for view in views]) for key, views in groups.items()}


def collate_views(items: list[dict]) -> dict[str, torch.Tensor]:
    """A batch of items as `ViewDataset` gives them: stacked, but `corrupt` joined."""
    batch = default_collate([{key: value for key, value in item.items() if key != "corrupt"} for item in items])
    return {**batch, "corrupt": torch.cat([item["corrupt"] for item in items])}
