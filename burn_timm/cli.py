"""The command `burn-timm`: its commands are in commands.py, convert/, hub/ and deploy/."""

import argparse
import sys
from collections.abc import Sequence

from . import arguments
from .commands import add_commands
from .convert.command import add_command as add_convert_command
from .deploy.commands import add_commands as add_deploy_commands
from .hub.commands import add_commands as add_hub_commands

_GROUPS = {
    "look at networks": ("info", "bench"), "weights": ("pack", "unpack", "convert"), "run in 1 bit": ("export",),
    "share on the Hugging Face Hub": ("card", "push"),
}
_EXAMPLES = """\
examples:
  burn-timm info reactnet_a
  burn-timm pack last.pth.tar FOLDER --model reactnet_a
  burn-timm export FOLDER ONE_BIT --format c
  burn-timm push FOLDER OWNER/NAME --private

burn-timm COMMAND --help has more of each command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return 0.

    Raises:
        SystemExit: Code 2 after one line on stderr for bad input, 130 after Ctrl-C.
    """
    parser = _parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    args.command_line = ["burn-timm", *argv]
    if args.command is None:
        parser.print_help()
    else:
        arguments.run(f"burn-timm {args.command}", lambda: args.run(args))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(prog="burn-timm", epilog=_EXAMPLES, usage="burn-timm COMMAND ...")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="burn-timm")
    add_commands(commands.add_parser)
    add_convert_command(commands)
    add_hub_commands(commands)
    add_deploy_commands(commands)
    helps = {action.dest: action.help for action in commands._choices_actions}
    lines = [f"{title}:\n" + "\n".join(f"  {name:<8} {helps[name]}" for name in names)
             for title, names in _GROUPS.items()]
    parser.description = "1-bit vision backbones for timm.\n\n" + "\n\n".join(lines)
    return parser


if __name__ == "__main__":
    sys.exit(main())
