"""ResNet-20 and ResNet-56 for 32 px images, floating-point teachers for runs on CIFAR.

Paper: `Deep Residual Learning for Image Recognition` - https://arxiv.org/abs/1512.03385, Sec. 4.2: a 3x3 stem, three
stages of 16, 32 and 64 channels, shortcuts without parameters (option A: every second pixel, new channels zero).
timm has no such model. Parameter names are those of the widely used checkpoints (`layerS.N.{conv1 bn1 conv2 bn2}`,
`linear`), so these load as they are: `--teacher resnet20_cifar --teacher-checkpoint FILE`.

Written from the paper; Apache-2.0.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..compat import require_stages
from .packed_loading import checkpoint_filter_fn, mark_loaded

__all__ = ["CifarResNet"]


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; where the width grows, the shortcut is strided and padded with zero channels."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, **dd):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(out_chs, **dd)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.stride = stride
        self.pad = (out_chs - in_chs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.pad > 0:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.pad, self.pad])
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """`depth` blocks a stage: 3 for ResNet-20, 9 for ResNet-56. Images `[B, 3, H, W]` to logits or pooled features."""

    def __init__(
        self, depth: int = 3, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg",
        drop_rate: float = 0.0, device=None, dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(16, **dd)
        self.feature_info, width = [], 16
        for index, out_chs in enumerate((16, 32, 64)):
            blocks = []
            for number in range(depth):
                blocks.append(CifarBlock(width, out_chs, 2 if number == 0 and index else 1, **dd))
                width = out_chs
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": 2**index, "module": f"layer{index + 1}"})
        self.num_features = self.head_hidden_size = width
        self.global_pool, self.linear = create_classifier(width, num_classes, pool_type=global_pool, **dd)
        self.register_load_state_dict_post_hook(mark_loaded)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier on the device and in the dtype of the model; `global_pool` None keeps the pooling."""
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        self.num_classes = num_classes
        dd = {"device": self.conv1.weight.device, "dtype": self.conv1.weight.dtype}
        pool, linear = create_classifier(self.num_features, num_classes, pool_type=global_pool, **dd)
        self.global_pool, self.linear = pool.train(self.training), linear.train(self.training)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.linear(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "", "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0,
        "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1", "classifier": "linear", **kwargs,
    }


default_cfgs = generate_default_cfgs({"resnet20_cifar.untrained": _cfg(), "resnet56_cifar.untrained": _cfg()})


def _create(variant: str, pretrained: bool, depth: int, **kwargs: Any) -> CifarResNet:
    features = {"out_indices": (0, 1, 2)}
    require_stages(variant, 3, kwargs.get("out_indices", 3))
    return build_model_with_cfg(
        CifarResNet, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, feature_cfg=features, depth=depth,
        **kwargs,
    )


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for 32 px images, 0.27 M parameters."""
    return _create("resnet20_cifar", pretrained, 3, **kwargs)


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for 32 px images, 0.85 M parameters."""
    return _create("resnet56_cifar", pretrained, 9, **kwargs)
