"""The commands `burn-timm push` and `burn-timm card`."""

import argparse
from pathlib import Path

from .push import push_folder


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to `burn-timm`."""
    push = commands.add_parser("push", help="an export folder to a repository of the Hugging Face Hub")
    push.add_argument("folder", metavar="DIR", type=Path, help="config.json, model.safetensors and README.md")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME, or NAME for your own; made if need be")
    push.add_argument("--private", action="store_true", help="make it private, if it is made")
    push.add_argument("--yes", action="store_true", help="replace the files of a repository that is not empty")
    push.set_defaults(run=_push)


def _push(args: argparse.Namespace) -> None:
    print(push_folder(args.folder, args.repo, private=args.private, overwrite=args.yes))
