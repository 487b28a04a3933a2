"""Imports go one way, as the README's tree is read: from scripts down to pure functions."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "burn_timm"
LEVELS = [
    {"errors", "version", "distributed", "schedules", "tables", "timing", "memory"},
    {"files", "arguments", "compat", "provenance"},
    {"losses", "heads", "packing", "configs", "kernels", "runs"},
    {"nn"},
    {"models", "methods"},
    {"checkpoints", "counting"},
    {"data", "convert"},
    {"evals"},
    {"hub", "deploy"},
    {"training", "cli"},
]
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}


def imported_rooms(path: Path) -> set[str]:
    """Names directly under burn_timm that a file imports."""
    inside = path.relative_to(PACKAGE).parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = ["burn_timm", *inside[:-1]][: len(inside) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        rooms |= {name[1] for name in names if name[0] == "burn_timm" and len(name) > 1 and name[1] != "__version__"}
        rooms |= {name[0] for name in names if name[0] in ("train_burn", "eval_downstream")}
    return rooms


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_imports_upwards(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported_rooms(path) - {room}:
        assert other in RANK, f"{path.name} imports {other}, which has no level"
        assert RANK[other] <= RANK[room], f"{room} imports {other}"


def test_importing_the_package_imports_no_training():
    assert imported_rooms(PACKAGE / "__init__.py") <= {"models", "version", "__version__"}
