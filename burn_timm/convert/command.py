"""`burn-timm convert CHECKPOINT FOLDER`."""

import argparse
from pathlib import Path

from ..files import require_replaceable
from ..provenance import redact_command
from .conversion import convert_source
from .layouts import NAMES
from .origins import licence_line
from .source import read_source
from .write import FILES, write_folder

# Arguments that a reader of the report should see.
_SHAPE = ("stem_chs", "channels", "depths", "head_hidden_size", "num_heads")


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand to `commands` of the command line."""
    convert = commands.add_parser(
        "convert", help="published checkpoints to a folder that timm loads",
        description="Reads ReActNet, S2-BNN and BURN checkpoints, and teachers of the code bases that --from names. "
        "The report accounts for every tensor of the file.",
        epilog="examples:\n"
        "  burn-timm convert moco_v2_800ep_pretrain.pth.tar TEACHER\n"
        "  burn-timm convert efficientnet-lite0-57934424.pth TEACHER\n"
        "  burn-timm convert reactnet.pth.tar FOLDER --stage w1a1",
    )
    convert.add_argument("src", metavar="CHECKPOINT", type=Path, help="a file, torch or safetensors")
    convert.add_argument("dst", metavar="FOLDER", type=Path, help="to write")
    convert.add_argument(
        "--from", dest="layout", default="auto", choices=("auto", *NAMES), metavar="LAYOUT",
        help="who wrote the file, where its names do not tell (default: auto, by its names): " + ", ".join(NAMES),
    )
    convert.add_argument(
        "--stage", choices=("w1a1", "w32a1"),
        help="w1a1 (step 2: 1-bit weights) or w32a1 (step 1: only activations); for binary networks (default: as the "
        "file tells)",
    )
    convert.add_argument("--part", metavar="NAME", help=(
        "which network of the file, for example encoder_k or teacher (default: the one that is used for features)"))
    convert.add_argument("--keep-hidden", action="store_true", help=(
        "keep BURN's 1024-1024 layer, in the head (default: leave it out)"))
    convert.add_argument("--license", metavar="ID", help="the Hub's identifier (default: that of the origin)")
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    require_replaceable(args.dst, FILES)
    layout = None if args.layout == "auto" else args.layout
    converted = convert_source(read_source(args.src), layout, args.stage, args.part, args.keep_hidden)
    size = write_folder(converted, args.dst, redact_command(args.command_line), args.license)
    told = "by its keys" if converted.by_keys else "given"
    part = converted.part + (f", stage {converted.stage}" if converted.stage else "")
    shape = {key: converted.model_args[key] for key in _SHAPE if key in converted.model_args}
    model = converted.model_name + "".join(f", {key} {value}" for key, value in shape.items())
    classes = f"{converted.num_classes} classes" if converted.num_classes else "no classifier"
    print(f"layout: {converted.layout}, {told}; part {part}")
    print(f"origin: {converted.origin}")
    print(f"model: {model}, {classes}; all of its {len(converted.state_dict)} tensors filled")
    for line in converted.ledger.lines():
        print(line)
    print(f"licence: {licence_line(converted.origin, args.license)}")
    print(f"{args.dst / 'model.safetensors'}: {size:,} bytes")
