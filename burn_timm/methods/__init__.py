"""Training methods, one a file, all under the contract of `base.Method`."""

from .base import Method
from .burn import BURN
from .byol import BYOL
from .infomin import InfoMin
from .moco import MoCo
from .s2bnn import S2BNN
from .simclr import SimCLR
from .supervised import Supervised, SupervisedKL
from .swav import SwAV

METHODS: dict[str, type[Method]] = {
    "burn": BURN,
    "s2bnn": S2BNN,
    "byol": BYOL,
    "swav": SwAV,
    "mocov2": MoCo,
    "simclr": SimCLR,
    "infomin": InfoMin,
    "supervised": Supervised,
    "supervised_kl": SupervisedKL,
}
