"""Published figures: complete, without paths of a machine, and equal to what the pages print."""

import hashlib
import json
import re
import statistics
from pathlib import Path

import make_tables
import pytest
import timm

from burn_timm.errors import BurnError
from burn_timm.evals.results import read_results

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "results").glob("*.jsonl"))
ALWAYS = {"name", "task", "commit", "command", "hardware", "versions"}
KEYS = {
    "training": {"model", "stages", "method", "dataset", "seconds", "seed"},
    "bench": {"settings", "rows", "date"},
    None: {"value", "protocol", "dataset", "model", "checkpoint", "date"},
}


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_line_is_complete_and_names_no_machine(study):
    lines = [json.loads(line) for line in study.read_text().splitlines()]
    for line in lines:
        missing = (ALWAYS | KEYS.get(line.get("task"), KEYS[None])) - line.keys()
        assert not missing, (line.get("name"), missing)
        assert not re.search(r"(?<![\w.$])/(?:home|root|tmp|work|mnt|data)/", json.dumps(line)), line["name"]
    names = [line["name"] for line in lines]
    assert names == sorted(set(names))


@pytest.mark.parametrize("page", make_tables.PAGES, ids=lambda path: path.stem)
def test_a_page_is_up_to_date(page):
    text = page.read_text()
    assert make_tables.filled(text) == text, "run `python docs/make_tables.py`"
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"


def test_every_study_and_every_page_is_listed_and_a_name_stands_for_one_line():
    assert len(make_tables.LINES) == sum(len(study.read_text().splitlines()) for study in STUDIES)
    listed = (ROOT / "results" / "README.md").read_text()
    assert all(f"`{study.name}`" in listed for study in STUDIES)
    pages = ROOT / "docs" / "experiments"
    index = (pages / "README.md").read_text()
    assert all(f"({page.name})" in index for page in pages.glob("*.md") if page.name != "README.md")


TABLE = """<!-- figures: knn {} seeds -->
| row | name | kNN | linear | seeds |
|---|---|---|---|---|
| words of a hand | `{}` | 1.00 | | 7 |
<!-- end -->"""


def test_a_row_has_mean_deviation_and_number_of_its_seeds():
    """Straight from the lines, without the functions that make the tables."""
    lines = [json.loads(line) for line in (ROOT / "results" / "target.jsonl").read_text().splitlines()]
    for name in ("target_paper", "field_s2bnn_lr2.4e-2", "target_fs_l1"):
        expected = []
        for task in ("knn", "linear"):
            values = [100 * line["value"] for line in lines if re.fullmatch(rf"{name}_s\d_{task}", line["name"])]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            expected.append(f"{statistics.mean(values):.2f}{spread}")
        row = make_tables.filled(TABLE.format("linear", name)).splitlines()[-2]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == ["words of a hand", f"`{name}`", *expected, str(len(values))]
    assert "–" in make_tables.filled(TABLE.format("no_such", "target_paper"))
    with pytest.raises(ValueError, match="no result of the name nonsense"):
        make_tables.filled(TABLE.format("linear", "nonsense"))


def test_no_network_that_is_faster_than_ours_is_left_out():
    rows = make_tables.LINES["bench_224_1_threads"]["rows"]
    assert all(row["cpu_per_wall"] > 0.9 for row in rows)  # the machine had nothing else to do
    faster = {row["model"] for row in rows if row["ratio"] < 1}
    text = "".join(page.read_text() for page in make_tables.PAGES)
    tables = re.findall(r"\n<!-- bench -->(.*?)<!-- end", text, re.S)
    assert len(tables) == 3
    for table in tables:
        lines = [line.split("|") for line in table.strip().splitlines()[2:]]
        assert faster == {cells[1].strip(" `") for cells in lines if float(cells[4]) < 1}


def test_the_teacher_is_the_file_that_was_measured_and_timm_loads_it():
    folder = ROOT / "results" / "teacher_tiny_imagenet_80_48"
    kept = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    names = re.compile(r"teacher_\d+(_tiny)?_(knn|linear)")
    measured = [line for name, line in make_tables.LINES.items() if names.fullmatch(name)]
    assert len(measured) == 4 and {line["checkpoint"]["sha256"] for line in measured} == {kept}
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_features == 256


def test_a_result_is_added_to_a_study_and_read_again(tmp_path):
    result = {"task": "knn", "value": 0.5, "protocol": {}, "dataset": {}}
    (tmp_path / "a_s0_knn.json").write_text(json.dumps(result))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text('{"method": "burn"}')
    study = tmp_path / "study.jsonl"
    make_tables.add(study, [tmp_path / "run" / "summary.json", tmp_path / "a_s0_knn.json"])
    (tmp_path / "a_s0_knn.json").write_text(json.dumps({**result, "value": 0.6}))
    make_tables.add(study, [tmp_path / "a_s0_knn.json"])
    assert [json.loads(line)["name"] for line in study.read_text().splitlines()] == ["a_s0_knn", "run_training"]
    (found,) = read_results([study])
    assert found["value"] == 0.6 and found["file"] == f"{study}, a_s0_knn"
    with pytest.raises(BurnError, match="none.jsonl"):
        read_results([tmp_path / "none.jsonl"])
