"""Damaged files for campaign.py: each must end in an error of one line, or in the outputs of the whole file.

network.bin is damaged in C, under sanitizers: deploy/mutate.c.
"""

import copy
import hashlib
import io
import json
import random
from pathlib import Path

import safetensors.torch
import timm
import torch
from deploy.networks import lively
from exported import write_export

from burn_timm import deploy, runs
from burn_timm.checkpoints import load_model
from burn_timm.deploy.export import export
from burn_timm.errors import BurnError
from burn_timm.packing import METADATA, checksum_mark, save_tensors
from burn_timm.training.state import VERSION, Checkpoint, load_checkpoint

IDENTITY = {"options": {"lr": 1e-3}, "images": 10}
ODD = (None, True, -1, 0, 1, 2, 3.5, 1e9, 10**30, float("nan"), float("inf"), "", "2", "x" * 5000, [], {}, [0, 0, 0],
       ["a"], {"a": [None]}, "meta", "resnet18", "test_vit", "../../x", "C:\\x", [1e9, 1e9, 1e9, 1e9])


class Files:
    """A tiny network in every form that is stored, and what each form gives when it is read."""

    def __init__(self, folder: Path):
        self.folder = folder
        model = lively()
        self.images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        write_export(folder, model, {"input_size": (3, 32, 32)}, weight_bits=1, act_bits=1)
        export(model, folder / "c", "c", 32)
        optimizer = torch.optim.AdamW(model.parameters())
        model(self.images).sum().backward()
        optimizer.step()
        corrupt, seconds = {"total": 9, "indices": [4]}, {"train_seconds": 1.5}
        state = Checkpoint(0, 3, model.state_dict(), optimizer.state_dict(), None, corrupt, seconds)
        state.save(folder / "checkpoint.pt", IDENTITY)
        # name: (file to damage, what reads it, how often, what makes checksums right again, may outputs be others?)
        self.targets = {
            "packed": ("model.safetensors", self.packed, 3, None, False),
            "packed, resealed": ("model.safetensors", self.packed, 2, self.seal_packed, True),
            "export": ("model.safetensors", self.exported, 3, None, False),
            "export, resealed": ("model.safetensors", self.exported, 2, self.seal_packed, True),
            "export in timm": ("model.safetensors", self.in_timm, 1, None, False),
            "config": ("config.json", self.exported, 3, None, False),
            "checkpoint": ("checkpoint.pt", self.checkpoint, 3, None, False),
            "checkpoint, resealed": ("checkpoint.pt", self.checkpoint, 2, self.seal_checkpoint, True),
            "C config": ("c/config.json", self.c, 2, None, False),
        }
        self.expected = {name: fingerprint(read()) for name, (_, read, *_) in self.targets.items()}
        self.weights = [target[2] for target in self.targets.values()]

    def packed(self):
        return load_model("test_reactnet", self.folder / "model.safetensors", num_classes=10)(self.images)

    def exported(self):
        return load_model(f"local-dir:{self.folder}", num_classes=None)(self.images)

    def in_timm(self):
        """Without the file's classifier: then timm loads what is left unstrictly."""
        try:
            return timm.create_model(f"local-dir:{self.folder}", pretrained=True, num_classes=0).eval()(self.images)
        except Exception as error:  # before our code sees anything, timm and safetensors raise errors of their own
            raise BurnError("timm's own") from error

    def checkpoint(self):
        return vars(load_checkpoint(self.folder / "checkpoint.pt", IDENTITY))

    def c(self):
        return deploy.load(self.folder / "c", threads=1)(self.images)

    def seal_packed(self, data: bytes, rng: random.Random) -> None:
        """Change some tensors of the whole file, or take those of the damaged one, with the checksum of the result."""
        path = self.folder / "model.safetensors"
        try:
            tensors = safetensors.torch.load(data)
        except Exception:
            tensors = safetensors.torch.load_file(path)
            for _ in range(rng.randint(1, 3)):
                change_tensor(tensors, rng)
        tensors["burn_packed"] = checksum_mark(tensors)
        save_tensors(path, tensors, METADATA)

    def seal_checkpoint(self, data: bytes, rng: random.Random) -> None:
        """Half of them whole, but with other content."""
        path = self.folder / "checkpoint.pt"
        if rng.random() < 0.5:
            identity, content = runs.load_checkpoint(path, VERSION)
            return runs.save_checkpoint(path, VERSION, identity, changed_tree(content, rng))
        data = data[:-48]
        (self.folder / "checkpoint.pt").write_bytes(data + b"burn-timm sha256" + hashlib.sha256(data).digest())

    def run(self, rng: random.Random) -> tuple[str, str | None]:
        """One case: its kind with the outcome, and what is wrong."""
        name = rng.choices(list(self.targets), self.weights)[0]
        file, read, _, seal, others = self.targets[name]
        path = self.folder / file
        whole = path.read_bytes()
        try:
            damaged = mutate_json(whole, rng) if file.endswith(".json") else mutate(whole, rng)
            path.write_bytes(damaged)
            if seal:
                path.write_bytes(whole)
                seal(damaged, rng)
            try:
                found = fingerprint(read())
            except BurnError as error:
                wrong = "\n" in str(error) or len(str(error)) > 1000
                return f"{name}: refused", f"{name}: no single line: {error}"[:500] if wrong else None
        finally:
            path.write_bytes(whole)
        if found == self.expected[name]:
            return f"{name}: the same outputs", None
        return f"{name}: other outputs", None if others else f"{name}: other outputs"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, swapped and zeroed blocks, appended bytes; every third place is near the beginning."""
    changed = bytearray(data)

    def place() -> int:
        return rng.randrange(min(len(data), 4096) if rng.random() < 0.33 else len(data))

    kind = rng.randrange(8)
    if kind == 0:
        changed[place()] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.randint(2, 30)):
            changed[place()] = rng.randrange(256)
    elif kind == 2:
        del changed[place() :]
    elif kind == 3:
        start = place()
        del changed[start : start + rng.randint(1, 4096)]
    elif kind == 4:
        size, one, two = rng.randint(1, 512), place(), place()
        changed[one : one + size], changed[two : two + size] = data[two : two + size], data[one : one + size]
    elif kind == 5:
        start, size = place(), rng.randint(1, 4096)
        changed[start : start + size] = bytes(len(changed[start : start + size]))
    elif kind == 6:
        changed += rng.randbytes(rng.randint(1, 4096))
    else:
        start = place()
        changed[start:start] = rng.randbytes(rng.randint(1, 64))
    return bytes(changed)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """As `mutate`, or with values of the tree replaced by odd ones, renamed, removed or nested."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutate(data, rng)
    if kind == 1 and rng.random() < 0.2:
        return b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    return json.dumps(changed_tree(json.loads(data), rng)).encode()


