"""Self-supervised ResNets and ViTs of other code bases to timm's names.

All of them hold torchvision's ResNet (conv1, bn1, layer1.0.conv1, ..., which are timm's names too) or a ViT in timm's
own names, under a prefix, beside heads, queues and second encoders. Some keep the ResNet as an `nn.Sequential` of its
children (0 is conv1, 1 bn1, 4 to 7 the layers).
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from ..errors import BurnError
from . import moco
from .source import Converted, Ledger, Source

_RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d",
)
_VITS = (
    "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch8_224", "vit_base_patch16_224",
    "vit_base_patch8_224", "vit_large_patch16_224",
)
_RESNET = re.compile(r"^(conv1|bn1|layer[1-4])\.")
_SEQUENTIAL = re.compile(r"^[014567]\.")
_VIT = re.compile(r"^(cls_token|pos_embed|patch_embed|blocks|norm)(\.|$)")
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True)
class Layout:
    """How a code base names its parts.

    Attributes:
        parts: What --part may name, and the prefix under which that encoder lies; the first there is is the default.
        drops: Prefixes of what is no encoder, and what it is.
        head: What the encoder's own `fc` or `head` is; `classifier`: it is kept.
    """

    parts: tuple[tuple[str, str], ...]
    drops: tuple[tuple[str, str], ...] = ()
    head: str = "projection head"


_MLPS = (("projector.", "projection head"), ("predictor.", "prediction head"))
LAYOUTS = {
    "moco": Layout((("encoder_q", moco.QUERY), ("encoder_k", moco.KEY)), ((moco.QUEUE, "queue of negatives"),)),
    "simsiam": Layout((("encoder", "encoder."),), _MLPS),
    "swav": Layout((("network", ""),), (("projection_head.", "projection head"), ("prototypes.", "prototypes"))),
    "byol": Layout(
        (
            ("online", "online_network.encoder."), ("target", "target_network.encoder."),
            ("online", "online_network_state_dict.encoder."), ("target", "target_network_state_dict.encoder."),
            ("online", "online_encoder.net."), ("target", "target_encoder.net."),
            ("online", "backbone."), ("online", "online_net.0."), ("target", "target_net.0."),
        ),
        (
            *((f"{net}_network{end}.proj", "projection head") for net in ("online", "target")
              for end in ("", "_state_dict")),
            *((f"{net}_network{end}.predictor.", "prediction head") for net in ("online", "target")
              for end in ("", "_state_dict")),
            ("online_encoder.projector.", "projection head"), ("target_encoder.projector.", "projection head"),
            ("online_predictor.", "prediction head"), ("online_net.1.", "projection head"),
            ("target_net.1.", "projection head"), ("head.", "prediction head"), *_MLPS,
        ),
    ),
    "barlow": Layout((("backbone", "backbone."),), (*_MLPS, ("bn.", "normalisation of the projections"))),
    "vicreg": Layout((("backbone", "backbone."),), _MLPS),
    "dino": Layout(
        (("teacher", "teacher.backbone."), ("student", "student.backbone."), ("backbone", "backbone.")),
        (("teacher.head.", "projection head"), ("student.head.", "projection head"), ("head.", "projection head")),
    ),
    "vissl": Layout(
        (
            ("trunk", "trunk._feature_blocks."), ("trunk", "trunk.base_model._feature_blocks."),
            ("trunk", "_feature_blocks."), ("trunk", "trunk."),
        ),
        (("heads.", "heads"),),
    ),
    "solo": Layout(
        (
            ("backbone", "backbone."), ("encoder", "encoder."), ("momentum_backbone", "momentum_backbone."),
            ("momentum_encoder", "momentum_encoder."),
        ),
        (
            ("classifier.", "linear classifier"), ("momentum_classifier.", "linear classifier"),
            ("momentum_projector.", "projection head"), ("momentum_predictor.", "prediction head"), *_MLPS,
            ("prototypes", "prototypes"), ("queue", "queue"), ("head.", "projection head"),
            ("momentum_head.", "projection head"), ("dino_loss_func.", "loss"), ("whitening", "loss"),
            ("local_memory_", "memory of features"), ("transformer_encoder.", "prediction head"),
            ("pos_enc.", "prediction head"),
        ),
    ),
    "lightly": Layout(
        (
            ("backbone", "backbone."), ("teacher_backbone", "teacher_backbone."),
            ("student_backbone", "student_backbone."), ("backbone_momentum", "backbone_momentum."),
            ("key_backbone", "key_backbone."),
        ),
        (
            *((name, "projection head") for name in (
                "projection_head", "key_projection_head", "local_projection_head", "student_projection_head",
                "teacher_projection_head", "student_head.", "teacher_head.", "head.",
            )),
            ("prediction_head.", "prediction head"), ("student_prediction_head.", "prediction head"),
            ("online_classifier.", "linear classifier"), ("prototypes.", "prototypes"), ("smog.", "prototypes"),
            ("criterion", "loss"), ("memory_bank.", "queue"), ("queues.", "queue"), ("start_queue_at", "queue"),
        ),
    ),
    "encoder": Layout((("network", ""),), head="classifier"),  # nothing but an encoder, of whatever origin
}


def convert_teacher(layout: str, source: Source, part: str | None) -> Converted:
    """The encoder `part` (None: the usual one) of a checkpoint in `layout`.

    Raises:
        BurnError: No such part, a tensor of which nothing is known, or no timm model with these shapes.
    """
    spec = LAYOUTS[layout]
    here = {name: prefix for name, prefix in reversed(spec.parts) if _encoder_under(source, prefix)}
    here = {name: here[name] for name, _ in spec.parts if name in here}
    if not here and _encoder_under(source, ""):  # the encoder alone, as most of them are published
        spec, here = LAYOUTS["encoder"], {"network": ""}
    if not here:
        raise BurnError(f"{source.path}: no encoder of a {layout} file in it; it has {_some(source)}; is --from right?")
    if part is not None and part not in here:
        raise BurnError(f"{source.path}: --part {part}: this {layout} file has {', '.join(here)}")
    part = part or next(iter(here))
    root = here[part]
    ledger = Ledger(source)
    for name, prefix in here.items():
        if name != part:
            ledger.drop(prefix, f"another encoder; --part {name} converts it")
    if layout == "byol" and source.has("backbone."):
        ledger.drop_twin("online_net.0.", "backbone.")
    for prefix, reason in spec.drops:
        ledger.drop(prefix, reason)
    if layout == "solo" and (method := source.texts.get("hyper_parameters.method")):
        ledger.notes.append(f"method, as its settings say: {method}")
    converted = convert_encoder(layout, ledger, root, part, spec.head)
    if layout == "moco" and (layers := moco.head_layers(source.tensors, f"{root}fc")):
        converted.variant = f"moco_v{len(layers)}"
    return converted


def convert_encoder(layout: str, ledger: Ledger, root: str, part: str, head: str = "projection head") -> Converted:
    """The ResNet or ViT under `root`; what else is left in the ledger is an error."""
    tensors = {}
    for key in [key for key in ledger.left if key.startswith(root)]:
        name = key.removeprefix(root)
        if _SEQUENTIAL.match(name):
            child, _, rest = name.partition(".")
            tensors[f"{_CHILDREN[child]}.{rest}"] = ledger.take(key)
        elif _RESNET.match(name) or _VIT.match(name):
            tensors[name] = ledger.take(key)
    vit = "cls_token" in tensors
    classes = 0
    if head == "classifier" and not vit and getattr(ledger.left.get(f"{root}fc.weight"), "ndim", 0) == 2:
        tensors |= {f"fc.{name}": ledger.take(f"{root}fc.{name}") for name in ("weight", "bias")}
        classes = len(tensors["fc.bias"])
    for name in ("fc.", "head.", "projection_head."):
        ledger.drop(root + name, "projection head" if head == "classifier" else head)
    ledger.close(layout)
    model_name, missing = _timm_model(ledger.source.path, tensors, vit)
    for name in missing:  # counters of steps, which old files and those converted from JAX lack
        tensors[name] = torch.tensor(0)
    return Converted(layout, model_name, tensors, ledger, classes, part=part)


def _encoder_under(source: Source, prefix: str) -> bool:
    ends = ("conv1.weight", "0.weight", "patch_embed.proj.weight")
    return any(getattr(source.tensors.get(prefix + end), "ndim", 0) == 4 for end in ends)


def _some(source: Source) -> str:
    return ", ".join([*list(source.tensors)[:3], "..."])


@functools.cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    model = timm.create_model(name, num_classes=0, device="meta")
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _timm_model(path: Path, tensors: dict[str, torch.Tensor], vit: bool) -> tuple[str, list[str]]:
    """The timm model with these names and shapes, and the step counters that the file does not have."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.startswith("fc.")}
    stem = found.get("conv1.weight", (0, 0, 7, 7))
    if stem[2:] != (7, 7):
        raise BurnError(f"{path}: its first convolution is {stem[2]}x{stem[3]} (a stem for small images); no timm "
                        "ResNet by name has one, so it cannot be converted")
    gaps = {}
    for name in _VITS if vit else _RESNETS:
        shapes = _shapes(name)
        other = [key for key in found if found[key] != shapes.get(key)]
        missing = [key for key in shapes if key not in found and not key.endswith("num_batches_tracked")]
        if not other and not missing:
            return name, [key for key in shapes if key not in found]
        gaps[name] = other + missing
    nearest = min(gaps, key=lambda name: len(gaps[name]))
    key = gaps[nearest][0]
    what = f"is {list(found[key])}" if key in found else "is missing"
    raise BurnError(f"{path}: no timm model has its shapes; the nearest is {nearest}, but {key} {what}")
