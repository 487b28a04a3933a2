"""The commands of README.md and docs/ are real: options that exist, files that are there, pages that are linked."""

import re
import shlex
from pathlib import Path

import pytest

import eval_downstream
from burn_timm import cli
from burn_timm.training.options import parse_options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page):
    text = page.read_text().replace("\\\n", " ")
    lines = (line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines())
    return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train_burn.py" in c and len(c.split()) > 3])
def test_training_commands_parse(command):
    argv = shlex.split(command)
    parse_options(argv[argv.index("train_burn.py") + 1 :])


@pytest.mark.parametrize("command", [c for c in COMMANDS if "eval_downstream.py" in c])
def test_evaluation_commands_parse(command):
    argv = shlex.split(command)
    eval_downstream._parser().parse_args(argv[argv.index("eval_downstream.py") + 1 :])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("burn-timm ")])
def test_other_commands_parse(command):
    cli._parser().parse_args(shlex.split(command)[1:])


def test_every_task_and_command_is_shown():
    shown = " ".join(COMMANDS)
    for program, parser in (("eval_downstream.py", eval_downstream._parser()), ("burn-timm", cli._parser())):
        (tasks,) = [action for action in parser._actions if action.dest in ("task", "command")]
        assert [task for task in tasks.choices if f"{program} {task} " not in shown] == []


def test_the_readme_is_short_and_its_commands_are_known():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200
    known = ("python3 -m venv", ". .venv/bin/activate", "pip install -e", "accelerate launch train_burn.py", "cc -O3",
             "python -m pytest", "python eval_downstream.py", "burn-timm ", "./features ")
    assert [command for command in commands_of(ROOT / "README.md") if not command.startswith(known)] == []


def test_the_map_names_what_exists():
    (tree,) = re.findall(r"```\n(train_burn\.py.*?)```", (ROOT / "README.md").read_text(), re.S)
    folder = ROOT
    for line in tree.splitlines():
        names = line.strip().split("  ")[0].split()
        inside = line.startswith(" ")
        for name in names:
            assert ((folder if inside else ROOT) / name).exists(), name
        if not inside and names[0].endswith("/"):
            folder = ROOT / names[0]
