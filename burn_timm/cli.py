"""The command `burn-timm`: info, pack, unpack; convert/ adds convert, hub/ push and card, deploy/ export and bench."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from . import tables
from .arguments import KeyValues, Parser, natural, positive
from .checkpoints import binary_shapes, burn_models, differences, infer_model, read_state_dict, save_latent
from .compat import write_config
from .configs import read_config
from .convert.command import add_command as add_convert_command
from .counting import count_stages
from .deploy.commands import add_commands as add_deploy_commands
from .errors import BurnError, one_line
from .files import atomic_folder, require_replaceable
from .hub.commands import add_commands as add_hub_commands
from .packing import is_packed, pack_state_dict, save_packed, trained_bits, unpack_state_dict

_CARRIED_OVER = ("README.md", "LICENSE", "training.json", "curves.png")  # by pack and unpack, from folder to folder
_REPLACED = ("config.json", "model.safetensors", "card.json", *_CARRIED_OVER)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 after one line on stderr for bad input, 130 after Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        args.run(args)
    except (BurnError, OSError) as error:
        print(f"burn-timm {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nburn-timm {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="burn-timm", description="1-bit vision backbones for timm.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    info = commands.add_parser("info", help="parameters, operations and bytes of a model")
    info.add_argument("model", metavar="MODEL", help="one of: " + ", ".join(burn_models()))
    info.add_argument("--img-size", type=positive, default=224, help="pixels")
    info.add_argument("--num-classes", type=natural, default=1000, help="0: no classifier")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=_info)

    where = "a weights file, or a folder with config.json and model.safetensors"
    pack = commands.add_parser("pack", help="float weights to 1-bit packed ones")
    pack.add_argument("--binarize", action="store_true", help="pack weights even if they were trained with 32 bits")
    pack.set_defaults(run=_pack)
    unpack = commands.add_parser("unpack", help="1-bit packed weights to floats (scale * sign)")
    unpack.set_defaults(run=_unpack)
    for command in (pack, unpack):
        command.add_argument("src", metavar="SRC", type=Path, help=where)
        command.add_argument("dst", metavar="DST", type=Path, help="a .safetensors file, or a folder where SRC is one")
        command.add_argument("--model", metavar="NAME", help="instead of inferring it from names and shapes")
        command.add_argument(
            "--model-kwargs", metavar="KEY=VALUE", nargs="*", default={}, action=KeyValues,
            help="arguments of the model where its shape is not the named one's, such as depths=(6,8,12,6)",
        )
    add_convert_command(commands)
    add_hub_commands(commands)
    add_deploy_commands(commands)
    return parser


def _info(args: argparse.Namespace) -> None:
    counts = count_stages(_known(args.model), args.img_size, args.num_classes)
    if args.json:
        print(json.dumps(counts, indent=2))
        return
    print(f"{args.model}, {args.img_size} px, {args.num_classes} classes; operations are multiply-accumulates, "
          "ops = flops + bops / 64")
    stages = {"w1a1": counts, **counts["stages"]}
    keys = ("params", "binary_params", "flops", "bops", "ops", "bytes_fp32", "bytes_packed")
    rows = [[key, *(tables.number(stage[key], 0) for stage in stages.values())] for key in keys]
    print(tables.markdown(["", *stages], rows))


def _known(model_name: str) -> str:
    """The architecture's name, without the tag that timm's names may have."""
    architecture = model_name.partition(".")[0]
    if architecture not in burn_models():
        raise BurnError(f"model {model_name}: not one of {', '.join(burn_models())}")
    try:
        timm.create_model(model_name, device="meta")
    except RuntimeError as error:
        raise BurnError(f"model {model_name}: {str(error).rstrip('.')}; leave out the tag") from error
    return architecture


def _pack(args: argparse.Namespace) -> None:
    state_dict, metadata, config = _read(args)
    if is_packed(state_dict):
        raise BurnError(f"{args.src}: packed already")
    names = list(binary_shapes(*_model(args, state_dict, metadata, config)))
    model_args = config.get("model_args") or {}
    told = {"weight_bits": str(model_args.get("weight_bits")), **metadata}
    bits = 1 if args.binarize else trained_bits(state_dict, names, told)
    if bits == 32:
        raise BurnError(f"{args.src}: weights trained with 32 bits (stage 1); --binarize packs them anyway")
    if bits is None:
        raise BurnError(
            f"{args.src}: nothing tells whether its weights were trained with 1 bit; if they were, pass --binarize"
        )
    packed = _named(args.src, lambda: pack_state_dict(state_dict, names))
    if model_args.get("weight_bits") == 32:
        config = {**config, "model_args": {**model_args, "weight_bits": 1, "act_bits": 1}}
    _write(args, config, lambda path: save_packed(path, packed))


def _unpack(args: argparse.Namespace) -> None:
    state_dict, metadata, config = _read(args)
    if not is_packed(state_dict):
        raise BurnError(f"{args.src}: not packed")
    model_name, model_args = _model(args, state_dict, metadata, config)
    floats = _named(args.src, lambda: unpack_state_dict(state_dict, binary_shapes(model_name, model_args)))
    _write(args, config, lambda path: save_latent(path, floats, model_name, 1, model_args))


def _named(path: Path, call: Callable[[], Any]) -> Any:
    """What `call` returns; its BurnError with the path before it."""
    try:
        return call()
    except BurnError as error:
        raise BurnError(f"{path}: {error}") from error


def _read(args: argparse.Namespace) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, Any]]:
    """State dict, metadata, and config.json (empty where SRC is a file), which agree with each other."""
    src, dst = args.src, args.dst
    if dst.exists() and src.exists() and dst.samefile(src):
        raise BurnError(f"{dst}: SRC and DST are the same; give another DST")
    if not src.is_dir():
        if dst.is_dir() or dst.suffix != ".safetensors":
            raise BurnError(f"{dst}: DST must be a file that ends in .safetensors, as SRC is a file")
        return *read_state_dict(src), {}
    require_replaceable(dst, _REPLACED)
    config, file = read_config(src), src / "config.json"
    state_dict, metadata = read_state_dict(src)
    architecture, model_args = config["architecture"], config.get("model_args") or {}
    _require_fit(state_dict, _named(file, lambda: _known(architecture)), model_args, file)
    own, bits = 1 if is_packed(state_dict) else metadata.get("weight_bits"), model_args.get("weight_bits")
    if bits is not None and own is not None and str(bits) != str(own):
        raise BurnError(f"{file}: weight_bits {bits}, but the weights beside it say {own}; correct config.json")
    return state_dict, metadata, config


def _model(args: argparse.Namespace, state_dict: dict, metadata: dict, config: dict) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the model whose weights these are: as given, as told beside them, or by their shapes."""
    told = config.get("model_args") or {}
    if args.model_kwargs and not args.model:
        raise BurnError("--model-kwargs: give --model too")
    if args.model:
        name = _known(args.model)
        model_args = {**(told if name == config.get("architecture") else {}), **args.model_kwargs}
    elif config:
        return config["architecture"], told  # which fits: `_read` has checked it
    elif "model" in metadata:
        name, model_args = _known(metadata["model"]), _told_args(args.src, metadata)
    else:
        try:
            return infer_model(state_dict), {}
        except BurnError as error:
            raise BurnError(f"{args.src}: {error}, and --model-kwargs if its shape is its own") from error
    _require_fit(state_dict, name, model_args, args.src)
    return name, model_args


