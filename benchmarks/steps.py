"""The training steps that are timed against each other, and the memory of one, in a process that runs this file."""

import contextlib
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from reference_style import in_reference_style
from timm.data import resolve_model_data_config

from burn_timm import memory
from burn_timm.data.loader import seed_for
from burn_timm.errors import BurnError
from burn_timm.nn import Backbone, weights_held
from burn_timm.training.build import build_method, build_student, build_teacher
from burn_timm.training.optimizer import make_optimizer
from burn_timm.training.options import parse_options
from burn_timm.training.speed import apply, choose


@dataclass(frozen=True)
class Row:
    title: str
    reference: bool = False
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False


ROWS = {"reference": Row("reference style, fp32", reference=True)}
for _how in ("eager", "compiled"):
    for _dtype in ("fp32", "bf16"):
        for _layout in ("", "-cl"):
            ROWS[f"{_how}-{_dtype}{_layout}"] = Row(
                f"ours, {_how}, {_dtype}{', channels_last' if _layout else ''}", bf16=_dtype == "bf16",
                channels_last=bool(_layout), compiled=_how == "compiled",
            )


@dataclass
class Setting:
    """What all rows share. `options` are further ones of train_burn.py, for both styles."""

    model: str
    img_size: int
    batch_size: int
    device: str
    whole: bool
    teacher: str
    options: Sequence[str] = ()


class Alone(torch.nn.Module):
    """A student in the place of a method."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone


class Step:
    """One optimiser step of a row on one batch of noise: forward, backward, update. Calling it runs it.

    Ours is built by the functions of train_burn.py, in its order. The reference style differs in the network, in plain
    Adam, and in having neither autocast nor compiler; heads, losses and teacher are the same modules.
    Left out of both: reading data, the learning rate's schedule, checks and logging.
    """

    def __init__(self, row: Row, setting: Setting):
        self.row, self.setting = row, setting
        self.device = torch.device(setting.device)
        args = parse_options([
            "--method", "burn", "--model", setting.model, "--stages", "w1a1", "--img-size", str(setting.img_size),
            "--batch-size", str(setting.batch_size), "--teacher", setting.teacher, "--no-teacher-pretrained",
            "--teacher-img-size", str(setting.img_size), *setting.options,
        ])
        if setting.whole:
            teacher, _ = build_teacher(args)
            trained = build_method(args, "w1a1", 0, teacher, None, 1.0)
            backbone = trained.backbone
        else:
            model = build_student(args, "w1a1", seed_for(args.seed, 0))
            config = resolve_model_data_config(model)
            trained = backbone = Backbone(model, config["mean"], config["std"], (args.img_size, args.img_size))
        if row.reference:
            in_reference_style(backbone.model)
            self.optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=args.lr)
        else:
            args = replace(args, compile=row.compiled, channels_last=row.channels_last)
            args = replace(args, **choose(args, self.device, "bf16" if row.bf16 else "no", steps=1, tell=False))
            apply(trained if setting.whole else Alone(backbone), args)
            self.optimizer = make_optimizer(args, trained.to(self.device), args.weight_decay[0])
        self.trained = trained.to(self.device).train()
        generator = torch.Generator().manual_seed(0)
        views = trained.n_views if setting.whole else 1
        shape = (setting.batch_size, views, 3, setting.img_size, setting.img_size)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(self.device)

    def loss(self) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.row.bf16):
            if self.setting.whole:
                target = torch.full((self.setting.batch_size,), -1, device=self.device)
                return self.trained({"views": self.images, "target": target}, 0.5)["loss"]
            return self.trained(self.images[:, 0]).float().square().mean()

    def __call__(self) -> None:
        with contextlib.nullcontext() if self.row.reference else weights_held(self.trained):
            self.loss().backward()
        self.optimizer.step()
        self.trained.zero_grad()
        if self.setting.whole:
            self.trained.after_step(0.5)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(name: str, setting: Setting, threads: int) -> dict:
    """Memory of a row's step in a process of its own, or dict(error) where that fails.

    Returns:
        peak_bytes: Most memory in use during a step after the first, without what the process held before the networks
            were built: weights, gradients, optimiser and activations. Resident on a CPU, allocated by torch on a GPU.
        saved_bytes: Kept for the backward pass, parameters and buffers left out.
    """
    job = json.dumps({"name": name, "setting": asdict(setting), "threads": threads})
    try:
        return memory.in_own_process([__file__, job])
    except BurnError as error:
        return {"error": str(error)}


def measure_here(name: str, setting: Setting) -> dict:
    row, cuda = ROWS[name], setting.device.startswith("cuda")
    # The same step of a tiny network first, so that the code of torch, its compiler and the kernels does not count.
    Step(row, replace(setting, model="test_reactnet", teacher="test_resnet", batch_size=2))()
    gc.collect()
    before = torch.cuda.memory_allocated() if cuda else memory.resident()
    step = Step(row, setting)
    step()
    gc.collect()
    torch.cuda.reset_peak_memory_stats() if cuda else memory.reset_peak()
    step()
    peak = torch.cuda.max_memory_allocated() if cuda else memory.peak()
    return {"peak_bytes": peak - before, "saved_bytes": saved_bytes(step)}


def saved_bytes(step: Step) -> int:
    """Bytes that a forward pass keeps for the backward one, each storage counted once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*step.trained.parameters(), *step.trained.buffers())}
    kept: dict[int, torch.Tensor] = {}  # held, so that no address is used again while we count

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.loss()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    print(json.dumps(measure_here(job["name"], Setting(**job["setting"]))))
