"""Views of a whole batch at once on the device: what `RandomView` draws for each image, applied in torch.

The random choices are `RandomView.draw`'s own, made where the images are read, so the distribution is that of
`views.py` by construction, and a batch is as reproducible as there. Every operation repeats Pillow's or `colour.py`'s
arithmetic, its intermediate roundings to 8 bits included, in float32: a view is the one of `RandomView.apply` except
where a sum lies so near to a half that the order of summation decides (the tests state how often). DEVIATION (Pillow
13): a crop that shrinks more in height than in width is resized along the height first there; here, as in earlier
Pillows, along the width always. The rounding in between then moves some pixels by a level, seldom three.

No library does this: torchvision's transforms apply one draw to a whole batch, and image by image on a GPU they are no
faster than a CPU core; kornia draws the order of the jitter once a batch and shrinks crops without antialiasing.

Nothing waits for the device: which images an operation is for is read from the numbers on the CPU.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from burn_timm.data.views import RandomView, View, Views, collate_views, view_groups
from burn_timm.errors import BurnError

# Columns of `Drawn.numbers()`.
_CROP, _ORDER, _JITTER = slice(0, 4), slice(4, 8), slice(8, 12)
_GREY, _SIGMA, _SOLARISE, _FLIP = 12, 13, 14, 15
_LUMA = (0.2989, 0.587, 0.114)  # of colour.py
_LUMA_PILLOW = (19595.0, 38470.0, 7471.0)  # in 65536ths, as Pillow's convert("L") has it
_LARGEST = 2  # images of up to so many times the view's side are cropped on the device, larger ones in the workers


class DeviceViews:
    """Turns a batch of a loader made with `views_on="device"` into one as `views_on="workers"` gives it.

    Raises BurnError for a view that is not a `RandomView` or has RandAugment.
    """

    def __init__(self, view: Views, n_views: int, small_view: View | None = None, n_small_views: int = 0) -> None:
        self.groups = device_groups(view_groups(view, n_views, small_view, n_small_views))

    def __call__(self, batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """`batch` as `collate_drawn` makes it -> `views` uint8 [B, V, 3, S, S] on `device` (`small_views` likewise),
        and the rest of it as it is."""
        batch = dict(batch)
        images = batch.pop("images", None)
        if images is not None:
            images = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
            images = images.to(torch.float32, memory_format=torch.contiguous_format)
        for key, views in self.groups.items():
            drawn = batch.pop(f"{key}_drawn")
            numbers = drawn.to(device, non_blocking=True)
            crops = batch[key].to(device, non_blocking=True) if images is None else None
            done = []
            for which, view in enumerate(views):
                if images is None:
                    x = crops[:, which].to(torch.float32)
                else:
                    x = cropped(images, drawn[:, which], numbers[:, which], view)
                done.append(coloured(x, drawn[:, which], numbers[:, which]))
            batch[key] = torch.stack(done, 1)
        return batch


def device_groups(groups: dict[str, list]) -> dict[str, list[RandomView]]:
    """`groups` of `view_groups`, if all their views can be made on the device, else BurnError."""
    for view in (view for views in groups.values() for view in views):
        if not isinstance(view, RandomView) or view.rand_augment is not None:
            what = "RandAugment" if isinstance(view, RandomView) else "nothing random"
            raise BurnError(f"--views-on device: a view with {what} is not made there; leave --views-on at workers")
    return groups


def drawn_views(groups: dict[str, list[RandomView]], image: Image.Image) -> dict:
    """In place of `made_views`: the image itself and what was drawn for each of its views."""
    return {"image": image, "drawn": {key: [view.draw(image) for view in views] for key, views in groups.items()}}


def collate_drawn(groups: dict[str, list[RandomView]], items: list[dict]) -> dict[str, torch.Tensor]:
    """What `DeviceViews` takes: `views_drawn` float32 [B, V, 16] (the rows are `Drawn.numbers()`), `images` uint8
    [B, H, W, 3] where these are of one size and not much larger than the view's side, else `views` uint8
    [B, V, 3, S, S], the resized crops with their own colours; `small_views_drawn` and `small_views` likewise; `target`
    and `corrupt` as ever."""
    images, drawn = [item.pop("image") for item in items], [item.pop("drawn") for item in items]
    batch = collate_views(items)
    for key in groups:
        batch[f"{key}_drawn"] = torch.tensor([[one.numbers() for one in of_image[key]] for of_image in drawn])
    sizes = {image.size for image in images}
    if len(sizes) == 1 and max(*sizes.pop()) <= _LARGEST * groups["views"][0].img_size:
        batch["images"] = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        return batch
    for key, views in groups.items():
        crops = [
            np.asarray(view.cropped(image, one.crop))
            for image, of_image in zip(images, drawn, strict=True)
            for view, one in zip(views, of_image[key], strict=True)
        ]
        crops = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        batch[key] = crops.reshape(len(images), len(views), *crops.shape[1:])
    return batch


@torch.no_grad()
def cropped(images: torch.Tensor, drawn: torch.Tensor, numbers: torch.Tensor, view: RandomView) -> torch.Tensor:
    """Levels float32 [B, 3, H, W] -> the crops float32 [B, 3, S, S], resized as Pillow does it.

    `drawn` float32 [B, 16] is on the CPU, `numbers` the same on the device.
    """
    _, _, height, width = drawn[:, _CROP].amax(0).tolist()  # the largest
    top, left, heights, widths = numbers[:, _CROP].unbind(1)
    filters = _FILTERS[view.settings.interpolation]
    columns = _resizing(left, widths, width, images.shape[3], view.img_size, *filters)
    rows = _resizing(top, heights, height, images.shape[2], view.img_size, *filters)
    return _along_height(_along_width(images, columns).clamp_(0, 255), rows).clamp_(0, 255)


@torch.no_grad()
def coloured(x: torch.Tensor, drawn: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Levels float32 [B, 3, S, S], overwritten -> uint8 [B, 3, S, S]: jitter, grey, blur, solarise, flip.

    `drawn` float32 [B, 16] is on the CPU, `numbers` the same on the device.
    """
    order = drawn[:, _ORDER]
    if bool((order >= 0).any()):
        x = x.mul_(1 / 255)
        for position in order.unbind(1):
            for which, operation in enumerate((_brightness, _contrast, _saturation, _hue)):
                amounts = numbers[:, _JITTER][:, which, None, None, None]
                x = _on_some(x, position == which, operation, amounts)
        x = x.mul_(255).round_()
    x = _on_some(x, drawn[:, _GREY] > 0, _grey)
    blurred = drawn[:, _SIGMA] > 0
    if bool(blurred.any()):
        reach = _box(drawn[:, _SIGMA].amax())[1]  # of the widest box in pixels
        x = _on_some(x, blurred, lambda x, sigma: _blurred(x, sigma, int(reach) + 1), numbers[:, _SIGMA])
    x = _on_some(x, drawn[:, _SOLARISE] > 0, lambda x: torch.where(x < 128, x, 255 - x))
    x = _on_some(x, drawn[:, _FLIP] > 0, lambda x: x.flip(-1))
    return x.to(torch.uint8)


