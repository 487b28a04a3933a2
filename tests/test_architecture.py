"""Imports go one way, as the README's tree is read: from scripts down to pure functions."""

import ast
import functools
import graphlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "burn_timm"
LEVELS = [
    {"errors", "version", "distributed", "schedules", "tables", "timing", "memory"},
    {"files", "arguments", "compat", "provenance", "drawing"},
    {"losses", "heads", "packing", "configs", "kernels", "runs"},
    {"nn"},
    {"models", "methods"},
    {"checkpoints", "counting", "identify"},
    {"data", "convert"},
    {"evals"},
    {"hub", "deploy"},
    {"training", "commands", "cli"},
]
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
KNOWN = {*MODULES, "train_burn", "eval_downstream"}


@functools.cache
def imported(module: str) -> set[str]:
    """The package's modules, and scripts, that a module imports anywhere in its file."""
    path, names = MODULES[module], []
    inside = module.split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            names += [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
    beginnings = ((".".join(name), ".".join(name[:-1])) for name in names)  # the last word may be a function's name
    return {next(name for name in pair if name in KNOWN) for pair in beginnings if KNOWN & set(pair)}


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("burn_timm.") else module


def test_no_file_imports_upwards():
    for module in MODULES.keys() - {"burn_timm"}:
        for other in {room(name) for name in imported(module)} - {room(module)}:
            assert other in RANK, f"{module} imports {other}, which has no level"
            assert RANK[other] <= RANK[room(module)], f"{module} imports {other}"


def test_no_files_import_each_other_in_a_circle():
    graphlib.TopologicalSorter({module: imported(module) for module in MODULES}).prepare()


def test_importing_the_package_imports_no_training():
    assert {room(name) for name in imported("burn_timm")} <= {"models", "version"}


def test_what_takes_seconds_to_import_is_imported_where_it_is_used():
    slow = {"matplotlib", "scipy", "sklearn"}
    for module, path in MODULES.items():
        at_once = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in at_once if isinstance(node, ast.ImportFrom) and not node.level}
        assert not slow & {name.partition(".")[0] for name in names}, module
