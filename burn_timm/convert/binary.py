"""ReActNet, S2-BNN and BURN checkpoints to the names of `burn_timm.models.reactnet`.

Layouts (facts of the published code: liuzechun/ReActNet, szq0214/S2-BNN, naver-ai/burn). All number ReActNet-A's blocks
through: `feature.0` is the stem, `feature.N` block N, in which `move..` are shifts. Where a block doubles its width it
has two 1x1 branches, `binary_pw_down1/2` with `bn2_1/2`; ours is one convolution with their outputs side by side.
S2-BNN carries both forms in every block and uses one. ReActNet-18 is `layerS.N` with one convolution a block.
"""

import re
from pathlib import Path

import timm
import torch

from .. import packing
from ..checkpoints import burn_models
from ..errors import BurnError
from .source import Converted, Ledger, Source

STAGES = tuple(stage for stage, (_, act_bits) in packing.STAGES.items() if act_bits == 1)
_BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_PAIR = {  # name in the checkpoint: name in a PairBlock
    "move11.bias": "sign1.bias", "move12.bias": "act1.shift1.bias", "prelu1.weight": "act1.prelu.weight",
    "move13.bias": "act1.shift2.bias", "move21.bias": "sign2.bias", "move22.bias": "act2.shift1.bias",
    "prelu2.weight": "act2.prelu.weight", "move23.bias": "act2.shift2.bias",
}
_SINGLE = {
    "move0.bias": "sign.bias", "move1.bias": "act.shift1.bias", "prelu.weight": "act.prelu.weight",
    "move2.bias": "act.shift2.bias",
}


def convert_reactnet(source: Source, stage: str | None, part: str | None, keep_hidden: bool) -> Converted:
    """ReActNet-A or ReActNet-18, with its classifier."""
    _only(source, "reactnet", part, ("network",))
    _no_hidden(source, "reactnet", keep_hidden)
    ledger = Ledger(source)
    if source.mentions(".binary_conv."):
        tensors, args = _singles(ledger, "")
        told = None
    else:
        tensors, args = _pairs(ledger, "")
        told = "w1a1" if any(name.endswith(".weights") for name in source.tensors) else None
    classes = _linear(ledger, "fc", tensors, "head.fc")
    return _finish("reactnet", ledger, tensors, args, _stage(source, told, stage, tensors), classes)


def convert_s2bnn(source: Source, stage: str | None, part: str | None, keep_hidden: bool) -> Converted:
    """S2-BNN: one encoder of a MoCo layout, without projection head; or its linear evaluation, with classifier."""
    _no_hidden(source, "s2bnn", keep_hidden)
    parts = [name for name in ("encoder_q", "encoder_k") if source.has(f"{name}.")] or ["network"]
    part = _only(source, "s2bnn", part, parts)
    root = "" if part == "network" else f"{part}."
    ledger, classes = Ledger(source), 0
    tensors, args = _pairs(ledger, root)
    for other in parts:
        if other != part:
            ledger.drop(f"{other}.", f"the other encoder; --part {other} converts it")
    ledger.drop("queue", "queue of negatives")
    if root or source.has("fc.0."):
        ledger.drop(f"{root}fc.", "projection head")
    elif source.has("fc."):
        classes = _linear(ledger, "fc", tensors, "head.fc")
    stage = _stage(source, None, stage, tensors)
    return _finish("s2bnn", ledger, tensors, args, stage, classes, part)


def convert_burn(source: Source, stage: str | None, part: str | None, keep_hidden: bool) -> Converted:
    """BURN, whole or extracted: the student's backbone; `keep_hidden` keeps its Linear + ReLU as the head's."""
    _only(source, "burn", part, ("backbone", "teacher"))  # the teacher is no business of this function
    roots = ("backbone.", "online_net.0.", "")
    root = next((root for root in roots if source.has(f"{root}feature.")), "backbone.")
    ledger, classes = Ledger(source), 0
    tensors, args = _pairs(ledger, root)
    hidden = f"{root}fc.0"
    if keep_hidden:
        if f"{hidden}.weight" not in source.tensors:
            raise BurnError(f"{source.path}: --keep-hidden, but there is no hidden layer {hidden} in the file")
        args["head_hidden_size"] = _linear(ledger, hidden, tensors, "head.pre_logits.fc")
    behind = "" if keep_hidden or f"{hidden}.weight" not in source.tensors else " behind the hidden layer"
    ledger.drop(f"{hidden}.", "hidden layer of the head; --keep-hidden keeps it")
    if source.has("head.fc_cls.") and not behind:
        classes = _linear(ledger, "head.fc_cls", tensors, "head.fc")
    ledger.drop("head.fc_cls.", f"classifier{behind}")
    if root != "online_net.0.":
        ledger.drop_twin("online_net.0.", root)
    for prefix, reason in (
        ("online_net.1.", "student's classifier"), ("classifier.", "student's classifier"),
        ("diff_branch_net.0.", "teacher; --part teacher converts it"),
        ("diff_branch_net.1.", "teacher's classifier"), ("teacher_classifier.", "teacher's classifier"),
        ("diff_branch_head.", "loss"),
    ):
        ledger.drop(prefix, reason)
    text = " ".join(source.texts.values())
    told = re.search(r"type\s*=\s*['\"]ReActnet(_Binact)?['\"]", text)
    told = told and ("w32a1" if told[1] else "w1a1")
    args["act_grad"] = "clip"
    return _finish("burn", ledger, tensors, args, _stage(source, told, stage, tensors), classes, "backbone")


