"""Fill in the figures of the pages' tables from `results/*.jsonl`: `python docs/make_tables.py`.

A table stands between two comments. The first one names its last columns, which are filled in; all else is written by
hand, one row for each line of figures:

    <!-- figures: knn linear seeds -->
    | row            | name in results | kNN | linear | seeds |
    |----------------|-----------------|----:|-------:|------:|
    | BURN; lr 0.003 | `target_paper`  |     |        |       |
    <!-- end -->

The last `code` or <!-- comment --> of a row is its name. Column COLUMN has the `value` of the line NAME_COLUMN, or mean
and deviation over seeds, NAME_s0_COLUMN and so on. `COLUMN:ENTRY` has another entry of the line, in dotted form.
Tables of times begin with <!-- bench --> (a row has network and engine) or <!-- step --> (name, and how).

    python docs/make_tables.py results/STUDY.jsonl RESULT.json ...

adds files that eval_downstream.py or train_burn.py has written to a study. A line gets the name of its file; a
`summary.json` gets the name of its folder, with `_training` behind it.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burn_timm.evals.results import cell, entry
from burn_timm.files import read_json, read_lines, write_text
from burn_timm.tables import markdown, number

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES = {line["name"]: line for path in sorted((ROOT / "results").glob("*.jsonl")) for line in read_lines(path)}
_TABLE = re.compile(r"<!-- (figures|bench|step)(?:: (.*?))? -->\n(.*?)\n<!-- end -->", re.S)


def filled(text: str) -> str:
    """A page with its tables as the results have them now.

    Raises:
        ValueError: A row of a table names no result.
    """
    return _TABLE.sub(_table, text)


def _table(match: re.Match) -> str:
    kind, columns, table = match.groups()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    fill = {"figures": lambda row: figures(row, columns.split()), "bench": bench, "step": step}[kind]
    new = [fill(row) for row in rows]
    count = len(new[0])
    rows = [[*row[:-count], *cells] for row, cells in zip(rows, new, strict=True)]
    mark = f"{kind}: {columns}" if columns else kind
    return f"<!-- {mark} -->\n{markdown(header, rows, len(header) - count)}\n<!-- end -->"


def _name(row: Sequence[str]) -> str:
    """The last `code` or comment of a row."""
    return [code or comment for code, comment in re.findall(r"`(.+?)`|<!-- (.+?) -->", " ".join(row))][-1]


def figures(row: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Figures in %, `–` where there is none, and under `seeds` the number of those in the first column."""
    found = {column: values(_name(row), column) for column in columns if column != "seeds"}
    if not any(found.values()):
        raise ValueError(f"no result of the name {_name(row)} with one of the figures {', '.join(found)}")
    seeds = str(len(next(iter(found.values()))))
    return [seeds if column == "seeds" else cell(found[column]) if found[column] else "–" for column in columns]


def values(name: str, column: str) -> list[Any]:
    """The entries of `NAME_COLUMN`, or of `NAME_s0_COLUMN`, `NAME_s1_COLUMN`, ..."""
    suffix, _, path = column.partition(":")
    seeds = re.compile(rf"{re.escape(name)}(_s\d+)?{re.escape(f'_{suffix}' if suffix else '')}")
    return [entry(line, path or "value") for key, line in sorted(LINES.items()) if seeds.fullmatch(key)]


def bench(row: Sequence[str]) -> list[str]:
    """Milliseconds and ratio on one thread and on two, MB of the file and of memory."""
    model, title = row[0].strip("`"), row[1].strip("*")
    one, two = (_row(LINES[f"bench_224_{threads}_threads"]["rows"], model=model, title=title) for threads in (1, 2))
    times = [number(found[name], 2) for found in (one, two) for name in ("ms", "ratio")]
    return times + [number(one[name], 1, 1e-6) for name in ("file_bytes", "memory_bytes")]


def step(row: Sequence[str]) -> list[str]:
    """Images a second and the ratio to the first row, MB at the peak and their ratio, MB kept for the backward pass."""
    rows = LINES[_name(row)]["extra"]["rows"]
    found = _row(rows, title=row[1])
    peak, first = found["memory"]["peak_bytes"], rows[0]["memory"]["peak_bytes"]
    return [number(found["images_per_second"], 1), number(found["ratio"], 2), f"{peak / 1e6:.0f}",
            number(peak / first, 2), f"{found['memory']['saved_bytes'] / 1e6:.0f}"]


def _row(rows: Sequence[dict], **wanted: str) -> dict:
    for row in rows:
        if row.items() >= wanted.items():
            return row
    raise ValueError(f"no measured row has {wanted}")


def add(study: Path, paths: Sequence[Path]) -> None:
    """Append results and summaries to a study; a line of the same name is replaced."""
    lines = {line["name"]: line for line in read_lines(study)}
    for path in paths:
        content = read_json(path)
        name = f"{path.parent.name}_training" if path.name == "summary.json" else path.stem
        lines[name] = {"name": name, "task": "training", **content}
    write_text(study, "".join(json.dumps(lines[name]) + "\n" for name in sorted(lines)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        add(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
    else:
        for page in PAGES:
            write_text(page, filled(page.read_text(encoding="utf-8")))
