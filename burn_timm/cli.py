"""The command `burn-timm`: info, pack, unpack; convert/ adds convert, hub/ push and card, deploy/ export and bench."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.utils import ParseKwargs

from .checkpoints import binary_shapes, burn_models, differences, infer_model, read_state_dict, save_latent
from .convert import command as convert_command
from .counting import count_stages
from .deploy.commands import add_commands as add_deploy_commands
from .errors import BurnError, one_line
from .files import atomic_folder
from .hub.commands import add_commands as add_hub_commands
from .packing import is_packed, pack_state_dict, save_packed, unpack_state_dict

_TELLING = ("README.md", "LICENSE", "training.json", "curves.png")  # files of a folder that pack and unpack take over
_FOLDER_FILES = ("config.json", "model.safetensors", "card.json", *_TELLING)  # what they may replace


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 after one line on stderr for bad input."""
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
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse without the usage block: an error is one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


class _Kwargs(ParseKwargs):
    """timm's, with a line instead of a traceback for what is no KEY=VALUE."""

    def __call__(self, parser, namespace, values, option_string=None):
        if wrong := [value for value in values if value and "=" not in value]:
            raise argparse.ArgumentError(self, f"expected KEY=VALUE, not {wrong[0]}")
        super().__call__(parser, namespace, values, option_string)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="burn-timm", description="1-bit vision backbones for timm.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    info = commands.add_parser("info", help="parameters, operations and bytes of a model")
    info.add_argument("model", metavar="MODEL", help="one of: " + ", ".join(burn_models()))
    info.add_argument("--img-size", type=_positive, default=224, help="pixels (default: %(default)s)")
    info.add_argument("--num-classes", type=_natural, default=1000, help="0: no classifier (default: %(default)s)")
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
            "--model-kwargs", metavar="KEY=VALUE", nargs="*", default={}, action=_Kwargs,
            help="arguments of the model where its shape is not the named one's, such as depths=(6,8,12,6)",
        )
    convert_command.add_command(commands)
    add_hub_commands(commands)
    add_deploy_commands(commands)
    return parser


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text}")
    return value


def _info(args: argparse.Namespace) -> None:
    counts = count_stages(_known(args.model), args.img_size, args.num_classes)
    if args.json:
        print(json.dumps(counts, indent=2))
        return
    head = f"{args.model}, {args.img_size} px, {args.num_classes} classes"
    print(f"{head}; operations are multiply-accumulates, ops = flops + bops / 64")
    rows = ("params", "binary_params", "flops", "bops", "ops", "bytes_fp32", "bytes_packed")
    stages = {"w1a1": counts, **counts["stages"]}
    print(f"{'':14}" + "".join(f"{stage:>16}" for stage in stages))
    for row in rows:
        print(f"{row:14}" + "".join(f"{_number(stage[row]):>16}" for stage in stages.values()))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


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
    _check_paths(args.src, args.dst)
    state_dict, metadata, config = _read(args.src)
    if is_packed(state_dict):
        raise BurnError(f"{args.src}: packed already")
    names = list(binary_shapes(*_model(args, state_dict, metadata, config)))
    model_args = config.get("model_args") or {}
    weight_bits = metadata.get("weight_bits") or str(model_args.get("weight_bits", ""))
    if not args.binarize and weight_bits != "1" and not all(_is_scaled_sign(state_dict[name]) for name in names):
        if weight_bits == "32":
            raise BurnError(f"{args.src}: weights trained with 32 bits (stage 1); --binarize packs them anyway")
        raise BurnError(
            f"{args.src}: nothing tells whether its weights were trained with 1 bit; if they were, pass --binarize"
        )
    try:
        packed = pack_state_dict(state_dict, names)
    except BurnError as error:
        raise BurnError(f"{args.src}: {error}") from error
    if model_args.get("weight_bits") == 32:
        config = {**config, "model_args": {**model_args, "weight_bits": 1, "act_bits": 1}}
    _write(args, config, lambda path: save_packed(path, packed))


def _unpack(args: argparse.Namespace) -> None:
    _check_paths(args.src, args.dst)
    state_dict, metadata, config = _read(args.src)
    if not is_packed(state_dict):
        raise BurnError(f"{args.src}: not packed")
    model_name, model_args = _model(args, state_dict, metadata, config)
    try:
        floats = unpack_state_dict(state_dict, binary_shapes(model_name, model_args))
    except BurnError as error:
        raise BurnError(f"{args.src}: {error}") from error
    _write(args, config, lambda path: save_latent(path, floats, model_name, 1, model_args))


