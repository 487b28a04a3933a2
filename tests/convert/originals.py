"""Checkpoints in the layouts of the original code bases, and what those compute: plain functions on the original keys.

Written from the papers and the lists of keys in the docstrings here; nothing of burn_timm is used.
"""

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]
WIDTHS = [2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32]  # of ReActNet-A's 13 blocks, in units of the stem


def _norm(channels: int, at: str) -> Weights:
    return {
        f"{at}.weight": 1 + 0.3 * torch.randn(channels), f"{at}.bias": 0.3 * torch.randn(channels),
        f"{at}.running_mean": 0.3 * torch.randn(channels), f"{at}.running_var": 0.5 + 1.5 * torch.rand(channels),
        f"{at}.num_batches_tracked": torch.tensor(7),
    }


def _kernel(shape: tuple[int, ...], at: str, flat: bool) -> Weights:
    weight = 0.02 * torch.randn(shape)
    return {f"{at}.weights": weight.reshape(-1, 1)} if flat else {f"{at}.weight": weight}


def linear(inside: int, out: int, at: str) -> Weights:
    return {f"{at}.weight": torch.randn(out, inside) * 0.1, f"{at}.bias": torch.randn(out)}


def reactnet_a(stem: int = 8, flat: bool = False, both: bool = False, widths=WIDTHS) -> Weights:
    """`feature.N`, without classifier. `flat`: binary weights are `weights` `[O*I*k*k, 1]`. `both`: S2-BNN's blocks."""
    weights = {"feature.0.conv1.weight": torch.randn(stem, 3, 3, 3) * 0.3, **_norm(stem, "feature.0.bn1")}
    inside = stem
    for number, factor in enumerate(widths, 1):
        out, at = factor * stem, f"feature.{number}"
        for name in ("11", "12", "13", "21", "22", "23"):
            weights[f"{at}.move{name}.bias"] = 0.3 * torch.randn(1, out if name > "21" else inside, 1, 1)
        weights[f"{at}.prelu1.weight"], weights[f"{at}.prelu2.weight"] = torch.rand(inside), torch.rand(out)
        weights |= _kernel((inside, inside, 3, 3), f"{at}.binary_3x3", flat) | _norm(inside, f"{at}.bn1")
        if both or inside == out:
            weights |= _kernel((out, inside, 1, 1), f"{at}.binary_pw", flat) | _norm(out, f"{at}.bn2")
        if both or inside != out:
            for branch in (1, 2):
                weights |= _kernel((inside, inside, 1, 1), f"{at}.binary_pw_down{branch}", flat)
                weights |= _norm(inside, f"{at}.bn2_{branch}")
        inside = out
    return weights


def reactnet_18(widths=(64, 128, 256, 512), depths=(4, 4, 4, 4)) -> Weights:
    """`layerS.N`, without classifier."""
    weights = {"conv1.weight": torch.randn(widths[0], 3, 7, 7) * 0.1, **_norm(widths[0], "bn1")}
    inside = widths[0]
    for layer, (out, depth) in enumerate(zip(widths, depths, strict=True), 1):
        for number in range(depth):
            at = f"layer{layer}.{number}"
            for name, channels in (("0", inside), ("1", out), ("2", out)):
                weights[f"{at}.move{name}.bias"] = 0.3 * torch.randn(1, channels, 1, 1)
            weights[f"{at}.prelu.weight"] = torch.rand(out)
            weights |= _kernel((out, inside, 3, 3), f"{at}.binary_conv", False) | _norm(out, f"{at}.bn1")
            if inside != out:
                weights[f"{at}.downsample.1.weight"] = torch.randn(out, inside, 1, 1) * 0.1
                weights |= _norm(out, f"{at}.downsample.2")
            inside = out
    return weights


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def neck(inside: int, at: str, out: int = 20) -> Weights:
    """OpenSelfSup's two-layer neck: fc0, bn0, fc1."""
    return linear(inside, out, f"{at}fc0") | _norm(out, f"{at}bn0") | linear(out, out, f"{at}fc1")


# What the originals compute


def pooled_a(images: torch.Tensor, weights: Weights, one_bit: bool, root: str = "") -> torch.Tensor:
    """Pooled features `[B, C]` of ReActNet-A under `root`, in float64."""
    w = {name.removeprefix(root): tensor.double() for name, tensor in weights.items() if name.startswith(root)}
    x = _bn(F.conv2d(images.double(), w["feature.0.conv1.weight"], stride=2, padding=1), w, "feature.0.bn1")
    number = 1
    while f"feature.{number}.move11.bias" in w:
        at = f"feature.{number}."
        doubles = w[f"{at}move11.bias"].shape[1] != w[f"{at}move22.bias"].shape[1]
        stride = 2 if doubles and number > 1 else 1
        y = torch.sign(x + w[f"{at}move11.bias"])
        y = F.conv2d(y, _weight(w, f"{at}binary_3x3", x.shape[1], 3, one_bit), stride=stride, padding=1)
        y = _bn(y, w, f"{at}bn1") + (F.avg_pool2d(x, 2, 2) if stride == 2 else x)
        y = F.prelu(y + w[f"{at}move12.bias"], w[f"{at}prelu1.weight"]) + w[f"{at}move13.bias"]
        signs = torch.sign(y + w[f"{at}move21.bias"])
        branches = [("binary_pw_down1", "bn2_1"), ("binary_pw_down2", "bn2_2")] if doubles else [("binary_pw", "bn2")]
        x = torch.cat([
            _bn(F.conv2d(signs, _weight(w, at + kernel, y.shape[1], 1, one_bit)), w, at + norm) + y
            for kernel, norm in branches
        ], 1)
        x = F.prelu(x + w[f"{at}move22.bias"], w[f"{at}prelu2.weight"]) + w[f"{at}move23.bias"]
        number += 1
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def pooled_18(images: torch.Tensor, weights: Weights, one_bit: bool) -> torch.Tensor:
    """Pooled features of ReActNet-18, in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    x = F.conv2d(images.double(), w["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(_bn(x, w, "bn1"), 3, 2, 1)
    for layer in range(1, 5):
        number = 0
        while f"layer{layer}.{number}.move0.bias" in w:
            at = f"layer{layer}.{number}."
            shortcut, stride = x, 1
            if f"{at}downsample.1.weight" in w:
                stride = 2
                shortcut = F.conv2d(F.avg_pool2d(x, 2, 2), w[f"{at}downsample.1.weight"])
                shortcut = _bn(shortcut, w, f"{at}downsample.2")
            y = torch.sign(x + w[f"{at}move0.bias"])
            y = F.conv2d(y, _weight(w, f"{at}binary_conv", x.shape[1], 3, one_bit), stride=stride, padding=1)
            y = _bn(y, w, f"{at}bn1") + shortcut
            x = F.prelu(y + w[f"{at}move1.bias"], w[f"{at}prelu.weight"]) + w[f"{at}move2.bias"]
            number += 1
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def _bn(x: torch.Tensor, w: Weights, at: str) -> torch.Tensor:
    return F.batch_norm(
        x, w[f"{at}.running_mean"], w[f"{at}.running_var"], w[f"{at}.weight"], w[f"{at}.bias"], training=False,
    )


def _weight(w: Weights, at: str, inside: int, size: int, one_bit: bool) -> torch.Tensor:
    weight = w[f"{at}.weights"].view(-1, inside, size, size) if f"{at}.weights" in w else w[f"{at}.weight"]
    if one_bit:
        weight = weight.abs().mean((1, 2, 3), keepdim=True) * torch.sign(weight)
    return weight
