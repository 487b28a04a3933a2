"""burn-timm push: an export's files, byte for byte, once, over nobody's files, through the real client."""

import functools
import hashlib
import shutil
from pathlib import Path

import pytest
import timm
from exported import write_export
from hub_server import TOKEN

from burn_timm.cli import main
from burn_timm.errors import BurnError
from burn_timm.hub.push import check_target, push_folder

CARD = b"---\nlibrary_name: timm\n---\n# A model\n"
NAMES = {"README.md", "config.json", "model.safetensors", "curves.png"}


@pytest.fixture
def folder(tmp_path):
    """An export, with files beside it that are nobody's business."""
    model = timm.create_model("test_reactnet", num_classes=10).eval()
    export = write_export(tmp_path / "export", model, num_classes=10)
    (export / "README.md").write_bytes(CARD)
    (export / "curves.png").write_bytes(b"\x89PNG\r\n")
    (export / ".DS_Store").write_bytes(b"hidden")
    return export


@pytest.fixture
def push(streams):
    return functools.partial(streams, main, "push")


def one_line(done, start):
    code, out, err = done
    assert (code, out, err.count("\n")) == (2, "", 1), done
    assert err.startswith(f"burn-timm push: error: {start}") and TOKEN not in err, err
    return err


def content(folder):
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


def test_push_and_push_again(hub, push, folder):
    hub.commit("me/fresh", {".gitattributes": b"*.bin filter=lfs"})
    for name in ("model", "me/fresh"):
        assert push(folder, name) == (0, f"{hub.endpoint}/me/{name.removeprefix('me/')}\n", "")
    assert push(folder, "me/model", "--yes")[0] == 0  # and nothing is uploaded or committed again
    assert hub.files("me/model") == content(folder) and len(hub.repos["me/model"]) == 1
    assert hub.files("me/fresh") == {**content(folder), ".gitattributes": b"*.bin filter=lfs"}


