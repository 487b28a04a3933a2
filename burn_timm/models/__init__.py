"""Architectures, one a file. Importing this package registers them with timm."""

from .reactnet import ReActNet as ReActNet

MODEL_MODULES = ("reactnet",)  # timm's name for a registered module is its last dotted component
