"""`burn-timm export` and `burn-timm bench`."""

import argparse
import json
from pathlib import Path

import torch

from ..checkpoints import binary_shapes, burn_models, infer_model, load_model, read_state_dict, weights_file
from ..errors import BurnError
from ..packing import is_packed, pack_weight, restore_weight
from .export import FORMATS, NOT_ONE_BIT, ONNX_OPSET, check_folder, export


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to those of `burn-timm`."""
    parser = commands.add_parser("export", help="a network for another engine: OpenVINO (1 bit), ONNX, torch.export")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=(
        "a weights file, packed or not; a folder with config.json and model.safetensors (local-dir:FOLDER); "
        "hf-hub:OWNER/REPO; or, with --pretrained, a timm name"
    ))
    parser.add_argument("outdir", metavar="OUTDIR", type=Path, help="a new folder, or one of an earlier export")
    parser.add_argument("--format", choices=FORMATS, default="openvino", help=(
        f"openvino runs in 1 bit; onnx (opset {ONNX_OPSET}) and torch-export are for interchange and do not "
        "(default: %(default)s)"
    ))
    parser.add_argument("--model", metavar="NAME", help="of a weights file; default: from its names and shapes")
    parser.add_argument("--pretrained", action="store_true", help="CHECKPOINT is a timm name: timm's own weights")
    parser.add_argument("--img-size", type=_positive, metavar="PIXELS", help="default: the model's own")
    parser.add_argument("--batch-size", type=_positive, default=1, metavar="N", help="images a call (default: 1)")
    parser.add_argument("--headless", action="store_true", help="leave the classifier out: pooled features")
    parser.set_defaults(run=_export)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def _export(args: argparse.Namespace) -> None:
    check_folder(args.outdir)
    model = _open(args)
    if args.headless:
        model.reset_classifier(0)
    config = export(model, args.outdir, args.format, args.img_size, args.batch_size)
    head = f"{config['num_classes']} classes" if config["num_classes"] else "no classifier"
    shape = [config["batch_size"], *config["pretrained_cfg"]["input_size"]]
    print(f"{config['architecture']}, {head}, images {shape}, {args.format}")
    for name in config["files"]:
        print(f"{args.outdir / name}: {(args.outdir / name).stat().st_size:,} bytes")
    if config["one_bit"]:
        print(f"run it with: burn_timm.deploy.load({json.dumps(str(args.outdir))})")
    else:
        print(f"{args.format} is {NOT_ONE_BIT}")


def _open(args: argparse.Namespace) -> torch.nn.Module:
    """The model of CHECKPOINT with its own classifier."""
    source = args.checkpoint
    if args.pretrained:
        return load_model(source, num_classes=None, pretrained=True)
    if source.startswith("hf-hub:"):
        return load_model(source, num_classes=None)
    path = Path(source.removeprefix("local-dir:"))
    if path.is_dir() and args.model is None and (path / "config.json").is_file():
        return load_model(f"local-dir:{path}", num_classes=None)
    if not path.exists() and source.partition(".")[0] in burn_models():
        raise BurnError(f"{source} names a network without weights: give a checkpoint, or --pretrained")
    file = weights_file(path)
    return load_model(_model_name(file, args.model), file, num_classes=None)


def _model_name(file: Path, given: str | None) -> str:
    """The model of a weights file, which must have been trained with 1 bit: the file is all there is to tell."""
    state_dict, metadata = read_state_dict(file)
    try:
        name = given or metadata.get("model") or infer_model(state_dict)
    except BurnError as error:
        raise BurnError(f"{file}: {error}") from error
    if name.partition(".")[0] in burn_models() and not is_packed(state_dict):
        bits = metadata.get("weight_bits")
        if bits == "32":
            raise BurnError(f"{file}: weights trained with 32 bits; give the folder with the config.json of its stage")
        weights = [state_dict[key] for key in binary_shapes(name.partition(".")[0]) if key in state_dict]
        if bits is None and not all(torch.equal(restore_weight(*pack_weight(w), w.shape), w) for w in weights):
            raise BurnError(
                f"{file}: nothing tells whether its weights were trained with 1 bit; if they were, first run: "
                "burn-timm pack --binarize"
            )
    return name
