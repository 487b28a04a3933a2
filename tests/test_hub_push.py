"""burn-timm push: byte for byte, once, over nobody's files, through the real client; and what stands in its way."""

import functools
import hashlib

import pytest
import timm
from hub_server import TOKEN
from timm.models._hub import save_config_for_hf

from burn_timm.cli import main
from burn_timm.nn import binary_weight_names
from burn_timm.packing import pack_state_dict, save_packed

CARD = b"---\nlibrary_name: timm\n---\n# A model\n"


@pytest.fixture
def folder(tmp_path):
    model = timm.create_model("test_reactnet", num_classes=10).eval()
    export = tmp_path / "export"
    export.mkdir()
    save_config_for_hf(model, export / "config.json", model_args={"num_classes": 10})
    save_packed(export / "model.safetensors", pack_state_dict(model.state_dict(), binary_weight_names(model)))
    (export / "README.md").write_bytes(CARD)
    (export / "curves.png").write_bytes(b"\x89PNG\r\n")
    (export / ".DS_Store").write_bytes(b"nobody's business")
    return export


@pytest.fixture
def push(hub_client):
    return functools.partial(hub_client.command, "burn-timm", "push")


def one_line(done, start):
    code, out, err = done
    assert (code, out, err.count("\n")) == (2, "", 1), done
    assert err.startswith(f"burn-timm push: {start}") and TOKEN not in err, err
    return err


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_push_and_push_again(hub, push, folder):
    hub.commit("me/fresh", {".gitattributes": b"*.bin filter=lfs"})
    for name in ("model", "me/model", "me/fresh"):
        assert push(folder, name) == (0, f"{hub.endpoint}/me/{name.removeprefix('me/')}\n", "")
    assert hub.files("me/model") == content(folder) and len(hub.repos["me/model"]) == 1
    assert hub.files("me/fresh") == {**content(folder), ".gitattributes": b"*.bin filter=lfs"}


def test_files_of_others_are_replaced_only_by_yes(hub, push, folder):
    hub.commit("me/taken", {"README.md": b"another", "pytorch_model.bin": b"1"})
    start = "me/taken: holds files already (README.md, pytorch_model.bin); name another repository, or "
    one_line(push(folder, "me/taken"), start)
    assert push(folder, "me/taken", "--yes")[0] == 0
    assert hub.files("me/taken") == content(folder) and len(hub.repos["me/taken"]) == 2


def test_yes_removes_what_an_earlier_export_left_and_nothing_else(hub, push, folder):
    others = {"LICENSE": b"mine", "photos/bird.png": b"2", "model.fp32.safetensors": b"3", ".gitattributes": b"4"}
    stale = {"pytorch_model.bin": b"1", "training.json": b"{}", "curves.png": b"5"}
    hub.commit("me/taken", {**others, **stale, "config.json": b"{}"})
    (folder / "curves.png").unlink()
    told = []
    for _ in range(2):  # the second push finds nothing to do
        code, out, err = push(folder, "me/taken", "--yes")
        assert (code, out) == (0, f"{hub.endpoint}/me/taken\n")
        assert hub.files("me/taken") == {**content(folder), **others} and len(hub.repos["me/taken"]) == 2
        told.append(err)
    assert told == ["me/taken: of its other files, removed curves.png, pytorch_model.bin, training.json; left alone "
                    "LICENSE, model.fp32.safetensors, photos/bird.png\n", ""]
    hub.commit("me/taken", {"training.json": b"{}"})  # all of the folder is there already
    assert push(folder, "me/taken")[0] == 0 and "training.json" in hub.files("me/taken")
    assert push(folder, "me/taken", "--yes")[0] == 0
    assert hub.files("me/taken") == {**content(folder), **others} and len(hub.repos["me/taken"]) == 4


def test_private(hub, push, folder):
    assert push(folder, "lab/hidden", "--private")[0] == 0 and hub.private == {"lab/hidden"}
    assert push(folder, "lab/open")[0] == 0 and hub.private == {"lab/hidden"}
    one_line(push(folder, "lab/open", "--private"), "lab/open: is public, and --private only makes new repositories ")


def test_a_push_that_failed_is_completed_by_the_next(hub, push, folder):
    hub.faults = {"POST /api/repos/create": [403], "POST /api/models/me/model/commit/": [500]}
    assert "403" in one_line(push(folder, "me/model"), "me/model: ") and "me/model" not in hub.repos
    said = one_line(push(folder, "me/model"), "me/model: ")
    assert "500" in said and said.endswith(f"; burn-timm push {folder} me/model completes it\n")
    assert hub.repos["me/model"] == []
    assert push(folder, "me/model")[0] == 0
    assert hub.files("me/model") == content(folder) and len(hub.repos["me/model"]) == 1


def test_weights_go_by_lfs_and_a_failure_on_their_way_is_told_and_completed(hub, push, folder):
    weights = (folder / "model.safetensors").read_bytes()
    put = f"PUT /lfs/{hashlib.sha256(weights).hexdigest()}"
    hub.faults = {put: [500] * 99}
    said = one_line(push(folder, "me/model"), "me/model: Error while uploading 'model.safetensors' to the Hub: ")
    assert "500" in said and "secret" not in said
    assert said.endswith(f"; burn-timm push {folder} me/model completes it\n")
    assert hub.repos["me/model"] == [] and not hub.objects
    hub.faults = {}
    assert push(folder, "me/model")[0] == 0
    assert hub.files("me/model") == content(folder) and list(hub.objects.values()) == [weights]
    sent = hub.requests.count(put)
    assert push(folder, "me/copy")[0] == 0 and hub.requests.count(put) == sent  # the Hub has them already
    assert hub.files("me/copy")["model.safetensors"] == weights


