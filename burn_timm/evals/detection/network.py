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
from ...data.published import VOC_CLASSES as CLASSES
from ...errors import BurnError, one_line
from ..features import eval_mode

ANCHOR_SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
PYRAMID_CHANNELS, MLP_CHANNELS = 256, 1024
FINEST = 4  # stride of the pyramid's first level


class Detector(FasterRCNN):
    """torchvision's Faster R-CNN with one image size for testing, and BatchNorm layers that stay as they are.

    Args:
        frozen: BatchNorm layers that stay in eval mode, and whose weights are not trained.
        train_sizes, test_size: Shorter sides in pixels; in training one of them is drawn for each image.
        kwargs: Of FasterRCNN.
    """

    def __init__(self, backbone: nn.Module, frozen: list[nn.Module], train_sizes: list[int], test_size: int, **kwargs):
        super().__init__(backbone, min_size=tuple(train_sizes), **kwargs)
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
    """The detector of the options, in training mode; all parts but the backbone are random.

    Raises:
        BurnError: The weights do not load, or the model fits no detector of this kind.
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
    trunk, head, features = split_c4(model, args.model)
    return _detector(
        trunk, model, args, features,
        rpn_anchor_generator=AnchorGenerator((tuple(args.anchor_sizes or ANCHOR_SIZES),), (RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=0),
        box_head=nn.Sequential(head, nn.BatchNorm2d(features), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        rpn_pre_nms_top_n_train=12000, rpn_post_nms_top_n_train=2000, rpn_pre_nms_top_n_test=6000,
    )


def fpn_detector(body: nn.Module, args: argparse.Namespace) -> Detector:
    """A feature pyramid over a timm features_only model; `args` as in `build_detector`. Raises BurnError."""
    keep, strides = _pyramid_levels(body, args.model)
    default = [8 * stride for stride in (*strides, 2 * strides[-1])]
    sizes = args.anchor_sizes or default
    if len(sizes) != len(default):
        raise BurnError(f"--anchor-sizes: the pyramid has {len(default)} levels and takes one size each, as {default}")
    levels = [str(level) for level in range(len(keep))]
    return _detector(
        Pyramid(body, keep), body, args, MLP_CHANNELS,
        rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=0),
        box_head=TwoMLPHead(PYRAMID_CHANNELS * 7**2, MLP_CHANNELS),
        rpn_pre_nms_top_n_train=2000, rpn_post_nms_top_n_train=2000, rpn_pre_nms_top_n_test=1000,
    )


def _detector(backbone: nn.Module, model: nn.Module, args: argparse.Namespace, features: int, **kwargs) -> Detector:
    """What both kinds have in common; `model` is the timm model, whose modules are in `backbone` and the box head."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    config = resolve_model_data_config(model, verbose=False)
    predictor = FastRCNNPredictor(features, len(CLASSES) + 1)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return Detector(
        backbone, norms if args.bn == "frozen" else [], args.min_sizes, args.test_min_size, max_size=args.max_size,
        image_mean=list(config["mean"]), image_std=list(config["std"]), box_predictor=predictor,
        rpn_post_nms_top_n_test=args.test_proposals, box_batch_size_per_image=args.rois, **kwargs,
    )


def split_c4(model: nn.Module, name: str) -> tuple[nn.Sequential, nn.Sequential, int]:
    """Cut a timm model in two: up to half of its final resolution (stride 16 of 32), and the rest without pooling.

    The cut is behind the last of the model's `feature_info` with half of the final reduction. For ReActNet-A that
    gives a trunk with 512 channels at stride 16, and the two blocks of the last stage as head; for a ResNet, layer4.
    A model may do more than call its children in order: so one image shows whether head(trunk(x)) is what the model's
    own `forward_features` gives. The parts share their modules with `model`.

    Returns:
        trunk (with `out_channels`), head, channels of the head's output.

    Raises:
        BurnError: The model cannot be cut so; --neck fpn asks less of it.
    """
    refusal = BurnError(f"--model {name}: its last stage cannot be cut off as a C4 head; use --neck fpn")
    info = [dict(entry) for entry in getattr(model, "feature_info", None) or []]
    half = [entry for entry in info if entry["reduction"] * 2 == info[-1]["reduction"]]
    if not half:
        raise refusal
    last, modules = half[-1]["module"], []
    for child, module in model.named_children():
        inside = last.startswith(f"{child}.") and isinstance(module, nn.Sequential)
        modules += [(f"{child}.{k}", m) for k, m in module.named_children()] if inside else [(child, module)]
    names = [path for path, _ in modules]
    if last not in names:
        raise refusal
    cut = names.index(last) + 1
    trunk, rest = nn.Sequential(*(m for _, m in modules[:cut])), [m for _, m in modules[cut:]]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))
    with eval_mode(model), torch.no_grad():
        try:
            features, expected = trunk(image), model.forward_features(image)
        except Exception as error:  # modules that are called out of their order raise whatever they like
            raise refusal from error
        # Pooling and classifier are not in forward_features. The longest head is right: weights may begin at zero.
        heads = (nn.Sequential(*rest[:stop]) for stop in range(len(rest), 0, -1))
        head = next((head for head in heads if _gives(head, features, expected)), None)
    if head is None or not any(True for _ in head.parameters()) or features.shape[1] != half[-1]["num_chs"]:
        raise refusal
    trunk.out_channels = features.shape[1]
    return trunk, head, expected.shape[1]


def _gives(head: nn.Module, features: torch.Tensor, expected: torch.Tensor) -> bool:
    try:
        output = head(features)
    except Exception:  # as above: what cannot run is no head
        return False
    return output.ndim == 4 and output.shape == expected.shape and torch.allclose(output, expected)


def _pyramid_levels(body: nn.Module, name: str) -> tuple[list[int], list[int]]:
    """Which of a features_only model's maps the pyramid takes, the deepest of each resolution, and their strides.

    Raises:
        BurnError: There are fewer than two, the model takes images of one size only, or its maps are not [B, C, H, W].
    """
    reductions, channels = body.feature_info.reduction(), body.feature_info.channels()
    last = {reduction: index for index, reduction in enumerate(reductions)}
    strides = [reduction for reduction in sorted(last) if reduction >= FINEST]
    if len(strides) < 2:
        raise BurnError(
            f"--neck fpn: {name} has feature maps at strides {sorted(last)}; at least two of {FINEST} and above are "
            "needed"
        )
    with eval_mode(body), torch.no_grad():
        try:
            shapes = [tuple(m.shape) for m in body(torch.zeros(1, 3, 96, 128).to(next(body.parameters())))]
        except (RuntimeError, AssertionError, ValueError) as error:
            raise BurnError(f"--model {name}: takes no 96x128 image ({one_line(error)})") from error
    keep = [last[stride] for stride in strides]
    if any(shapes[i][1] != channels[i] for i in keep):
        raise BurnError(f"--model {name}: its maps are not [B, C, H, W]; choose a convolutional network")
    return keep, strides