def test_only_what_an_export_writes_is_pushed_and_no_link_is_followed(hub, push, folder, tmp_path):
    (folder / "secret.env").write_text("TOKEN=1")
    (folder / "notes").mkdir()
    (folder / "notes" / "README.md").write_text("mine")
    (folder / "link").symlink_to("/etc/passwd")
    code, out, err = push(folder, "me/model")
    assert (code, err) == (0, f"{folder}: not pushed, for no export writes it: link, notes, secret.env\n")
    assert hub.files("me/model") == content(folder)
    (tmp_path / "elsewhere").write_bytes(CARD)
    for name in ("README.md", "training.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "elsewhere")
        one_line(push(folder, "me/other"), f"{folder}/{name}: a link or no file")
        (folder / name).unlink()
        (folder / "README.md").write_bytes(CARD)
    assert "me/other" not in hub.repos


def test_files_of_others_are_replaced_only_by_yes(hub, push, folder):
    others = {"LICENSE": b"mine", "photos/bird.png": b"2", "model.fp32.safetensors": b"3", ".gitattributes": b"4"}
    stale = {"pytorch_model.bin": b"1", "training.json": b"{}", "curves.png": b"5"}
    hub.commit("me/taken", {**others, **stale, "config.json": b"{}"})
    (folder / "curves.png").unlink()
    one_line(push(folder, "me/taken"), "me/taken: holds files already (LICENSE, config.json, curves.png, ...); name ")
    for _ in range(2):  # the second push finds nothing to do
        assert push(folder, "me/taken", "--yes")[:2] == (0, f"{hub.endpoint}/me/taken\n")
        assert hub.files("me/taken") == {**content(folder), **others} and len(hub.repos["me/taken"]) == 2


def test_the_licence_of_converted_weights_goes_with_them(hub, push, folder):
    hub.commit("me/taken", {"LICENSE": b"Weights converted from BURN, and more.\n", "a.txt": b"mine"})
    assert push(folder, "me/taken", "--yes")[0] == 0
    assert hub.files("me/taken") == {**content(folder), "a.txt": b"mine"}


def test_private(hub, push, folder):
    for name, options in (("lab/hidden", ["--private"]), ("lab/open", [])):
        assert push(folder, name, *options)[0] == 0 and hub.private == {"lab/hidden"}
    one_line(push(folder, "lab/open", "--private"), "lab/open: is public, and --private only makes new repositories ")


def test_what_failed_is_completed_by_the_next_push(hub, push, folder):
    weights = (folder / "model.safetensors").read_bytes()
    put = f"PUT /lfs/{hashlib.sha256(weights).hexdigest()}"
    ways = ({"POST /api/repos/create": [403]}, {"POST /api/validate-yaml": [400]}, {put: [500] * 99},
            {"POST /api/models/me/model/commit/": [500]})
    for faults in ways:
        hub.faults = faults
        said = one_line(push(folder, "me/model"), "me/model: ")
        assert "secret" not in said and said.endswith(f"; burn-timm push {folder} me/model completes it\n")
        assert not hub.repos.get("me/model")
    hub.faults = {}
    assert push(folder, "me/model")[0] == 0
    assert hub.files("me/model") == content(folder) and len(hub.repos["me/model"]) == 1
    sent = hub.requests.count(put)
    assert push(folder, "me/copy")[0] == 0 and hub.requests.count(put) == sent  # the Hub has them already


def test_what_the_hub_refuses_is_one_line_without_the_token(hub, push, folder, monkeypatch):
    other = "hf_SomebodyElse0123456789"
    monkeypatch.setenv("HF_TOKEN", other)
    for name in ("me/model", "model"):  # the server repeats it in its answer
        said = one_line(push(folder, name), f"{name}: ")
        assert other not in said and ("401" in said or "token" in said)
    with pytest.raises(BurnError, match="^lab/model: ") as error:  # and a run finds it before it trains
        check_target("lab/model")
    assert other not in str(error.value) and not hub.repos
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert check_target("lab/model") == "lab/model"
    (folder / "README.md").write_bytes(b"---\nlicense: my-own\n---\n# A model\n")
    assert "license" in one_line(push(folder, "me/model"), "me/model: Invalid metadata in README.md")
    assert not hub.repos["me/model"]


def test_a_card_gets_the_name_and_the_load_line_of_its_repository(hub, push, folder):
    card = "---\nmodel-index:\n- name: {0}\n  results: []\n---\n# {0}\nload {1}  # test_reactnet\n"
    (folder / "README.md").write_text(card.format("test_reactnet", "local-dir:PATH_OF_THIS_FOLDER"))
    assert push(folder, "model") == (0, f"{hub.endpoint}/me/model\n", "")
    assert hub.files("me/model")["README.md"].decode() == card.format("model", "hf-hub:me/model")
    assert "PATH_OF_THIS_FOLDER" in (folder / "README.md").read_text()  # the folder stays as it is


def replaced(old, new):
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize("name, damage, text", [
    ("config.json", Path.unlink, "config.json: no such"), ("model.safetensors", Path.unlink, "safetensors: no such"),
    ("README.md", Path.unlink, "README.md: no such file; burn-timm card "), ("", shutil.rmtree, "no such folder"),
    ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "safetensors: the checksum"),
    ("config.json", replaced(b"test_reactnet", b"reactnet_a_025"), "model.safetensors"),
    ("config.json", replaced(b"architecture", b"password"), "config.json: architecture"),
])
def test_an_incomplete_damaged_or_foreign_folder_stays_at_home(folder, fails, name, damage, text):
    damage(folder / name)
    line = fails("push", folder, "me/model")  # no Hub is near
    assert str(folder) in line and text in line


def test_a_run_pushes_again_over_what_it_pushed_itself_and_nobody_touched(hub, folder, tmp_path):
    record = tmp_path / "pushed.json"

    def push():
        check_target("me/model", record)
        push_folder(folder, "me/model", record=record)

    push()
    (folder / "README.md").write_bytes(CARD + b"better figures\n")  # as after a resumed run
    push()
    assert hub.files("me/model") == content(folder) and len(hub.repos["me/model"]) == 2
    push()  # the same files: nothing to do
    assert len(hub.repos["me/model"]) == 2
    with pytest.raises(BurnError, match="^me/model: holds files already"):
        check_target("me/model", tmp_path / "another_run.json")
    hub.commit("me/model", {"README.md": CARD + b"edited on the Hub"})
    for check in (check_target, functools.partial(push_folder, folder)):
        with pytest.raises(BurnError, match="^me/model: holds files already"):
            check("me/model", record=record)
    assert hub.files("me/model")["README.md"].endswith(b"edited on the Hub")
