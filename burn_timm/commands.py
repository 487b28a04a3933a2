"""`burn-timm info`, `pack` and `unpack`."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm

from . import tables
from .arguments import KeyValues, natural, positive
from .checkpoints import config_beside, save_folder, save_latent
from .compat import write_config
from .configs import images_of, read_config
from .convert.own import Own, is_name, known, read_own
from .convert.write import origin_told
from .counting import count, count_stages
from .errors import BurnError, prefixed
from .files import atomic_folder, require_replaceable
from .hub.card import describe
from .identify import binary_shapes, burn_models, classes_in
from .packing import STAGES, is_packed, pack_state_dict, save_packed, unpack_state_dict
from .provenance import file_sha256

_CARRIED_OVER = ("README.md", "LICENSE", "training.json", "curves.png")  # by pack and unpack, from folder to folder
_REPLACED = ("config.json", "model.safetensors", "card.json", *_CARRIED_OVER)
_COUNTED = ("params", "binary_params", "flops", "bops", "ops", "bytes_fp32", "bytes_packed")


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to `burn-timm`; `add` is the `add_parser` of its subparsers."""
    info = add(
        "info", help="what a network is: stage, size, checksum, operations, who trained it",
        epilog="examples:\n"
        "  burn-timm info reactnet_a\n"
        "  burn-timm info output/mine/export\n"
        "  burn-timm info last.pth.tar\n"
        "  burn-timm info hf-hub:OWNER/NAME --json",
    )
    info.add_argument("source", metavar="CHECKPOINT", help=(
        "a weights file or training checkpoint, a folder with config.json and model.safetensors, hf-hub:OWNER/NAME, "
        "or a name, which stands for its released weights or, where there are none, for the architecture: "
        + ", ".join(burn_models())
    ))
    info.add_argument("--img-size", type=positive, metavar="PIXELS", help=(
        "count the operations at this size (default: that of the weights' own images; 224 for a name without weights)"))
    info.add_argument("--num-classes", type=natural, metavar="N", help=(
        "classes to count, for a name without weights; 0: no classifier (default: 1000)"))
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)

    pack = add(
        "pack", help="floats of 1-bit training to packed 1-bit weights: a file, or a folder to share",
        description="Packs weights that were trained with 1 bit. A folder as OUT gets config.json and a card too, and "
        "loads by timm.create_model('local-dir:OUT', pretrained=True).",
        epilog="examples:\n"
        "  burn-timm pack last.pth.tar FOLDER --model reactnet_a\n"
        "  burn-timm pack lightning.ckpt FOLDER --model reactnet_a --binarize\n"
        "  burn-timm pack FLOATS.safetensors PACKED.safetensors\n"
        "  burn-timm pack FLOATS_FOLDER FOLDER",
    )
    pack.add_argument("--binarize", action="store_true", help=(
        "say that the weights were trained with 1 bit where the file does not; or pack those of 32 bits all the same"))
    pack.set_defaults(run=_pack)
    unpack = add(
        "unpack", help="packed 1-bit weights to floats (scale * sign)",
        epilog="examples:\n"
        "  burn-timm unpack output/mine/export/model.safetensors floats.safetensors\n"
        "  burn-timm unpack output/mine/export FLOATS_FOLDER",
    )
    unpack.set_defaults(run=_unpack)
    for command in (pack, unpack):
        more = ", or a checkpoint of timm's training script, of Lightning, or a state dict" if command is pack else ""
        command.add_argument("src", metavar="CHECKPOINT", help=(
            "a weights file, a folder with config.json and model.safetensors, local-dir:FOLDER, hf-hub:OWNER/NAME, "
            f"or the name of released weights{more}"))
        command.add_argument("dst", metavar="OUT", type=Path, help=(
            "a file that ends in .safetensors, or a new folder" if command is pack else
            "a file that ends in .safetensors; a new folder where CHECKPOINT is one"))
        command.add_argument("--model", metavar="NAME", help=(
            "the network (default: as the file tells, or by its shapes)"))
        command.add_argument("--model-kwargs", metavar="KEY=VALUE", nargs="*", default={}, action=KeyValues, help=(
            "arguments of the network where its shape is not the named one's, such as depths=(6,8,12,6) "
            "(default: as the file tells)"))
    pack.add_argument("--part", metavar="NAME", help=(
        "which network of a training checkpoint (default: the averaged one, EMA, where there is one)"))


