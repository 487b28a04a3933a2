"""Colours of a whole batch at once on the device: what `RandomView` draws for each image, applied in torch.

The workers draw and crop (Pillow's antialiased resize); jitter, grey, blur, solarise and flip, which take most of a
view's time, are done here. The random choices are `RandomView.draw`'s own, so the distribution is that of `views.py` by
construction, and a batch is as reproducible as there. Every operation repeats Pillow's or `colour.py`'s arithmetic,
its intermediate roundings to 8 bits included, in float32: a view is the one of `RandomView.apply` except where a sum
lies so near to a half that the order of summation decides (the tests state how often).

No library does this: torchvision's transforms apply one draw to a whole batch, and image by image on a GPU they are no
faster than a CPU core; kornia draws the order of the jitter once a batch.

Nothing waits for the device: which images an operation is for is read from the numbers on the CPU.
"""

from collections.abc import Callable

import torch
from PIL import Image

from burn_timm.data.views import RandomView, as_tensor
from burn_timm.errors import BurnError

# Columns of `Drawn.numbers()`.
_ORDER, _JITTER = slice(4, 8), slice(8, 12)
_GREY, _SIGMA, _SOLARISE, _FLIP = 12, 13, 14, 15
_LUMA = (0.2989, 0.587, 0.114)  # of colour.py
_LUMA_PILLOW = (19595.0, 38470.0, 7471.0)  # in 65536ths, as Pillow's convert("L") has it


class DeviceViews:
    """Turns a batch of `drawn_views` into what `made_views` would have given, for the same `groups` of `view_groups`.

    Raises BurnError for a view that is not a `RandomView` or has RandAugment.
    """

    def __init__(self, groups: dict[str, list]) -> None:
        self.keys = list(groups)
        for view in (view for views in groups.values() for view in views):
            if not isinstance(view, RandomView) or view.rand_augment is not None:
                what = "RandAugment" if isinstance(view, RandomView) else "nothing random"
                raise BurnError(f"--views-on device: a view with {what} is not made there; leave --views-on at workers")

    def __call__(self, batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """`batch` of items as `drawn_views` makes them -> `views` uint8 [B, V, 3, S, S] on `device` (`small_views`
        likewise), and the rest of it as it is."""
        batch = dict(batch)
        for key in self.keys:
            crops, drawn = batch[key].to(device, non_blocking=True), batch.pop(f"{key}_drawn").flatten(0, 1)
            x = crops.flatten(0, 1).to(torch.float32)
            batch[key] = coloured(x, drawn, drawn.to(device, non_blocking=True)).view(crops.shape)
        return batch


def drawn_views(groups: dict[str, list[RandomView]], image: Image.Image) -> dict[str, torch.Tensor]:
    """In place of `made_views`: `views` uint8 [V, 3, S, S], resized crops with their own colours, and `views_drawn`
    float32 [V, 16], what was drawn for them (the rows are `Drawn.numbers()`); `small_views` likewise."""
    made = {}
    for key, views in groups.items():
        drawn = [view.draw(image) for view in views]
        crops = [view.cropped(image, one.crop) for view, one in zip(views, drawn, strict=True)]
        made[key] = torch.stack([as_tensor(crop) for crop in crops])
        made[f"{key}_drawn"] = torch.tensor([one.numbers() for one in drawn])
    return made


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


# Blur: a matrix for each image. ---------------------------------------------------------------------------------


def _along_width(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] and [B, W', W] -> [B, C, H, W'], rounded half up."""
    out = torch.bmm(x.flatten(1, 2), matrices.transpose(1, 2)).add_(0.5).floor_()
    return out.view(*x.shape[:3], -1)


def _along_height(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] and [B, H', H] -> [B, C, H', W], rounded half up."""
    return torch.matmul(matrices[:, None], x).add_(0.5).floor_()


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
