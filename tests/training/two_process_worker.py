"""Run by test_two_processes.py in one and in two processes: three steps, losses and gradients to a file.

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


def main(name: str, batch_size: int, output: str) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    student = Backbone(timm.create_model("test_reactnet", num_classes=0), *STATS)
    kwargs = {"student_dim": 128}
    if name == "burn":
        teacher = Backbone(timm.create_model("test_resnet", num_classes=0), *STATS)
        kwargs.update(
            teacher=teacher, teacher_dim=teacher.model.num_features, head_dim=24, views="cross", information_weight=0.5,
        )
    method = METHODS[name](student, **kwargs).double().eval()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    plain = method
    method, optimizer = accelerator.prepare(method, optimizer)
    source = open_dataset("digits")
    loader = make_train_loader(
        source, make_view("light", 32, 0.0), n_views=2, batch_size=batch_size, seed=1,
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
        record.append({"scalars": scalars, "gradients": gradients, "processes": accelerator.num_processes})
        optimizer.step()
        optimizer.zero_grad()
    if accelerator.is_main_process:
        torch.save(record, output)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
