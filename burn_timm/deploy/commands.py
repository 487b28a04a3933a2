"""`burn-timm export` and `burn-timm bench`."""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

from .. import provenance
from ..arguments import file_ending, positive
from ..checkpoints import config_beside, load_model, read_content, require_model, weights_file
from ..convert.own import is_name, known, read_own
from ..errors import BurnError
from ..files import require_replaceable, write_json
from ..identify import burn_models
from .bench import bench, draw_chart, table
from .engines import ENGINES
from .export import FILES, FORMATS, export
from .interchange import NOT_ONE_BIT, ONNX_OPSET


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to those of `burn-timm`."""
    parser = commands.add_parser(
        "export", help="a network for another engine: C, OpenVINO, ONNX, torch.export",
        epilog="examples:\n"
        "  burn-timm export output/mine/export ONE_BIT --format c\n"
        "  burn-timm export hf-hub:OWNER/NAME ONE_BIT --img-size 128\n"
        "  burn-timm export reactnet_a_burn FEATURES --format onnx",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=(
        "a weights file, packed or not, or a training checkpoint; a folder with config.json and model.safetensors "
        "(local-dir:FOLDER); hf-hub:OWNER/REPO; the name of released weights; or, with --pretrained, any timm name"
    ))
    parser.add_argument("outdir", metavar="FOLDER", type=Path, help="a new folder, or one of an earlier export")
    parser.add_argument("--format", choices=FORMATS, default="c", help=(
        "c runs in 1 bit on any CPU and compiles without Python, openvino runs in 1 bit on x86; "
        f"onnx (opset {ONNX_OPSET}) and torch-export are for interchange and do not run in 1 bit "
        "(default: %(default)s)"
    ))
    parser.add_argument("--model", metavar="NAME", help="of a weights file; default: from its names and shapes")
    parser.add_argument("--pretrained", action="store_true", help="CHECKPOINT is a timm name: timm's own weights")
    parser.add_argument("--img-size", type=positive, metavar="PIXELS", help="default: the model's own")
    parser.add_argument("--batch-size", type=positive, metavar="N", help=(
        "images computed at once (default: 1 in c and openvino, any number in onnx and torch-export)"
    ))
    parser.add_argument("--headless", action="store_true", help="leave the classifier out: pooled features")
    parser.set_defaults(run=_export)

    parser = commands.add_parser(
        "bench", help="time networks on every engine that is installed",
        epilog="examples:\n"
        "  burn-timm bench reactnet_a resnet18 --output bench.json\n"
        "  burn-timm bench local-dir:output/mine/export --img-size 96 --threads 2",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=(
        "timm names (random weights: times do not depend on them), local-dir:FOLDER or hf-hub:OWNER/REPO"
    ))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, metavar="ENGINE", default=list(ENGINES),
                        help=f"of {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="in every engine (default: 1)")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images a call (default: 1)")
    parser.add_argument("--img-size", type=positive, default=224, metavar="PIXELS", help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="a round (default: %(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory (a process a row)")
    parser.add_argument(
        "--output", type=file_ending(".json"), metavar="RESULT.json", help="write rows and provenance, and RESULT.png",
    )
    parser.set_defaults(run=_bench)


def _export(args: argparse.Namespace) -> None:
    require_replaceable(args.outdir, FILES)
    model = _open(args)
    if args.headless:
        model.reset_classifier(0)
    config = export(model, args.outdir, args.format, args.img_size, args.batch_size)
    head = f"{config['num_classes']} classes" if config["num_classes"] else "no classifier"
    shape = [config["batch_size"] or "any", *config["pretrained_cfg"]["input_size"]]
    print(f"{config['architecture']}, {head}, images {shape}, {args.format}")
    for name in config["files"]:
        print(f"{args.outdir / name}: {(args.outdir / name).stat().st_size:,} bytes")
    if config["one_bit"]:
        print(f"run it with: burn_timm.deploy.load({json.dumps(str(args.outdir))})")
    else:
        print(f"{args.format} is {NOT_ONE_BIT}")


def _open(args: argparse.Namespace) -> torch.nn.Module:
    """The model of CHECKPOINT with its own classifier."""
    source, hub = args.checkpoint, args.checkpoint.startswith(("hf-hub:", "hf_hub:"))
    if args.model and (args.pretrained or hub):
        raise BurnError(f"--model is for a weights file; {source} says what it is")
    if is_name(source) and not timm.is_model_pretrained(known(source)):
        raise BurnError(f"{source} names a network without weights: give a checkpoint")
    if args.pretrained or hub or is_name(source):
        return load_model(source, pretrained=True)
    path = Path(source.removeprefix("local-dir:").removeprefix("local_dir:"))
    if not path.exists() and timm.is_model(source):
        raise BurnError(f"{source}: no such file or folder; for timm's weights of this name add --pretrained")
    described = (path / "config.json").is_file() if path.is_dir() else config_beside(path)
    if described and args.model is None:
        return load_model(f"local-dir:{path if path.is_dir() else path.parent}", path)
    return _network_of_file(weights_file(path), args.model)


def _network_of_file(file: Path, given: str | None) -> torch.nn.Module:
    """The network in a weights file. A binary one must have been trained with 1 bit: no config.json tells its stage."""
    name = given or (read_content(file)[1] or {}).get("model")
    if name and name.partition(".")[0] not in burn_models():
        return load_model(name, file)
    own = read_own(str(file))
    name, model_args = own.model(given)
    bits = own.bits(name, model_args)
    if bits == 32:
        raise BurnError(f"{file}: weights trained with 32 bits; give the folder with the config.json of its stage")
    if bits is None:
        raise BurnError(
            f"{file}: nothing tells whether its weights were trained with 1 bit; if they were, first run: "
            "burn-timm pack --binarize"
        )
    return own.network(name, own.arguments(model_args))


def _bench(args: argparse.Namespace) -> None:
    for name in args.models:
        require_model(name)
    engines = list(dict.fromkeys(args.engines))
    with tqdm(total=len(args.models) * len(engines) * (1 + args.rounds), unit="step", leave=False) as bar:
        def progress(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()

        rows = bench(
            args.models, engines, args.img_size, args.batch_size, args.threads, args.rounds, args.runs,
            not args.no_memory, progress,
        )
    cpu = provenance.hardware()["cpu"]
    print(f"{cpu}; batch {args.batch_size}, {args.img_size} px, threads {args.threads}; ratio to the first 1-bit row\n")
    print(table(rows))
    if args.output is not None:
        _write(args, engines, rows)
        print(f"\nwrote {args.output}")
    if not any(row["ms"] for row in rows):
        raise BurnError("no row was measured" + ("; the table says why" if rows else ": no engine runs these networks"))
    if args.output is not None:
        picture = Path(args.output).with_suffix(".png")
        draw_chart(picture, rows, vars(args), cpu)
        print(f"wrote {picture}")


def _write(args: argparse.Namespace, engines: list[str], rows: list[dict[str, Any]]) -> None:
    """Rows and settings with what `eval_downstream.py` writes beside a figure."""
    settings = {
        "models": args.models, "engines": engines, "threads": args.threads, "batch_size": args.batch_size,
        "img_size": args.img_size, "rounds": args.rounds, "runs_a_round": args.runs, "input": "noise",
        "weights": "random where the name has none; the accuracy of bf16 and int8 rows is not measured",
        "time": "median over all runs of wall time a call, engines alternating in one process",
        "memory": "resident bytes that opening and running adds to a process of its own that holds the libraries",
    }
    installed = {package for engine in ENGINES.values() for package in engine.packages if not engine.missing()}
    versions = {package: importlib.metadata.version(package) for package in sorted(installed)}
    made_by = provenance.made_by(args.command_line)
    write_json(args.output, {
        "task": "bench", "settings": provenance.redact_tree(settings), "rows": provenance.redact_tree(rows),
        **made_by, "versions": {**made_by["versions"], **versions},
    })