def changed_tree(tree: dict, rng: random.Random) -> dict:
    """With one or two entries removed, renamed, or replaced by odd values."""
    for _ in range(rng.randint(1, 2)):
        holder = tree
        while True:
            key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if not (isinstance(holder[key], (dict, list)) and holder[key]) or rng.random() < 0.3:
                break
            holder = holder[key]
        what = rng.randrange(4)
        if what == 0 or what == 1 and not isinstance(holder, dict):
            del holder[key]
        elif what == 1:
            holder[f"{key}q"[-8:]] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        if not tree or not holder:
            break
    return tree


def change_tensor(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kind = rng.randrange(8)
    if kind == 0:
        return  # removed
    if kind == 1:
        name = rng.choice((name[:-1], f"{name}_bits", f"{name}_scale", "é" * 9, "", "head.fc.weight", "__metadata__x"))
    elif kind == 2:
        tensor = tensor.to(rng.choice((torch.float16, torch.float64, torch.int8, torch.bool, torch.int64)))
    elif kind == 3:
        tensor = tensor[: len(tensor) // 2] if tensor.ndim else tensor[None]
    elif kind == 4:
        tensor = tensor.reshape(-1) if rng.random() < 0.5 else tensor[None]
    elif kind == 5:
        tensor = torch.full_like(tensor, rng.choice((0, 1, 255) if tensor.dtype == torch.uint8 else (0, 1)))
    elif kind == 6 and tensor.is_floating_point():
        tensor = tensor * rng.choice((-1, float("nan"), float("inf"), 1e30))
    else:
        tensors[f"{name}.more"] = torch.ones(2)
    tensors[name] = tensor.contiguous()


def fingerprint(value) -> bytes:
    """The same for the same values, however deep they lie."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return hashlib.sha256(stream.getvalue()).digest()
