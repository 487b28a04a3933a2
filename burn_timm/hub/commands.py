"""The commands `burn-timm push` and `burn-timm card`."""

import argparse
import os
from pathlib import Path

from ..errors import BurnError
from ..evals.tables import read_results
from ..files import atomic_write
from .card import read_json, render_card
from .measured import read_rows
from .push import push_folder

CURVES, TRAINING = "curves.png", "training.json"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to `burn-timm`."""
    push = commands.add_parser(
        "push", help="an export folder to a repository of the Hugging Face Hub",
        description="Uploads the folder byte for byte, in one commit. A card that breaks the Hub's rules is refused; "
        "one whose usage names no repository is uploaded as it is, with a warning: burn-timm card DIR --repo OWNER/NAME"
        ", before the push, is the remedy.",
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="config.json, model.safetensors and README.md")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME, or NAME for your own; made if need be")
    push.add_argument("--private", action="store_true", help="make it private, if it is made")
    push.add_argument("--yes", action="store_true", help="replace the files of a repository that is not empty; what an "
                      "earlier export left there and this folder lacks is removed, all else stays")
    push.set_defaults(run=_push)

    card = commands.add_parser("card", help="write the model card of an export folder")
    card.add_argument("folder", metavar="DIR", type=Path, help="config.json, model.safetensors, training.json")
    where = card.add_mutually_exclusive_group()
    where.add_argument("--repo", metavar="OWNER/NAME", help="usage from this Hub repository (default: from a folder)")
    where.add_argument("--tag", metavar="NAME", help="usage by this name of timm's")
    card.add_argument("--results", metavar="JSON", nargs="+", type=Path, default=[],
                      help="of eval_downstream.py: of these weights, of the pixels and of the untrained network")
    card.add_argument("--license", metavar="ID", help="of the weights (default: as the data's terms ask)")
    card.add_argument("--output", metavar="FILE", type=Path, help="default: README.md in DIR")
    card.set_defaults(run=_card)


def _push(args: argparse.Namespace) -> None:
    print(push_folder(args.folder, args.repo, private=args.private, overwrite=args.yes))


def _card(args: argparse.Namespace) -> None:
    folder, output = args.folder, args.output or args.folder / "README.md"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BurnError(f"{folder}: has no model.safetensors; expected an export folder")
    architecture = str(read_json(folder / "config.json").get("architecture"))
    rows = read_rows(args.results, weights, architecture) if args.results else []
    details = _details(folder) or _details_of_results(args.results)
    picture = CURVES if (folder / CURVES).is_file() else None
    if picture and args.repo:
        picture = f"https://huggingface.co/{args.repo}/resolve/main/{CURVES}" if args.output else picture
    elif picture and output.absolute().parent != folder.absolute():
        picture = os.path.relpath(folder / CURVES, output.absolute().parent)
    text = render_card(folder, details, rows, args.repo, args.tag, args.license, picture)
    with atomic_write(output) as beside:
        beside.write_text(text, encoding="utf-8")
    print(output)


def _details(folder: Path) -> dict:
    """How the weights were trained: training.json, or the summary.json of the run whose export this is."""
    paths = [folder / TRAINING]
    if folder.absolute().name == "export":
        paths.append(folder.absolute().parent / "summary.json")
    return next((read_json(path) for path in paths if path.is_file()), {})


def _details_of_results(paths: list[Path]) -> dict:
    """The same as far as the results know, of a folder that has been copied away from its run."""
    results = read_results(map(str, paths)) if paths else []
    return next((result["training"] for result in results if result.get("training")), {})
