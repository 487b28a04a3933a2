"""Which code base wrote a checkpoint, told by its names."""

import re

from ..errors import BurnError
from .origins import ORIGINS
from .source import Source

BINARY = ("reactnet", "s2bnn", "burn")
NAMES = tuple(name for name in ORIGINS if not name.startswith("moco_"))  # what --from knows
_NESTED, _BOTH = r"^(backbone|online_net\.0)\.feature\.", r"^(encoder_\w\.)?feature\.1\.binary_pw\."
_HIDDEN = r"^fc\.0\.|^head\.fc_cls\."
_PROBED = r"^(momentum_)?classifier\.|^momentum_(backbone|encoder)\.|^pytorch-lightning_version"  # by solo-learn
_SIGNS = (  # layout; names, or texts in the file, that it has, each of them; what it has not
    ("reactnet", (r"^feature\..*\.weights$",), rf"{_BOTH}|{_NESTED}|{_HIDDEN}"),
    ("reactnet", (r"^feature\.", r"^fc\.weight$"), rf"{_BOTH}|{_NESTED}|{_HIDDEN}"),
    ("reactnet", (r"^layer\d\.\d+\.binary_conv\.",), "$^"),
    ("s2bnn", (_BOTH,), _NESTED),
    ("burn", (_NESTED,), "$^"),
    ("burn", (r"^feature\.\d+\.binary_3x3\.",), rf"{_BOTH}|^fc\.weight$|\.weights$"),
    ("moco", (r"^encoder_q\.",), r"feature\.0\."),
    ("mocov3", (r"^base_encoder\.",), "$^"),
    ("simsiam", (r"^encoder\.", r"^predictor\."), rf"^projector\.|^projection_head\.|{_PROBED}"),
    ("swav", (r"^conv1\.weight$", r"^prototypes|^projection_head\."), "$^"),
    ("byol", (r"^online_network|^online_encoder\.|^target_net\.0\.",), _NESTED),
    ("barlow", (r"^backbone\.", r"^projector\.", r"^bn\."), _PROBED),
    ("vicreg", (r"^backbone\.", r"^projector\."), rf"^bn\.|{_PROBED}"),
    ("dino", (r"^(teacher|student)\.backbone\.",), "$^"),
    ("vissl", (r"^trunk\.|^_feature_blocks\.",), "$^"),
    ("solo", (r"^(backbone|encoder)\.", r"^projector\.|^momentum_|^classifier\.", _PROBED),
     rf"^projection_head|{_NESTED}"),
    ("lightly", (r"^(student_)?backbone\.", r"^(student_)?projection_head|^prediction_head\.|^online_classifier\.|"
                 r"^student_head\."), _NESTED),
    ("efficientnet_lite", (r"^_conv_stem\.",), "$^"),
    ("encoder", (r"^conv1\.weight$|^cls_token$",), r"^prototypes|^projection_head\.|\.binary_conv\."),
)


def detect(source: Source, asked: str | None) -> str:
    """The layout of `source`: what its names tell, or, where they tell of none or of several, what is `asked` for.

    Raises:
        BurnError: Nothing tells, or the names tell of another layout than `asked`.
    """
    names = [*source.tensors, *source.texts]

    def found(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    fitting = list(dict.fromkeys(
        layout for layout, signs, others in _SIGNS if all(map(found, signs)) and not found(others)
    ))
    if asked and (asked in fitting or fitting in ([], ["encoder"])):
        return asked
    if asked:
        raise BurnError(f"{source.path}: --from {asked}, but its keys are those of {' or '.join(fitting)}")
    if len(fitting) == 1:
        return fitting[0]
    what = f"its keys fit {' and '.join(fitting)}" if fitting else (
        f"its keys ({next(iter(source.full.values()))}, ...) fit no known layout")
    raise BurnError(f"{source.path}: {what}; give one by --from: {', '.join(NAMES)}")
