"""Architectures, one a file. Importing this package registers them with timm."""

from .reactnet import ReActNet as ReActNet
from .resnet_cifar import CifarResNet as CifarResNet

MODEL_MODULES = ("reactnet",)  # the binary ones; timm's name for a registered module is its last dotted component
