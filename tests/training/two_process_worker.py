"""Run by test_two_processes.py, also as a script: `BATCH_SIZE RECORDS WORDS OF train_burn.py`.

Two steps of each case, in one and in two processes: losses and gradients go into the file RECORDS. Then, in the same
processes, a run of train_burn.py with the words given; threads.RANK.json in its folder holds the names of the threads
that it leaves.

Float64 on the CPU, BatchNorm in eval mode: what remains between 1 x 32 and 2 x 16 images is whether the losses,
negatives and mean class distributions are those of the whole batch. BatchNorm in training mode is what the shuffled
keys are for: `shuffled_keys`.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn as nn
from accelerate import Accelerator
from accelerate.utils import gather_object
from methods.cases import OPTIONS, make

import train_burn
from burn_timm.data.datasets import open_dataset
from burn_timm.data.loader import ViewDataset, make_train_loader
from burn_timm.data.views import make_view, view_groups
from burn_timm.distributed import gather_over_processes
from burn_timm.errors import BurnError
from burn_timm.methods.moco import MomentumKeys
from burn_timm.training.processes import on_main_process

# Queues that the first step fills or nearly so (32 images), so that the second uses it and overwrites its oldest.
ALSO = {
    "burn": {"views": "cross", "information_weight": 0.5},
    "swav": {"queue_size": 30, "small_views": 1},
    **{case: {"queue_size": 40, "target_momentum": 0.5} for case in ("s2bnn_contrastive", "mocov2", "infomin")},
}


def record(batch_size: int, output: Path | str) -> None:
    accelerator = Accelerator(cpu=True)
    records = {case: two_steps(case, batch_size, accelerator) for case in OPTIONS}
    records["shuffled keys"] = shuffled_keys(batch_size, accelerator.process_index)
    records["refused"] = refused()
    if accelerator.is_main_process:
        torch.save(records, output)


def refused() -> list[str]:
    """What each process hears of an error that the main process alone has met."""
    def refuse() -> None:
        raise BurnError("me/student holds files")

    try:
        on_main_process(refuse)
    except BurnError as error:
        return gather_object([str(error)])
    return []


def encoder() -> nn.Sequential:
    """Images `[B, 3, 8, 8]` to `[B, 5]`, with a BatchNorm and the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)).double()


def shuffled_keys(batch_size: int, process: int) -> list[dict]:
    """Two steps of MoCo's key encoder in training mode: what its BatchNorm saw in each process, and the keys."""
    torch.manual_seed(1)
    everything = torch.randn(2, 32, 3, 8, 8, dtype=torch.float64)
    keys = MomentumKeys(encoder(), nn.Identity(), dim=5, size=64, momentum=0.9).double().train()
    seen = []
    keys.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    steps = []
    for images in everything:
        mine = images[process * batch_size : (process + 1) * batch_size]
        found = keys(mine)
        keys.queue.put(found)
        steps.append({
            "images": images, "seen": gather_over_processes(seen.pop()).view(-1, batch_size, 3, 8, 8),
            "keys": gather_over_processes(found),
        })
    return steps


def two_steps(name: str, batch_size: int, accelerator: Accelerator) -> list[dict]:
    torch.manual_seed(0)
    method = make(name, **ALSO.get(name, {})).double().train()  # queues are filled in training mode only
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    plain = method
    method, optimizer = accelerator.prepare(method, optimizer)
    view, small = make_view("light", 32, 0.0), make_view("light", 16, 0.0)
    groups = view_groups(view, plain.n_views, small, plain.n_small_views)
    loader = make_train_loader(
        ViewDataset(open_dataset("digits"), groups, seed=1), batch_size=batch_size, rank=accelerator.process_index,
        world_size=accelerator.num_processes, micro_steps_per_epoch=40, total_micro_steps=2, workers=0,
    )
    steps = []
    for step, batch in enumerate(loader):
        values = method(batch, step / 2)
        accelerator.backward(values["loss"])
        scalars = {
            key: accelerator.reduce(torch.as_tensor(value, dtype=torch.float64).detach(), "mean")
            for key, value in values.items()
        }
        gradients = {key: p.grad.clone() for key, p in plain.named_parameters() if p.grad is not None}
        kept = ("newest", "extra_state")
        queues = {key: value.clone() for key, value in plain.state_dict().items() if key.endswith(kept)}
        steps.append({
            "scalars": scalars, "gradients": gradients, "queues": queues, "processes": accelerator.num_processes,
        })
        optimizer.step()
        optimizer.zero_grad()
        plain.after_step(step / 2)
    return steps


def train(words: list[str]) -> None:
    try:
        train_burn.main(words)
    finally:
        tasks = Path("/proc/self/task")  # none on other systems than Linux
        names = sorted(task.read_text().strip() for task in tasks.glob("*/comm"))
        output = Path(words[words.index("--output") + 1])
        (output / f"threads.{os.environ['RANK']}.json").write_text(json.dumps(names))


def work(batch_size: int, output: Path | str, words: list[str]) -> None:
    record(batch_size, output)
    train(words)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