def _is_scaled_sign(weight: torch.Tensor) -> bool:
    """Whether all |w| of each output channel are equal, as after loading packed weights."""
    size = weight.abs().flatten(1)
    return bool((size == size[:, :1]).all())


def _read(src: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, Any]]:
    """State dict, metadata, and config.json (empty where SRC is a file), which agree with each other."""
    if not src.is_dir():
        return *read_state_dict(src), {}
    file = src / "config.json"
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BurnError(f"{file}: cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise BurnError(f"{file}: not a JSON object")
    architecture, model_args = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(architecture, str):
        raise BurnError(f"{file}: architecture must be the name of a model, not {json.dumps(architecture)}")
    if not isinstance(model_args, dict):
        raise BurnError(f"{file}: model_args must be an object of argument: value, not {json.dumps(model_args)}")
    bits = model_args.get("weight_bits")
    if bits not in (None, 1, 32):
        raise BurnError(f"{file}: weight_bits in model_args must be 1 or 32, not {json.dumps(bits)}")
    state_dict, metadata = read_state_dict(src)
    try:
        gaps = _gaps(state_dict, _known(architecture), model_args)
    except BurnError as error:
        raise BurnError(f"{file}: architecture: {error}") from error
    if gaps:
        own = f", which say {metadata['model']}" if "model" in metadata else ""
        raise BurnError(f"{file}: architecture {architecture} does not fit the weights beside it{own}: {gaps[0]}")
    own = "1" if is_packed(state_dict) else metadata.get("weight_bits")
    if bits is not None and own is not None and str(bits) != own:
        raise BurnError(f"{file}: weight_bits {bits}, but the weights beside it say {own}; correct config.json")
    return state_dict, metadata, config


def _model(args: argparse.Namespace, state_dict: dict, metadata: dict, config: dict) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the model whose weights these are: as given, as told beside them, or by their shapes."""
    if args.model_kwargs and not args.model:
        raise BurnError("--model-kwargs: give --model too")
    if args.model:
        name, model_args = _known(args.model), args.model_kwargs
        if name == config.get("architecture"):
            model_args = {**(config.get("model_args") or {}), **model_args}
    elif config:
        name, model_args = _known(config["architecture"]), config.get("model_args") or {}
    elif "model" in metadata:
        name, model_args = _known(metadata["model"]), _told_args(args.src, metadata)
    else:
        try:
            name, model_args = infer_model(state_dict), {}
        except BurnError as error:
            raise BurnError(f"{args.src}: {error}, and --model-kwargs if its shape is its own") from error
    if gaps := _gaps(state_dict, name, model_args):
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        raise BurnError(f"{args.src}: does not fit {_described(name, args.model_kwargs)}: {gaps[0]}{more}")
    return name, model_args


def _gaps(state_dict: dict, name: str, model_args: dict[str, Any]) -> list[str]:
    try:
        return differences(state_dict, name, model_args)
    except Exception as error:  # whatever the model's constructor says to arguments that it cannot take
        raise BurnError(f"model {_described(name, model_args)}: {one_line(error)}") from error


def _described(name: str, model_args: dict[str, Any]) -> str:
    return name + " with" * bool(model_args) + ",".join(f" {key} {value}" for key, value in model_args.items())


def _told_args(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        model_args = json.loads(metadata.get("model_args", "{}"))
    except ValueError:
        model_args = None
    if not isinstance(model_args, dict):
        raise BurnError(f"{path}: its metadata model_args are no JSON object; give --model and --model-kwargs")
    return model_args


def _check_paths(src: Path, dst: Path) -> None:
    if dst.exists() and src.exists() and dst.samefile(src):
        raise BurnError(f"{dst}: SRC and DST are the same; give another DST")
    if not src.is_dir():
        if dst.is_dir() or dst.suffix != ".safetensors":
            raise BurnError(f"{dst}: DST must be a file that ends in .safetensors, as SRC is a file")
        return
    if dst.exists() and not dst.is_dir():
        raise BurnError(f"{dst}: DST must be a folder, as SRC is one")
    if dst.is_dir() and (others := sorted(path.name for path in dst.iterdir() if path.name not in _FOLDER_FILES)):
        raise BurnError(f"{dst}: would be replaced, but it also holds {others[0]}; give a new folder")


def _write(args: argparse.Namespace, config: dict, save: Any) -> None:
    if not args.src.is_dir():
        save(args.dst)
        written = args.dst
    else:
        with atomic_folder(args.dst) as folder:
            save(folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            for name in _TELLING:
                if (args.src / name).is_file():
                    shutil.copyfile(args.src / name, folder / name)
        written = args.dst / "model.safetensors"
    print(f"{written}: {written.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
