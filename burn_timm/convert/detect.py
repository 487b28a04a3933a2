"""Which layout a checkpoint has, told by its keys."""

import re

from ..errors import BurnError
from .binary import convert_burn, convert_reactnet, convert_s2bnn
from .source import Converted, Ledger, Source
from .teachers import LAYOUTS, convert_encoder, convert_teacher

BINARY = {"reactnet": convert_reactnet, "s2bnn": convert_s2bnn, "burn": convert_burn}
NAMES = (*BINARY, *LAYOUTS)  # what --from knows


# Names that only other binary networks have: tensors of a convolution beside its weight (RBNN, ReCU, AdaBin), BatchNorm
# around the classifier (IR-Net), blocks of BNext.
_FOREIGN = re.compile(r"^layer\d+\.\d+\.conv\d\.(?!weight$|bias$)|^bn[23]\.|\.Attention\.|\.FFN(_\w+)?\.")


def require_known_blocks(source: Source) -> None:
    """BurnError where the file holds binary blocks that are not ReActNet's: a plain ResNet would take their floats."""
    resnet = source.has("conv1.weight") and source.has("layer1.")
    foreign = [name for name in source.tensors if _FOREIGN.search(name) and (resnet or ".binary_conv." in name)]
    if source.mentions(".binary_conv.") and not source.mentions(".move0.") and not foreign:  # Bi-Real
        foreign = [name for name in source.tensors if ".binary_conv." in name]
    if foreign:
        raise BurnError(
            f"{source.path}: binary blocks, but not ReActNet's ({source.full[foreign[0]]}); only ReActNet, S2-BNN and "
            "BURN can be converted"
        )


def detect(source: Source) -> str:
    """The layout of `source`; BurnError, with the layouts there are, where none or several fit."""
    fitting = [name for name, fits in _rules(source).items() if fits]
    if len(fitting) == 1:
        return fitting[0]
    first = list(source.full.values())[0]
    what = f"its keys fit {' and '.join(fitting)}" if fitting else f"its keys ({first}, ...) fit no known layout"
    raise BurnError(f"{source.path}: {what}; give one by --from: {', '.join(NAMES)}")


def _rules(source: Source) -> dict[str, bool]:
    has, mentions = source.has, source.mentions
    if mentions(".binary_3x3.") or mentions(".binary_conv."):
        both = mentions(".1.binary_pw.") and mentions(".1.binary_pw_down1.")
        nested = has("backbone.feature.") or has("online_net.0.feature.")
        plain = has("feature.") and not both
        # The extracted backbone of BURN has ReActNet's keys, but never its classifier.
        burn = nested or (plain and "fc.weight" not in source.tensors and not mentions(".weights"))
        reactnet = (plain or mentions(".binary_conv.")) and not burn
        return {"s2bnn": both and not nested, "burn": burn, "reactnet": reactnet}
    encoder = has("encoder.") and not has("projection_head.")
    classified = has("classifier.") or has("momentum_backbone.") or has("momentum_encoder.")
    classified |= "pytorch-lightning_version" in source.texts and has("projector.")
    heads = ("projection_head", "prediction_head.", "online_classifier.", "student_head.", "student_projection_head.")
    backbone = has("backbone.") or has("student_backbone.")
    byol = ("online_network", "online_encoder.", "target_net.0.")
    top = "conv1.weight" in source.tensors and has("layer1.")
    vit = "cls_token" in source.tensors
    prototypes = has("prototypes") or has("projection_head.")
    return {
        "moco": has("encoder_q."),
        "simsiam": encoder and has("predictor.") and not has("projector.") and not classified,
        "swav": top and prototypes,
        "byol": any(has(prefix) for prefix in byol),
        "barlow": has("backbone.") and has("projector.") and has("bn.") and not classified,
        "vicreg": has("backbone.") and has("projector.") and not has("bn.") and not classified,
        "dino": has("teacher.backbone.") or has("student.backbone."),
        "vissl": has("trunk.") or has("_feature_blocks."),
        "solo": (has("backbone.") or encoder) and classified,
        "lightly": backbone and any(has(head) for head in heads),
        "encoder": (top or vit) and not prototypes,
    }


def convert_source(
    source: Source, layout: str | None = None, stage: str | None = None, part: str | None = None,
    keep_hidden: bool = False,
) -> Converted:
    """Convert `source`, whose layout is `layout` or told by its keys.

    Raises:
        BurnError: No or several layouts fit, an option does not, or a tensor is missing or unknown. It names the file.
    """
    require_known_blocks(source)
    asked, layout = layout, layout or detect(source)
    converted = _convert(source, layout, stage, part, keep_hidden)
    converted.by_keys = asked is None
    return converted


def _convert(source: Source, layout: str, stage: str | None, part: str | None, keep_hidden: bool) -> Converted:
    binary = source.mentions(".binary_3x3.") or source.mentions(".binary_conv.")
    if binary != (layout in BINARY):
        raise BurnError(f"{source.path}: --from {layout}, but it holds {'' if binary else 'no '}binary convolutions")
    if layout == "burn" and part == "teacher":
        return _burn_teacher(source, stage, keep_hidden)
    if layout in BINARY:
        return BINARY[layout](source, stage, part, keep_hidden)
    for option, given in (("--stage", stage), ("--keep-hidden", keep_hidden)):
        if given:
            raise BurnError(f"{source.path}: {option} is for binary networks, not for the layout {layout}")
    return convert_teacher(layout, source, part)


def _burn_teacher(source: Source, stage: str | None, keep_hidden: bool) -> Converted:
    root = "diff_branch_net.0."
    if not source.has(root):
        raise BurnError(f"{source.path}: --part teacher, but there is no {root} in the file")
    if stage or keep_hidden:
        raise BurnError(f"{source.path}: --stage and --keep-hidden are for the student, not for --part teacher")
    ledger = Ledger(source)
    ledger.drop(lambda name: not name.startswith(root), "student and heads; --part backbone converts it")
    ledger.notes.append(
        "BURN's teacher was trained by others, and has their terms too; the paper's is MoCo v2's ResNet-50"
    )
    return convert_encoder("burn", ledger, root, "teacher")
