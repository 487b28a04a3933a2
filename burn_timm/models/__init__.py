"""Architectures, one a file; importing this registers them with timm. `protocol` says what a binary one offers."""

from .protocol import BinaryNetwork as BinaryNetwork
from .protocol import BinaryUnit as BinaryUnit
from .protocol import is_binary as is_binary
from .reactnet import ReActNet as ReActNet
from .resnet_cifar import CifarResNet as CifarResNet

# timm's names of the modules (their last dotted component), for `timm.list_models(module=...)`.
BINARY_MODULES = ("reactnet",)
MODULES = (*BINARY_MODULES, "resnet_cifar")
