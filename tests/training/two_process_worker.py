"""Run by test_two_processes.py in one and in two processes: three steps of each method, losses and gradients to a file.

Float64 on the CPU, BatchNorm in eval mode: what remains between 1 x 32 and 2 x 16 images is whether the losses,
negatives and mean class distributions are those of the whole batch.
"""

import sys

import timm
import torch
from accelerate import Accelerator

import burn_timm  # noqa: F401
from burn_timm.data.datasets import open_dataset
from burn_timm.data.loader import make_train_loader
from burn_timm.data.views import make_view
from burn_timm.methods import METHODS
from burn_timm.nn import Backbone

STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Queues that the first step fills (32 images), so that the next ones use it.
OPTIONS = {
    "burn": {"head_dim": 24, "views": "cross", "information_weight": 0.5},
    "s2bnn": {"contrastive_weight": 1.0, "queue_size": 40},
    "byol": {"hidden_dim": 16, "head_dim": 8, "target_momentum": 0.5},
    "swav": {
        "epochs": 1, "hidden_dim": 16, "head_dim": 8, "prototypes": 12, "queue_size": 30, "queue_start_epoch": 0,
        "freeze_prototypes_epochs": 0, "small_views": 1,
    },
    "mocov2": {"head_dim": 8, "queue_size": 40, "target_momentum": 0.5},
    "infomin": {"head_dim": 8, "queue_size": 40, "target_momentum": 0.5},
    "supervised": {"num_classes": 10},
}


def main(batch_size: int, output: str) -> None:
    accelerator = Accelerator(cpu=True)
    records = {name: three_steps(name, batch_size, accelerator) for name in METHODS}
    if accelerator.is_main_process:
        torch.save(records, output)


def three_steps(name: str, batch_size: int, accelerator: Accelerator) -> list[dict]:
    torch.manual_seed(0)
    student = Backbone(timm.create_model("test_reactnet", num_classes=0), *STATS)
    kwargs = {"student_dim": 128, **OPTIONS.get(name, {})}
    if METHODS[name].teacher_output:
        teacher = Backbone(timm.create_model("test_resnet", num_classes=0), *STATS)
        kwargs.update(teacher=teacher, teacher_dim=teacher.model.num_features)
    method = METHODS[name](student, **kwargs).double().train()  # queues are filled in training mode only
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    plain = method
    method, optimizer = accelerator.prepare(method, optimizer)
    source = open_dataset("digits")
    loader = make_train_loader(
        source, make_view("light", 32, 0.0), n_views=plain.n_views, small_view=make_view("light", 16, 0.0),
        n_small_views=plain.n_small_views, batch_size=batch_size, seed=1,
        rank=accelerator.process_index, world_size=accelerator.num_processes, start_micro_step=0,
        micro_steps_per_epoch=40, total_micro_steps=3, workers=0,
    )
    record = []
    for step, batch in enumerate(loader):
        values = method(batch, step / 3)
        accelerator.backward(values["loss"])
        scalars = {
            key: accelerator.reduce(torch.as_tensor(float(value), dtype=torch.float64), "mean")
            for key, value in values.items()
        }
        gradients = {key: p.grad.clone() for key, p in plain.named_parameters() if p.grad is not None}
        queues = {key: value.clone() for key, value in plain.state_dict().items() if key.endswith(("queue", "seen"))}
        record.append({
            "scalars": scalars, "gradients": gradients, "queues": queues, "processes": accelerator.num_processes,
        })
        optimizer.step()
        optimizer.zero_grad()
        plain.after_step(step / 3)
    return record


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