def _on_some(x: torch.Tensor, chosen: torch.Tensor, operation: Callable, *each: torch.Tensor) -> torch.Tensor:
    """`x` with `operation(images, *each)` in place of the images that are `chosen` (bool [B], on the CPU)."""
    index = chosen.nonzero().flatten()
    if len(index) == len(x):
        return operation(x, *each)
    if len(index):
        index = index.to(x.device, non_blocking=True)
        picked = [values.index_select(0, index) for values in (x, *each)]
        x.index_copy_(0, index, operation(*picked))
    return x


# Resizing and blur: a matrix for each image and direction. ---------------------------------------------------------


def _along_width(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] and [B, W', W] -> [B, C, H, W'], rounded half up."""
    out = torch.bmm(x.flatten(1, 2), matrices.transpose(1, 2)).add_(0.5).floor_()
    return out.view(*x.shape[:3], -1)


def _along_height(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] and [B, H', H] -> [B, C, H', W], rounded half up."""
    return torch.matmul(matrices[:, None], x).add_(0.5).floor_()


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * -0.5 + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


# The filter and how far it reaches.
_FILTERS = {"bicubic": (_cubic, 2), "bilinear": (lambda distance: (1 - distance).clamp_(min=0), 1)}


def _resizing(start, length, longest: float, full: int, side: int, weight: Callable, reach: int) -> torch.Tensor:
    """Matrices [B, side, full] that resize pixels `start` to `start + length` - 1 ([B] each) of `full` to `side`.

    Pillow's coefficients: the filter, widened where the image shrinks, cut off at the crop's edge and normalised.
    `longest` is the largest length, as a number.
    """
    taps = 2 * math.ceil(reach * max(1.0, longest / side)) + 1
    start, length = start[:, None, None], length[:, None, None]
    scale = length / side
    wide = scale.clamp(min=1)
    centre = (torch.arange(side, device=start.device)[:, None] + 0.5) * scale  # [B, side, 1], from the crop's start
    pixel = torch.floor(centre - reach * wide + 0.5) + torch.arange(taps, device=start.device)  # [B, side, taps]
    inside = (pixel >= 0) & (pixel < length)
    weights = torch.where(inside, weight(((pixel + 0.5 - centre) / wide).abs_()), 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    column = torch.where(inside, pixel + start, full).long()  # one column more than there is takes what lies outside
    return weights.new_zeros(len(weights), side, full + 1).scatter_(2, column, weights)[..., :full]


def _box(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Radius of each of the three boxes in place of a Gaussian of `sigma`, and its whole part (Pillow's formula)."""
    variance = sigma * sigma / 3
    whole = torch.floor((torch.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part, whole


def _blurred(x: torch.Tensor, sigma: torch.Tensor, reach: int) -> torch.Tensor:
    """Three boxes along the rows, then three along the columns, each rounded; the edge pixels go on outside."""
    side = x.shape[-1]
    radius, whole = (values[:, None] for values in _box(sigma))
    steps = torch.arange(-reach, reach + 1, device=x.device)
    inner = 1 / (2 * radius + 1)
    outer = (1 - (2 * whole + 1) * inner) / 2
    weights = torch.where(steps.abs() <= whole, inner, torch.where(steps.abs() == whole + 1, outer, 0.0))
    place = torch.arange(side, device=x.device)
    read = (place + steps[:, None]).clamp_(0, side - 1)  # [steps, side]
    matrices = (weights @ (read[..., None] == place).flatten(1).to(weights.dtype)).view(-1, side, side)
    for along in (_along_width, _along_height):
        for _ in range(3):
            x = along(x, matrices)
    return x


# Colours: as in colour.py, on [B, 3, S, S] in [0, 1]; they may change `x`. -----------------------------------------


def _luma(x: torch.Tensor, weights: tuple[float, float, float]) -> torch.Tensor:
    red, green, blue = x.unbind(1)
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])[:, None]


def _grey(x: torch.Tensor) -> torch.Tensor:
    luma = (_luma(x, _LUMA_PILLOW) + 32768).mul_(1 / 65536).floor_()  # exact: integers below 2**24
    return luma.repeat(1, 3, 1, 1)


def _brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x.mul_(factor).clamp_(0, 1)


def _contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _away_from(x, _luma(x, _LUMA).mean((1, 2, 3), keepdim=True), factor)


def _saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _away_from(x, _luma(x, _LUMA), factor)


def _away_from(x: torch.Tensor, middle: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x.sub_(middle).mul_(factor).add_(middle).clamp_(0, 1)


def _hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    safe = chroma.clamp(min=1e-8)
    sixths = torch.where(
        value == red, (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixths += 6 * shift[:, 0]
    offsets = torch.tensor((0.0, 4.0, 2.0))[:, None, None].to(x.device, non_blocking=True)
    turned = sixths[:, None] + offsets
    turned -= (turned / 6).floor_().mul_(6)
    below = turned.sub_(3).abs_().neg_().add_(2).clamp_(0, 1)
    return value[:, None] - below.mul_(chroma[:, None])