def _require_fit(state_dict: dict, name: str, model_args: dict[str, Any], where: Path) -> None:
    described = name + "".join(f", {key} {value}" for key, value in model_args.items())
    try:
        gaps = differences(state_dict, name, model_args)
    except Exception as error:  # whatever the model's constructor says to arguments that it cannot take
        raise BurnError(f"{where}: model {described}: {one_line(error)}") from error
    if gaps:
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        raise BurnError(f"{where}: {described} does not fit the weights: {gaps[0]}{more}")


def _told_args(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        model_args = json.loads(metadata.get("model_args", "{}"))
    except (ValueError, RecursionError):
        model_args = None
    if not isinstance(model_args, dict):
        raise BurnError(f"{path}: its metadata model_args are no JSON object; give --model and --model-kwargs")
    return model_args


def _write(args: argparse.Namespace, config: dict, save: Callable[[Path], None]) -> None:
    written = args.dst
    if not args.src.is_dir():
        save(written)
    else:
        with atomic_folder(args.dst) as folder:
            save(folder / "model.safetensors")
            write_config(folder / "config.json", config)
            for name in _CARRIED_OVER:
                if (args.src / name).is_file():
                    shutil.copyfile(args.src / name, folder / name)
        written = args.dst / "model.safetensors"
    print(f"{written}: {written.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
