"""Files and folders are whole or not there, whenever a kill comes."""

import os

import pytest

from burn_timm.errors import BurnError
from burn_timm.files import atomic_folder, atomic_write, missing, read_json, read_lines, recover, require_replaceable


class Killed(BaseException):
    """A kill: nothing after it runs, neither `except` nor `finally`, which the patches below see to."""


def fill(folder, text):
    (folder / "weights").write_text(text)


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "export") as folder:
            fill(folder, text)
    assert (tmp_path / "export" / "weights").read_text() == "new" and os.listdir(tmp_path) == ["export"]


def test_a_failed_block_leaves_the_old_folder(tmp_path):
    with atomic_folder(tmp_path / "export") as folder:
        fill(folder, "old")
    with pytest.raises(ValueError), atomic_folder(tmp_path / "export") as folder:
        raise ValueError
    assert (tmp_path / "export" / "weights").read_text() == "old" and os.listdir(tmp_path) == ["export"]


def test_a_kill_between_the_two_renames_loses_no_folder(tmp_path):
    """What such a kill leaves: the old folder under another name, the new one under a temporary name, none in place."""
    for name, text in ((".export.abcdefg1.old", "old"), (".export.abcdefg1.tmp", "new")):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, text)
    recover(tmp_path / "export")
    assert (tmp_path / "export" / "weights").read_text() == "old" and os.listdir(tmp_path) == ["export"]


def test_leftovers_of_kills_go_with_the_next_recovery(tmp_path):
    (tmp_path / "curves.png").write_text("whole")
    (tmp_path / ".curves.png.abcdefg1.tmp").write_text("half")
    (tmp_path / ".curves.png.more.abcdefg1.tmp").write_text("of another file, which may be being written")
    recover(tmp_path / "curves.png")
    assert sorted(os.listdir(tmp_path)) == [".curves.png.more.abcdefg1.tmp", "curves.png"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "export") as folder:
        fill(folder, "old")
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: replace(a, b) if not str(a).endswith(".tmp") else 1 / 0)
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "export") as folder:
        fill(folder, "new")
    assert (tmp_path / "export" / "weights").read_text() == "old"


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError), atomic_write(path) as beside:
        beside.write_text("half")
        raise ValueError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    require_replaceable(tmp_path / "new", ["config.json"])
    (tmp_path / "config.json").touch()
    require_replaceable(tmp_path, ["config.json"])
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BurnError, match=r"thesis\.tex"):
        require_replaceable(tmp_path, ["config.json"])


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\xff"])
def test_what_is_no_json_object_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(BurnError, match=r"config\.json: .*JSON") as told:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(told.value)


def test_a_folder_in_place_of_the_right_one_is_told_so(tmp_path):
    with pytest.raises(BurnError, match=r"config\.json: no such file$"):
        read_json(tmp_path / "config.json")
    (tmp_path / "network.bin").touch()
    assert str(missing(tmp_path / "model.safetensors")).endswith("give the one that it was exported from")
    (tmp_path / "export").mkdir()
    (tmp_path / "export/config.json").touch()
    with pytest.raises(BurnError, match=r"config\.json: no such file; give .*export$"):
        read_json(tmp_path / "config.json")


def test_a_log_that_a_kill_cut_short_lacks_its_last_line_only(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 3}\n')
    with pytest.raises(BurnError, match="line 2"):
        read_lines(path)