def _only(source: Source, layout: str, part: str | None, parts: tuple[str, ...] | list[str]) -> str:
    if part is not None and part not in parts:
        raise BurnError(f"{source.path}: --part {part}: a {layout} file of this kind has {', '.join(parts)}")
    return part or parts[0]


def _no_hidden(source: Source, layout: str, keep_hidden: bool) -> None:
    if keep_hidden:
        raise BurnError(f"{source.path}: --keep-hidden is for BURN's hidden layer; a {layout} file has none")


def _stage(source: Source, told: str | None, asked: str | None, tensors: dict[str, torch.Tensor]) -> str:
    """What the user says, else what the file tells, by its keys, its settings or scaled signs."""
    if asked or told:
        return asked or told
    if all(packing.is_scaled_sign(tensor) for name, tensor in tensors.items() if _is_binary(name)):
        return "w1a1"
    raise BurnError(
        f"{source.path}: nothing in the file tells its stage; pass --stage w1a1 if its weights were trained with 1 bit "
        "(step 2), --stage w32a1 if only its activations were (step 1)"
    )


def _is_binary(name: str) -> bool:
    return bool(re.search(r"^stages\.\d+\.\d+\.conv[12]?\.weight$", name))


def _pairs(ledger: Ledger, root: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The blocks of ReActNet-A under `root`: tensors in our names, and the arguments of the model they make."""
    tensors = {"stem.conv.weight": ledger.take(f"{root}feature.0.conv1.weight")}
    _batch_norm(ledger, [f"{root}feature.0.bn1"], tensors, "stem.bn")
    numbers = _numbers(ledger.source, rf"^{re.escape(root)}feature\.(\d+)\.")
    channels, depths = [], []
    for number in numbers[1:]:
        at = f"{root}feature.{number}"
        shifts = {ours: ledger.take(f"{at}.{theirs}").flatten() for theirs, ours in _PAIR.items()}
        width, out = len(shifts["sign1.bias"]), len(shifts["act2.shift2.bias"])
        doubles = out == 2 * width
        if doubles or not channels:
            channels.append(out)
            depths.append(0)
        to = f"stages.{len(channels) - 1}.{depths[-1]}"
        depths[-1] += 1
        tensors |= {f"{to}.{name}": tensor for name, tensor in shifts.items()}
        tensors[f"{to}.conv1.weight"] = _kernel(ledger, f"{at}.binary_3x3", width, 3)
        _batch_norm(ledger, [f"{at}.bn1"], tensors, f"{to}.bn1")
        branches, norms = (("binary_pw_down1", "binary_pw_down2"), ("bn2_1", "bn2_2")) if doubles else (
            ("binary_pw",), ("bn2",))
        kernels = [_kernel(ledger, f"{at}.{branch}", width, 1) for branch in branches]
        tensors[f"{to}.conv2.weight"] = torch.cat(kernels)
        _batch_norm(ledger, [f"{at}.{norm}" for norm in norms], tensors, f"{to}.bn2")
    unused = re.compile(rf"^{re.escape(root)}feature\.\d+\.(binary_pw(_down[12])?|bn2(_[12])?)\.")
    ledger.drop(lambda name: bool(unused.match(name)), "branches that no block uses")
    stem = len(tensors["stem.conv.weight"])
    return tensors, {"block": "pair", "stem_chs": stem, "channels": tuple(channels), "depths": tuple(depths)}


def _singles(ledger: Ledger, root: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The blocks of ReActNet-18 or -34."""
    tensors = {"stem.conv.weight": ledger.take(f"{root}conv1.weight")}
    _batch_norm(ledger, [f"{root}bn1"], tensors, "stem.bn")
    channels, depths = [], []
    for layer in _numbers(ledger.source, rf"^{re.escape(root)}layer(\d+)\."):
        numbers = _numbers(ledger.source, rf"^{re.escape(root)}layer{layer}\.(\d+)\.")
        for number in numbers:
            at, to = f"{root}layer{layer}.{number}", f"stages.{layer - 1}.{number}"
            tensors |= {f"{to}.{ours}": ledger.take(f"{at}.{theirs}").flatten() for theirs, ours in _SINGLE.items()}
            width = len(tensors[f"{to}.sign.bias"])
            tensors[f"{to}.conv.weight"] = _kernel(ledger, f"{at}.binary_conv", width, 3)
            _batch_norm(ledger, [f"{at}.bn1"], tensors, f"{to}.bn")
            if f"{at}.downsample.1.weight" in ledger.left:
                tensors[f"{to}.downsample.conv.weight"] = ledger.take(f"{at}.downsample.1.weight")
                _batch_norm(ledger, [f"{at}.downsample.2"], tensors, f"{to}.downsample.bn")
        channels.append(len(tensors[f"{to}.bn.weight"]))
        depths.append(len(numbers))
    stem = len(tensors["stem.conv.weight"])
    return tensors, {"block": "single", "stem_chs": stem, "channels": tuple(channels), "depths": tuple(depths)}


def _numbers(source: Source, pattern: str) -> list[int]:
    """The numbers that `pattern` finds in the names; BurnError where one between the first and the last is missing."""
    numbers = sorted({int(found[1]) for name in source.tensors if (found := re.match(pattern, name))})
    for number, expected in zip(numbers, range(numbers[0], numbers[-1]), strict=False):
        if number != expected:
            name = pattern.lstrip("^").replace("\\", "").replace("(d+)", str(expected)).rstrip(".")
            raise BurnError(f"{source.path}: {name} is missing as a whole; is the file complete?")
    return numbers


def _kernel(ledger: Ledger, at: str, width: int, size: int) -> torch.Tensor:
    """A binary weight `[O, I, k, k]`, stored as such (`weight`) or flat (`weights`, `[O*I*k*k, 1]`)."""
    flat = f"{at}.weights" in ledger.left
    tensor = ledger.take(f"{at}.weights" if flat else f"{at}.weight")
    columns = width * size * size
    if tensor.numel() % columns or (not flat and tuple(tensor.shape[1:]) != (width, size, size)):
        raise BurnError(
            f"{ledger.source.path}: {at} is {list(tensor.shape)}, but a {size}x{size} kernel on {width} channels is due"
        )
    return tensor.reshape(-1, width, size, size)


def _batch_norm(ledger: Ledger, sources: list[str], tensors: dict[str, torch.Tensor], to: str) -> None:
    for name in _BN:
        found = [f"{at}.{name}" for at in sources]
        if name != "num_batches_tracked":
            tensors[f"{to}.{name}"] = torch.cat([ledger.take(key) for key in found])
        else:  # older files have none; it matters to no forward pass
            counts = [ledger.take(key) for key in found if key in ledger.left]
            tensors[f"{to}.{name}"] = counts[0] if counts else torch.tensor(0)


def _linear(ledger: Ledger, at: str, tensors: dict[str, torch.Tensor], to: str) -> int:
    for name in ("weight", "bias"):
        tensors[f"{to}.{name}"] = ledger.take(f"{at}.{name}")
    return len(tensors[f"{to}.bias"])


def _finish(
    layout: str, ledger: Ledger, tensors: dict, args: dict, stage: str, classes: int, part: str = "network",
) -> Converted:
    ledger.close(layout)
    shape = {name: args.pop(name) for name in ("block", "stem_chs", "channels", "depths")}
    name, rest = _architecture(ledger.source.path, shape)
    weight_bits, act_bits = packing.STAGES[stage]
    if stage == "w1a1":
        zeros = sum(int((tensor == 0).sum()) for name, tensor in tensors.items() if _is_binary(name))
        if zeros:
            ledger.notes.append(f"{zeros} binary weights are exactly 0, whose sign is 0 in the original; here it is +1")
    args = {**rest, "weight_bits": weight_bits, "act_bits": act_bits, **args}
    return Converted(layout, name, tensors, ledger, classes, args, stage, part)


def _architecture(path: Path, shape: dict) -> tuple[str, dict]:
    """The registered model of this shape; where there is none, the nearest in kind and the arguments that make it."""
    for name in burn_models():
        model = timm.create_model(name, num_classes=0, device="meta")
        kind = "single" if any(".sign.bias" in key for key in model.state_dict()) else "pair"
        own = {
            "block": kind, "stem_chs": model.stem.conv.out_channels,
            "channels": tuple(info["num_chs"] for info in model.feature_info),
            "depths": tuple(len(stage) for stage in model.stages),
        }
        if own == shape and model.head_hidden_size == model.num_features and not name.endswith("_burn"):
            return name, {}
    if shape["block"] == "single":
        return "reactnet_18", {name: shape[name] for name in ("stem_chs", "channels", "depths")}
    return "reactnet_a", {name: shape[name] for name in ("stem_chs", "channels", "depths")}
