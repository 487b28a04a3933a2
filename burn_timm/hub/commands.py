"""The commands `burn-timm push` and `burn-timm card`."""

import argparse
import os
from pathlib import Path

from ..configs import read_config
from ..convert.write import CONVERTED
from ..errors import BurnError
from ..files import read_json, write_json, write_text
from .card import Chosen, render_card
from .figures import is_result, kept_results, rows_of_results
from .push import push_folder

CURVES, TRAINING, CARD = "curves.png", "training.json", "card.json"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to `burn-timm`."""
    push = commands.add_parser(
        "push", help="an export folder to a repository of the Hugging Face Hub",
        description="Uploads what an export writes in one commit; other files in the folder stay at home. A card that "
        "names no repository yet gets the name and the load line of this one.",
        epilog="examples:\n  burn-timm push output/mine/export OWNER/NAME --private",
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="config.json, model.safetensors and README.md")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME, or NAME for your own; made if need be")
    push.add_argument("--private", action="store_true", help="make it private, if it is made (default: public)")
    push.add_argument("--yes", action="store_true", help="replace the files of a repository that is not empty; what an "
                      "earlier export left there and this folder lacks is removed, all else stays (default: refuse)")
    push.set_defaults(run=_push)

    card = commands.add_parser(
        "card", help="write the model card of an export folder",
        description="Writes README.md. Results, licence and data sets that are given are kept in card.json beside it "
        "and hold for later cards of the folder too, until they are given anew or card.json is deleted.",
        epilog="examples:\n  burn-timm card output/mine/export --repo OWNER/NAME --results knn.json linear.json",
    )
    card.add_argument("folder", metavar="DIR", type=Path, help="config.json, model.safetensors, training.json")
    where = card.add_mutually_exclusive_group()
    where.add_argument("--repo", metavar="OWNER/NAME", help="usage from this Hub repository (default: from a folder)")
    where.add_argument("--tag", metavar="NAME", help="usage by this name of timm's (default: from a folder)")
    card.add_argument("--results", metavar="JSON", nargs="+", type=Path, default=[],
                      help="of eval_downstream.py: of these weights, of the pixels and of the untrained network "
                      "(default: those of the last card)")
    card.add_argument("--dataset-id", metavar="OWNER/NAME", nargs="+",
                      help="of the training images on the Hub (default: where their name is a known one)")
    card.add_argument("--teacher-labels", action=argparse.BooleanOptionalAction, default=None,
                      help="the teacher was trained with labels (default: timm's weights with a classifier were)")
    card.add_argument("--license", metavar="ID", help="of the weights (default: as the data's terms ask)")
    card.add_argument("--license-name", metavar="NAME", help="with --license other: lower-case, such as my-terms-1.0 "
                      "(default: of the data)")
    card.add_argument("--license-link", metavar="URL", help="with --license other: where it can be read "
                      "(default: of the data)")
    card.add_argument("--output", metavar="FILE", type=Path, help="default: README.md in DIR")
    card.set_defaults(run=_card)


def _push(args: argparse.Namespace) -> None:
    print(push_folder(args.folder, args.repo, private=args.private, overwrite=args.yes))


def _card(args: argparse.Namespace) -> None:
    folder, output = args.folder, args.output or args.folder / "README.md"
    weights, notice = folder / "model.safetensors", folder / "LICENSE"
    if not weights.is_file():
        raise BurnError(f"{folder}: has no model.safetensors; expected an export folder")
    if notice.is_file() and notice.read_text(encoding="utf-8", errors="replace").startswith(CONVERTED):
        raise BurnError(f"{folder}: was written by burn-timm convert, whose README.md names origin and licence, "
                        "which a new card would lose: add to that one by hand")
    kept = _kept(folder, args)
    results = kept.get("results", [])
    try:
        rows = rows_of_results(results, weights, read_config(folder)["architecture"]) if results else []
    except BurnError as error:
        if args.results:
            raise
        raise BurnError(f"{folder / CARD}, from an earlier card: {error}; delete it to begin anew") from error
    details = read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    details = details or next((result["training"] for result in results if result.get("training")), {})
    chosen = Chosen(**{name: value for name, value in kept.items() if name != "results"})
    text = render_card(folder, details, rows, args.repo, args.tag, chosen, _picture(folder, output, args))
    if kept and output.absolute() == (folder / "README.md").absolute():
        write_json(folder / CARD, kept)
    write_text(output, text)
    print(output)


def _picture(folder: Path, output: Path, args: argparse.Namespace) -> str | None:
    """Address of the training curves as the card at `output` must name it."""
    if not (folder / CURVES).is_file():
        return None
    if args.repo and args.output:
        return f"https://huggingface.co/{args.repo}/resolve/main/{CURVES}"
    return os.path.relpath(folder / CURVES, output.absolute().parent) if not args.repo else CURVES


def _kept(folder: Path, args: argparse.Namespace) -> dict:
    """Results and the arguments of `Chosen`: of the earlier cards of the folder, and instead of them what is given."""
    kept = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    results, ids = kept.get("results", []), kept.get("dataset_id", [])
    unknown = kept.keys() - {"results", *Chosen.__dataclass_fields__}
    if unknown or not isinstance(results, list) or not isinstance(ids, list) or not all(map(is_result, results)):
        raise BurnError(f"{folder / CARD}: not as burn-timm card writes it; delete it to begin anew")
    if args.license is not None:  # what belonged to another licence goes with it
        kept = {name: value for name, value in kept.items() if not name.startswith("license")}
    kept |= {name: getattr(args, name) for name in Chosen.__dataclass_fields__ if getattr(args, name) is not None}
    if args.results:
        kept["results"] = kept_results(args.results)
    return kept