def test_a_token_that_is_refused_is_not_printed(hub, push, folder):
    other = "hf_SomebodyElse0123456789"
    for name in ("me/model", "model"):  # the server repeats it in its answer
        said = one_line(push(folder, name, HF_TOKEN=other), f"{name}: ")
        assert other not in said and "401" in said or "token" in said
    assert not hub.repos


def test_a_hub_that_cannot_be_reached(hub, push, folder):
    with hub.away():
        said = one_line(push(folder, "me/model"), "me/model: ")
    assert said.endswith(f"; burn-timm push {folder} me/model completes it\n")
    assert push(folder, "me/model")[0] == 0


@pytest.mark.parametrize("card, text", [
    (b"---\nlicense: my-own\nmodel-index: 3\n---\n# A model\n", "license must be one of"),
    (b"# A model\n", "the card does not begin with front matter"),
    (b"---\nlicense: mit\n---\n\xff", "not text in UTF-8"),
])
def test_a_card_that_breaks_the_hubs_rules_stays_at_home(hub, push, folder, card, text):
    (folder / "README.md").write_bytes(card)
    said = one_line(push(folder, "me/model"), f"{folder}/README.md: {text}")
    assert said.endswith("; correct it there, or burn-timm card writes a new one\n") and not hub.requests


def test_what_only_the_hub_refuses_is_told_too(hub, push, folder):
    hub.faults = {"POST /api/validate-yaml": [400]}
    one_line(push(folder, "me/model"), "me/model: Invalid metadata in README.md")
    assert not any("/commit/" in request for request in hub.requests)


def test_a_card_whose_usage_names_no_repository_is_uploaded_as_it_is_with_a_warning(hub, push, folder):
    (folder / "README.md").write_bytes(CARD + b'model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER")\n')
    code, out, err = push(folder, "model")
    assert (code, out) == (0, f"{hub.endpoint}/me/model\n") and err.count("\n") == 1
    assert err.startswith(f"{folder}/README.md: its usage says local-dir:PATH_OF_THIS_FOLDER, which ")
    assert "write hf-hub:me/model there" in err
    assert hub.files("me/model") == content(folder)


@pytest.mark.parametrize("name, text", [
    ("config.json", "has no config.json; expected an export folder"),
    ("model.safetensors", "has no model.safetensors; expected an export folder"),
    ("README.md", "has no README.md; burn-timm card "),
])
def test_an_incomplete_folder_stays_at_home(folder, capsys, name, text):
    (folder / name).unlink()
    assert main(["push", str(folder), "me/model"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"burn-timm push: {folder}: {text}") and err.count("\n") == 1


def test_other_folders_and_damaged_weights_stay_at_home(folder, capsys):
    assert main(["push", str(folder.parent), "me/model"]) == 2
    assert f"is it {folder}?" in capsys.readouterr().err
    assert main(["push", str(folder / "nowhere"), "me/model"]) == 2
    assert "no such folder" in capsys.readouterr().err
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert main(["push", str(folder), "me/model"]) == 2
    assert "model.safetensors" in capsys.readouterr().err


CHECK = """
import sys
from pathlib import Path
from burn_timm.errors import BurnError
from burn_timm.hub.push import check_target, push_folder
try:
    print(check_target({name!r}, Path({record!r})))
    if {folder!r}:
        push_folder(Path({folder!r}), {name!r}, record=Path({record!r}))
except BurnError as error:
    sys.exit(str(error))
"""


def test_a_run_pushes_again_over_what_it_pushed_itself_and_nobody_touched(hub, hub_client, folder, tmp_path):
    def run(record, export=folder):
        code = CHECK.format(name="me/model", record=str(tmp_path / record), folder=str(export or ""))
        return hub_client.python(code)[0]

    assert run("pushed.json") == 0
    (folder / "README.md").write_bytes(CARD + b"better figures\n")  # as after a resumed run
    assert run("pushed.json") == 0 and hub.files("me/model") == content(folder) and len(hub.repos["me/model"]) == 2
    assert run("pushed.json") == 0 and len(hub.repos["me/model"]) == 2  # the same files: nothing to do
    assert run("other.json", None).startswith("me/model: holds files already")  # another run
    hub.commit("me/model", {"README.md": CARD + b"edited on the Hub"})
    (folder / "README.md").write_bytes(CARD)
    assert run("pushed.json").startswith("me/model: holds files already")
    assert hub.files("me/model")["README.md"].endswith(b"edited on the Hub")


def test_a_refused_token_is_found_before_training_even_for_a_whole_name(hub, hub_client, tmp_path):
    code = CHECK.format(name="lab/model", record=str(tmp_path / "pushed.json"), folder="")
    assert hub_client.python(code)[0] == 0
    said = hub_client.python(code, HF_TOKEN="hf_SomebodyElse0123456789")[0]
    assert str(said).startswith("lab/model: ") and "hf_SomebodyElse" not in said
