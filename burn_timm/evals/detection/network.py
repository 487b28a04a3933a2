"""Faster R-CNN around a timm backbone: C4 as published, or a feature pyramid. torchvision's detector does the work.

C4 (Ren et al., https://arxiv.org/abs/1506.01497, with the extra BatchNorm of MoCo's recipe,
https://arxiv.org/abs/1911.05722, Appendix): the trunk's map at stride 16 feeds the proposals; the last stage runs on
each proposal's 14x14 crop, followed by a BatchNorm and average pooling.

DEVIATION (published recipe, which ran in detectron2; what torchvision and timm do instead):
- box losses: smooth L1 with beta 1/9 instead of L1; RoIAlign samples half a pixel off (aligned=False).
- BatchNorm in training: there synchronised over 8 GPUs with 2 photos each, the mean of the GPUs' statistics; here one
  process has all 16 photos, padded to the largest of them, so borders of zeros count more.
- weight decay: there of biases too, here of neither biases nor BatchNorm (detectron2 spares BatchNorm as well), nor of
  the shifts and slopes of binary blocks, which its networks do not have.
"""

import argparse
from pathlib import Path

import torch
from timm.data import resolve_model_data_config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ...checkpoints import load_model
from ...errors import BurnError
from ..features import eval_mode
from .split import split_c4
from .voc import CLASSES

ANCHOR_SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
PYRAMID_CHANNELS, MLP_CHANNELS = 256, 1024
FINEST = 4  # stride of the pyramid's first level


class Detector(FasterRCNN):
    """torchvision's Faster R-CNN with one image size for testing, and BatchNorm layers that stay as they are.

    Args:
        frozen: BatchNorm layers in eval mode for good, their weights not trained.
        train_sizes, test_size: shorter sides in pixels; in training one of them is drawn for each image.
        kwargs: of FasterRCNN.
    """

    def __init__(self, *args, frozen: list[nn.Module], train_sizes: tuple[int, ...], test_size: int, **kwargs):
        super().__init__(*args, min_size=train_sizes, **kwargs)
        self.sizes = {True: tuple(train_sizes), False: (test_size,)}
        self.frozen = tuple(frozen)  # a tuple, so that they are not registered twice
        for module in self.frozen:
            module.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.frozen:
            module.eval()
        self.transform.min_size = self.sizes[mode]
        return self


class Trunk(nn.Sequential):
    """A backbone with one map, as FasterRCNN takes it."""

    def __init__(self, modules: nn.Sequential, out_channels: int):
        super().__init__(*modules)
        self.out_channels = out_channels


class Pyramid(nn.Module):
    """timm's features_only backbone, the levels of `keep`, behind a feature pyramid: images to {name: map}."""

    def __init__(self, body: nn.Module, keep: list[int]):
        super().__init__()
        self.body, self.keep = body, keep
        channels = body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork([channels[i] for i in keep], PYRAMID_CHANNELS, LastLevelMaxPool())
        self.out_channels = PYRAMID_CHANNELS

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.body(x)
        return self.fpn({str(level): maps[i] for level, i in enumerate(self.keep)})


def build_detector(args: argparse.Namespace) -> Detector:
    """The detector of the options, in training mode; whatever is new in it is random.

    Raises:
        BurnError: the weights do not load, or the model fits no detector of this kind.
    """
    pretrained = args.pretrained or None
    if args.neck == "c4":
        model = load_model(args.model, args.checkpoint, num_classes=0, pretrained=pretrained)
        return c4_detector(model, args)
    try:
        body = load_model(args.model, args.checkpoint, num_classes=None, pretrained=pretrained, features_only=True)
    except BurnError as error:
        raise BurnError(f"--neck fpn: {error}") from error
    return fpn_detector(body, args)


def c4_detector(model: nn.Module, args: argparse.Namespace) -> Detector:
    """C4 from a timm model without classifier; `args` as in `build_detector`. Raises BurnError."""
    config = resolve_model_data_config(model)
    trunk, head, channels, features = split_c4(model, _short(args.model))
    frozen = _norms(trunk) + _norms(head) if args.bn == "frozen" else []
    box_head = nn.Sequential(head, nn.BatchNorm2d(features), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sizes = tuple(args.anchor_sizes or ANCHOR_SIZES)
    return _detector(
        Trunk(trunk, channels), config, args, frozen,
        AnchorGenerator((sizes,), (RATIOS,)),
        MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=0),
        box_head, features, proposals=(12000, 2000, 6000),
    )


def fpn_detector(body: nn.Module, args: argparse.Namespace) -> Detector:
    """A feature pyramid over a timm features_only model; `args` as in `build_detector`. Raises BurnError."""
    reductions = body.feature_info.reduction()
    last = {reduction: index for index, reduction in enumerate(reductions)}  # the deepest of each resolution
    keep = [last[reduction] for reduction in sorted(last) if reduction >= FINEST]
    if len(keep) < 2:
        raise BurnError(
            f"--neck fpn: {_short(args.model)} has feature maps at strides {sorted(last)}; at least two of "
            f"{FINEST} and above are needed"
        )
    _try_maps(body, keep, args)
    strides = [reductions[index] for index in keep]
    default = [8 * stride for stride in (*strides, 2 * strides[-1])]
    sizes = args.anchor_sizes or default
    if len(sizes) != len(default):
        raise BurnError(f"--anchor-sizes: the pyramid has {len(default)} levels and takes one size each, as {default}")
    config = resolve_model_data_config(body, verbose=False)
    backbone = Pyramid(body, keep)
    levels = [str(level) for level in range(len(keep))]
    return _detector(
        backbone, config, args, _norms(body) if args.bn == "frozen" else [],
        AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(sizes)),
        MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=0),
        TwoMLPHead(PYRAMID_CHANNELS * 7**2, MLP_CHANNELS), MLP_CHANNELS, proposals=(2000, 2000, 1000),
    )


@torch.no_grad()
def _try_maps(body: nn.Module, keep: list[int], args: argparse.Namespace) -> None:
    """Some backbones take images of one size only, or give maps with the channels last. Raises BurnError."""
    channels = body.feature_info.channels()
    with eval_mode(body):
        try:
            shapes = [tuple(m.shape) for m in body(torch.zeros(1, 3, 96, 128).to(next(body.parameters())))]
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise BurnError(f"--model {_short(args.model)}: takes no 96x128 image ({reason})") from error
    if any(shapes[i][1] != channels[i] for i in keep):
        raise BurnError(f"--model {_short(args.model)}: its maps are not [B, C, H, W]; choose a convolutional network")


def _detector(
    backbone, config, args, frozen, anchors, pooling, box_head, features: int, proposals: tuple[int, int, int],
) -> Detector:
    predictor = FastRCNNPredictor(features, len(CLASSES) + 1)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    pre_train, post_train, pre_test = proposals
    return Detector(
        backbone, frozen=frozen, train_sizes=tuple(args.min_sizes), test_size=args.test_min_size,
        max_size=args.max_size, image_mean=list(config["mean"]), image_std=list(config["std"]),
        rpn_anchor_generator=anchors, rpn_pre_nms_top_n_train=pre_train, rpn_post_nms_top_n_train=post_train,
        rpn_pre_nms_top_n_test=pre_test, rpn_post_nms_top_n_test=args.test_proposals,
        box_roi_pool=pooling, box_head=box_head, box_predictor=predictor, box_batch_size_per_image=args.rois,
    )


def _norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def _short(model_name: str) -> str:
    """A model's name for a message: a folder by its last part."""
    return Path(model_name).name if ":" in model_name else model_name
