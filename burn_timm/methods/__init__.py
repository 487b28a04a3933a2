"""Training methods, one a file, all under the contract of `base.Method`."""

from .burn import BURN
from .simclr import SimCLR

METHODS = {"burn": BURN, "simclr": SimCLR}
