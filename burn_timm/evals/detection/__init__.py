"""Detection on Pascal VOC: the whole backbone is fine-tuned inside a Faster R-CNN, unlike in the other tasks."""

from .options import add_options, check
from .task import DESCRIPTION, evaluate

__all__ = ["DESCRIPTION", "add_options", "check", "evaluate"]
