"""The README's commands are real: options that exist, files that are there."""

import re
import shlex
from pathlib import Path

import pytest

import eval_downstream
from burn_timm import cli
from burn_timm.training.options import parse_options

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text().replace("\\\n", " ")
COMMANDS = [
    command.strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    for line in block.splitlines()
    for command in line.split("&&")
    if command.strip()
]
PARSERS = {"train_burn.py": parse_options, "eval_downstream.py": eval_downstream._parser().parse_args,
           "burn-timm": cli._parser().parse_args}


@pytest.mark.parametrize("command", [c for c in COMMANDS if PARSERS.keys() & {*c.split()[:-1]}])
def test_commands_parse(command):
    argv = shlex.split(command)
    (program,) = PARSERS.keys() & set(argv)
    PARSERS[program](argv[argv.index(program) + 1 :])


def test_every_task_has_a_command():
    (tasks,) = [action for action in eval_downstream._parser()._actions if action.dest == "task"]
    shown = {shlex.split(command)[2] for command in COMMANDS if "eval_downstream.py" in command}
    assert shown == set(tasks.choices)


def test_every_command_starts_with_a_program_we_know():
    known = ("python3 -m venv", ". .venv/bin/activate", "pip install -e", "accelerate launch train_burn.py",
             "python -m pytest", "python eval_downstream.py", "burn-timm ")
    assert len(COMMANDS) >= 12
    assert [command for command in COMMANDS if not command.startswith(known)] == []


def test_the_tree_names_what_exists():
    tree = re.search(r"results:end -->.*?```\n(.*?)```", TEXT, re.S).group(1)
    folder = ROOT
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        names = line.strip().split("  ")[0].split()
        if indent == 0:
            folder = ROOT / names[0] if names[0].endswith("/") else ROOT
        base = folder if indent else ROOT
        for name in names:
            if "*" not in name and "." in name or name.endswith("/"):
                assert (base / name).exists(), f"{base / name} is in the README's tree but not there"
