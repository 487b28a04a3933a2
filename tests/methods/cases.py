"""Every method at a size for tests, on scanned digits."""

import timm

from burn_timm.methods import METHODS
from burn_timm.methods.base import Method
from burn_timm.nn import Backbone

STATS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SIDE = 32
OPTIONS = {
    "burn": {"head_dim": 12},
    "burn_information": {
        "head_dim": 12, "target_head": "information", "information_weight": 0.5, "fs_loss": "relations",
    },
    "s2bnn": {},
    "s2bnn_contrastive": {"contrastive_weight": 0.7, "queue_size": 20, "target_momentum": 0.9},
    "byol": {"hidden_dim": 16, "head_dim": 6, "target_momentum": 0.9},
    "swav": {
        "epochs": 2, "hidden_dim": 16, "head_dim": 6, "prototypes": 10, "queue_size": 12, "queue_start_epoch": 0,
        "freeze_prototypes_epochs": 0, "small_views": 2,
    },
    "mocov2": {"head_dim": 6, "queue_size": 20, "target_momentum": 0.9},
    "simclr": {"head_dim": 6},
    "simclr_v2": {"head_dim": 6, "head_layers": 3},
    "infomin": {"head_dim": 6, "queue_size": 20, "target_momentum": 0.9},
    "supervised": {"num_classes": 10},
    "supervised_kl": {"temperature": 2.0},
}
NAMES = {"burn_information": "burn", "s2bnn_contrastive": "s2bnn", "simclr_v2": "simclr"}


def make(case: str, **kwargs) -> Method:
    """The method of a case, on test_reactnet; its teacher is a random test_resnet."""
    method_class = METHODS[NAMES.get(case, case)]
    student = Backbone(timm.create_model("test_reactnet", num_classes=0), *STATS, (SIDE, SIDE))
    options = {"student_dim": 128, **OPTIONS[case], **kwargs}
    if method_class.teacher_output:
        classes = {"num_classes": 0} if method_class.teacher_output == "features" else {"num_classes": 9}
        teacher = timm.create_model("test_resnet", **classes)
        options.update(teacher=Backbone(teacher, *STATS), teacher_dim=classes["num_classes"] or teacher.num_features)
    return method_class(student, **options)


def batch_of(method: Method, digits, count: int = 8, start: int = 0) -> dict:
    """A batch for `method`; view v of image i is another digit of the set, small views are corners of it."""
    images, labels = digits
    total = method.n_views + method.n_small_views
    views = images[start : start + count * total].view(total, count, 3, SIDE, SIDE).transpose(0, 1)
    batch = {"views": views[:, : method.n_views], "target": labels[start : start + count]}
    if method.n_small_views:
        batch["small_views"] = views[:, method.n_views :, :, :16, :16]
    return batch
