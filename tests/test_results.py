"""Published figures: complete, without paths of a machine, and equal to what the pages print."""

import json
import re
from pathlib import Path

import make_tables
import pytest

from burn_timm.errors import BurnError
from burn_timm.evals.tables import read_results

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


def test_every_study_and_every_page_is_listed_and_marks_have_a_table():
    listed = (ROOT / "results" / "README.md").read_text()
    assert all(f"`{study.name}`" in listed for study in STUDIES)
    pages = ROOT / "docs" / "experiments"
    index = (pages / "README.md").read_text()
    assert all(f"({page.name})" in index for page in pages.glob("*.md") if page.name != "README.md")
    with pytest.raises(ValueError, match="no table of the name"):
        make_tables.filled("<!-- nonsense:begin -->\n<!-- nonsense:end -->")


def budget(run):
    """What has to be alike in runs that are compared; a step is one batch of total_batch_size images."""
    names = ("model", "max_steps", "total_batch_size", "img_size", "stages", "dataset", "mixed_precision")
    return {name: run[name] for name in names} | {"opt": run["settings"]["opt"], "sched": run["settings"]["sched"]}


@pytest.mark.parametrize(("pattern", "runs"), [
    (r"methods_\w+_s\d_training", 20), (r"small_\w+_lr1e-3_training", 11), (r"small_\w+_lr3e-3_training", 11),
])
def test_compared_methods_had_the_same_steps_images_and_stages(pattern, runs):
    found = {name: budget(line) for name, line in make_tables.LINES.items() if re.fullmatch(pattern, name)}
    assert len(found) == runs
    assert len({json.dumps(one, sort_keys=True) for one in found.values()}) == 1


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