# info


def _info(args: argparse.Namespace) -> None:
    if is_name(args.source) and not timm.get_pretrained_cfg(known(args.source)).has_weights:
        _info_of_name(args)
        return
    if args.num_classes is not None:
        raise BurnError("--num-classes: is for a name without weights; weights have their own number of classes")
    own = read_own(args.source)
    facts = _facts(own, args.img_size)
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    operations = facts.pop("operations", None)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {f'{value:,}' if isinstance(value, int) else value}")
    for note in own.notes:
        print(note)
    if operations:
        print(f"\nOne image of {operations.pop('img_size')} px, in multiply-accumulates; ops = flops + bops / 64:\n")
        print(tables.markdown(list(_COUNTED), [[tables.number(operations[key], 0) for key in _COUNTED]], 0))


def _info_of_name(args: argparse.Namespace) -> None:
    size, classes = args.img_size or 224, 1000 if args.num_classes is None else args.num_classes
    counts = count_stages(known(args.source), size, classes)
    if args.json:
        print(json.dumps(counts, indent=2))
        return
    print(f"{args.source}, {size} px, {classes} classes; operations are multiply-accumulates, ops = flops + bops / 64")
    stages = {"w1a1": counts, **counts["stages"]}
    rows = [[key, *(tables.number(stage[key], 0) for stage in stages.values())] for key in _COUNTED]
    print(tables.markdown(["", *stages], rows))


def _facts(own: Own, img_size: int | None) -> dict[str, Any]:
    """What is known of weights, in the order in which a person wants it."""
    architecture = (own.config or config_beside(own.path)).get("architecture")
    binary = architecture is None or architecture in burn_models()
    name, model_args = own.model() if binary else (architecture, {})
    facts: dict[str, Any] = {"model": name}
    if binary:
        bits = own.bits(name, model_args)
        stages = {bits: stage for stage, bits in STAGES.items()}
        act_bits = model_args.get("act_bits") or int(own.told.get("act_bits", 1 if bits else 0))
        facts["stage"] = stages.get((bits, act_bits), "nothing in the file tells")
        facts["packed"] = "yes, one bit a weight" if is_packed(own.state_dict) else "no, floats"
    facts["classes"] = classes_in(own.state_dict, name) or 0
    facts |= {"file": str(own.path), "bytes": own.path.stat().st_size, "sha256": file_sha256(own.path),
              "trained_by": _trainer(own)}
    if side := own.images.get("img_size"):
        facts["images"] = f"{side} x {side}"
    if size := own.images.get("input_size"):
        facts["images"] = " x ".join(map(str, size))
    if binary:
        told = {"weight_bits": bits or 1, "act_bits": act_bits or 1}
        arguments = {**told, **own.arguments(model_args), "num_classes": facts["classes"]}
        model = timm.create_model(name, device="meta", **arguments)
        pixels = img_size or side or (size or model.pretrained_cfg["input_size"])[-1]
        facts["operations"] = {"img_size": pixels, **count(model, pixels)}
    return facts


def _trainer(own: Own) -> str:
    """Who trained the weights, in one line."""
    if own.config and (origin := origin_told(own.path.parent)):
        return f"others; {origin[0].lower()}{origin[1:]}"
    details = own.details
    if details.get("trained_by"):
        data = f", on {details['dataset']}" if details.get("dataset") else ""
        return details["trained_by"] + data
    if details.get("method"):
        teacher = f" with the teacher {details['teacher']}" if details.get("teacher") else ""
        return f"burn-timm, method {details['method']}{teacher}, on {details.get('dataset', 'unknown data')}"
    return "nothing in the file tells"


# pack and unpack


