"""The commands `burn-timm push` and `burn-timm card`."""

import argparse
from pathlib import Path

from ..configs import read_config
from ..convert.write import origin_told
from ..errors import BurnError
from ..evals.results import read_results
from ..files import missing, read_json, write_text
from .card import render_card
from .figures import rows_of_results
from .push import push_folder
from .terms import License


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to `burn-timm`."""
    push = commands.add_parser(
        "push", help="an export folder to a repository of the Hugging Face Hub",
        description="Uploads what an export writes in one commit; other files in the folder stay at home. A card that "
        "names no repository yet gets the name and the load line of this one.",
        epilog="examples:\n  burn-timm push output/mine/export OWNER/NAME --private",
    )
    push.add_argument("folder", metavar="FOLDER", type=Path, help="config.json, model.safetensors and README.md")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME, or NAME for your own; made if need be")
    push.add_argument("--private", action="store_true", help="make it private, if it is made (default: public)")
    push.add_argument("--yes", action="store_true", help="replace the files of a repository that is not empty; what an "
                      "earlier export left there and this folder lacks is removed, all else stays (default: refuse)")
    push.set_defaults(run=_push)

    card = commands.add_parser(
        "card", help="write the model card of an export folder",
        description="Writes README.md anew from config.json, model.safetensors, training.json and these options.",
        epilog="examples:\n  burn-timm card output/mine/export --repo OWNER/NAME --results knn.json linear.json",
    )
    card.add_argument("folder", metavar="FOLDER", type=Path, help="config.json, model.safetensors, training.json")
    where = card.add_mutually_exclusive_group()
    where.add_argument("--repo", metavar="OWNER/NAME", help="usage from this Hub repository (default: from a folder)")
    where.add_argument("--tag", metavar="NAME", help="usage by this name of timm's (default: from a folder)")
    card.add_argument("--results", metavar="JSON", nargs="+", type=Path, default=[],
                      help="of eval_downstream.py: of these weights, of the pixels and of the untrained network")
    card.add_argument("--dataset-id", metavar="OWNER/NAME", nargs="+", default=[],
                      help="of the training images on the Hub (default: where their name is a known one)")
    card.add_argument("--teacher-labels", action=argparse.BooleanOptionalAction, default=None,
                      help="the teacher was trained with labels (default: timm's weights with a classifier were)")
    card.add_argument("--license", metavar="ID", help="of the weights (default: as the data's terms ask)")
    card.add_argument("--license-name", metavar="NAME", help="with --license other: lower-case, such as my-terms-1.0 "
                      "(default: of the data)")
    card.add_argument("--license-link", metavar="URL", help="with --license other: where it can be read "
                      "(default: of the data)")
    card.set_defaults(run=_card)


def _push(args: argparse.Namespace) -> None:
    print(push_folder(args.folder, args.repo, private=args.private, overwrite=args.yes))


def _card(args: argparse.Namespace) -> None:
    folder = args.folder
    weights, training = folder / "model.safetensors", folder / "training.json"
    if not weights.is_file():
        raise missing(weights)
    if origin_told(folder):
        raise BurnError(f"{folder}: was written by burn-timm convert, whose README.md names origin and licence, "
                        "which a new card would lose: add to that one by hand")
    results = read_results(args.results) if args.results else []
    rows = rows_of_results(results, weights, read_config(folder)["architecture"]) if results else []
    details = read_json(training) if training.is_file() else {}
    details = details or next((result["training"] for result in results if result.get("training")), {})
    license = License(args.license, args.license_name, args.license_link)
    text = render_card(folder, details, rows, args.repo, args.tag, license, args.dataset_id, args.teacher_labels)
    write_text(folder / "README.md", text)
    print(folder / "README.md")
