"""Detection on Pascal VOC: the whole backbone is fine-tuned inside a Faster R-CNN, unlike in the other tasks."""

from .task import DESCRIPTION, add_options, evaluate

__all__ = ["DESCRIPTION", "add_options", "evaluate"]