def _pack(args: argparse.Namespace) -> None:
    own = _read(args, args.part)
    if is_packed(own.state_dict):
        raise BurnError(f"{args.src}: packed already")
    name, model_args = own.model(args.model, args.model_kwargs)
    names = list(binary_shapes(name, model_args))
    bits = 1 if args.binarize else args.model_kwargs.get("weight_bits") or own.bits(name, model_args)
    if bits == 32:
        raise BurnError(f"{args.src}: weights trained with 32 bits (stage 1); --binarize packs them anyway")
    if bits is None:
        raise BurnError(
            f"{args.src}: nothing tells whether its weights were trained with 1 bit; if they were, pass --binarize"
        )
    with prefixed(args.src):
        packed = pack_state_dict(own.state_dict, names)
    for note in own.notes:
        print(note)
    if own.config:
        told = own.config.get("model_args") or {}
        if told.get("weight_bits") == 32:
            own.config = {**own.config, "model_args": {**told, "weight_bits": 1, "act_bits": 1}}
        _write_folder(own, args.dst, lambda path: save_packed(path, packed))
    elif args.dst.suffix == ".safetensors":
        save_packed(args.dst, packed)
        _say(args.dst)
    else:
        _write_new_folder(own, name, model_args, args.dst)


def _unpack(args: argparse.Namespace) -> None:
    own = _read(args)
    if not is_packed(own.state_dict):
        raise BurnError(f"{args.src}: not packed")
    name, model_args = own.model(args.model, args.model_kwargs)
    with prefixed(args.src):
        floats = unpack_state_dict(own.state_dict, binary_shapes(name, model_args))

    def save(path: Path) -> None:
        save_latent(path, floats, name, 1, model_args)

    if own.config:
        _write_folder(own, args.dst, save)
    else:
        save(args.dst)
        _say(args.dst)


def _read(args: argparse.Namespace, part: str | None = None) -> Own:
    """The weights in CHECKPOINT; BurnError also where OUT cannot take them."""
    dst, file = args.dst, args.dst.suffix == ".safetensors"
    own = read_own(args.src, part)
    folder = bool(own.config)
    if dst.exists() and dst.samefile(own.path.parent if folder else own.path):
        raise BurnError(f"{dst}: CHECKPOINT and OUT are the same; give another OUT")
    if folder and file:
        raise BurnError(f"{dst}: CHECKPOINT is a folder, so OUT must be a folder too")
    if not folder and (dst.is_dir() if file else args.command == "unpack"):
        raise BurnError(f"{dst}: OUT must be a file that ends in .safetensors, as CHECKPOINT is a file")
    if not file:
        require_replaceable(dst, _REPLACED)
    return own


def _write_folder(own: Own, folder: Path, save: Callable[[Path], None]) -> None:
    """A folder from another: the weights in a new form, their configuration, and what tells of them as it is."""
    with atomic_folder(folder) as beside:
        save(beside / "model.safetensors")
        write_config(beside / "config.json", own.config)
        for name in _CARRIED_OVER:
            if (own.path.parent / name).is_file():
                shutil.copyfile(own.path.parent / name, beside / name)
    _say(folder / "model.safetensors")


def _write_new_folder(own: Own, name: str, model_args: dict[str, Any], folder: Path) -> None:
    """A folder from a file: the network as timm builds it, with a card of what the file tells."""
    arguments = {**own.arguments(model_args), "weight_bits": 1, "act_bits": 1}
    model = own.network(name, arguments)
    with atomic_folder(folder) as beside:
        names = model.pretrained_cfg.get("label_names") or ()
        save_folder(beside, model, 1, arguments, images_of(model), of_registration=False, label_names=names)
        read_config(beside)
        describe(beside, own.details)
    for file in sorted(folder.iterdir()):
        _say(file)
    told = "" if own.images else f": no size is told, this is {name}'s own; another --model may have the right one"
    print(f"for images of {images_of(model)['input_size'][-1]} px{told}")
    print(f'timm.create_model("local-dir:{folder}", pretrained=True)')


def _say(path: Path) -> None:
    print(f"{path}: {path.stat().st_size:,} bytes")
