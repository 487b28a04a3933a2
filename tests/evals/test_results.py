import hashlib
import json
import os
import subprocess

import pytest

import burn_timm
from burn_timm import provenance
from burn_timm.errors import BurnError
from burn_timm.evals.network import training_of
from burn_timm.evals.results import write_result
from burn_timm.provenance import git_commit, hardware, redact, redact_command


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A home, a data folder and a working directory, none below another."""
    for name in ("home", "data", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BURN_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(("text", "expected"), [
    ("hfds/{0}/data/cifar10", "hfds/$BURN_DATA/cifar10"),
    ("{0}/data", "$BURN_DATA"),
    ("{0}/data2/x", ".../x"),
    ("../data/cifar10", "$BURN_DATA/cifar10"),
    ("{0}/here/runs/a.json", "runs/a.json"),
    ("{0}/here", "."),
    ("local-dir:{0}/home/models/a", "local-dir:$HOME/models/a"),
    ("weights={0}/other/b.safetensors, 3", "weights=.../b.safetensors, 3"),
    ("wds//mnt/shards", "wds/.../shards"),
    ("torch/cifar10 hf-hub:t/r https://h.co/a and / or 1/2", "torch/cifar10 hf-hub:t/r https://h.co/a and / or 1/2"),
])
def test_redact(places, text, expected):
    assert redact(text.format(places)) == expected


def test_a_place_that_is_a_bare_word_and_a_command_to_paste(places, monkeypatch):
    with monkeypatch.context() as bare:
        bare.chdir(places)
        bare.setenv("BURN_DATA", "data")
        bare.setenv("HOME", "/")
        assert redact(f"the data of torch/data in {places}/data/x") == "the data of torch/data in $BURN_DATA/x"
    (places / "data" / "a b").mkdir()
    words = ["prog", "--dir", f"{places}/data/a b", f"hfds/{places}/data/c", "two words", "$x", "`y`"]
    command = redact_command(words)
    echoed = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines() == words
    assert str(places) not in command


def write(path, **changes):
    settings = {"task": "knn", "value": 0.5, "protocol": {}, "dataset": {}, "model": "test_resnet", "checkpoint": None,
                "command": []}
    return write_result(path, **{**settings, **changes})


def test_a_result_tells_where_it_comes_from_and_a_failed_write_leaves_the_old_one(places):
    here = places / "here"
    (here / "w.bin").write_bytes(b"weights")
    returned = write(
        "out/r.json", checkpoint=here / "w.bin", dataset={"name": f"hfds/{places}/data/c", "train": {"images": 7}},
        extra={"top5": 0.75, "dir": places / "elsewhere"}, command=["prog", "--checkpoint", str(here / "w.bin")],
    )
    text = (here / "out" / "r.json").read_text()
    result = json.loads(text)
    assert result == returned and str(places) not in text
    expected = {
        "checkpoint": {"path": "w.bin", "sha256": hashlib.sha256(b"weights").hexdigest()}, "value": 0.5,
        "dataset": {"name": "hfds/$BURN_DATA/c", "train": {"images": 7}}, "command": "prog --checkpoint w.bin",
        "extra": {"top5": 0.75, "dir": ".../elsewhere"}, "hardware": hardware(),
    }
    assert result.items() >= expected.items() and "training" not in result and result["hardware"]["cpu"]
    assert set(result["versions"]) == {"python", "torch", "timm", "burn_timm"}
    with pytest.raises(ValueError):
        write("out/r.json", value=float("nan"))
    for path, changes, message in (("out/r.json", {"checkpoint": "missing.bin"}, "missing.bin: cannot be read"),
                                   ("w.bin/r.json", {}, "cannot be written")):
        with pytest.raises(BurnError, match=message):
            write(path, **changes)
    assert (here / "out" / "r.json").read_text() == text and os.listdir(here / "out") == ["r.json"]


def test_git_commit(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    module, new = root / "burn_timm" / "provenance.py", root / "burn_timm" / "new.py"
    module.parent.mkdir(parents=True)
    module.write_text("code\n")
    monkeypatch.setattr(provenance, "__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert git_commit() == burn_timm.__version__

    def git(*args):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=")
        command = ["git", "-C", str(root), *identity, *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    assert git_commit() == burn_timm.__version__  # no commit yet
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert len(commit) == 40 and git_commit() == commit
    (root / "results.json").write_text("{}")
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as inside a hook of another repository
        assert git_commit() == commit  # a figure is not code
    for code in (new, module):
        code.write_text("other code\n")
        assert git_commit() == commit + "-dirty"
        code.unlink()
    inner = root / "venv" / "site-packages" / "burn_timm" / "results.py"
    inner.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(inner))
    assert git_commit() == burn_timm.__version__


def test_how_weights_were_trained_is_told_beside_them_or_by_their_run(tmp_path):
    """An export folder keeps it wherever it is copied; older ones have it in their run's folder only."""
    weights = tmp_path / "run" / "export" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    assert training_of(weights) is None
    run = {"method": "burn", "model": "reactnet_a", "settings": {"lr": 1.0, "hflip": 0.5}}
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**run, "seed": 1}))
    assert training_of(weights) == {"method": "burn", "model": "reactnet_a", "seed": 1, "settings": {"lr": 1.0}}
    (weights.parent / "training.json").write_text(json.dumps({**run, "seed": 2}))
    copy = tmp_path / "elsewhere"
    weights.parent.rename(copy)
    assert training_of(copy / "model.safetensors")["seed"] == 2
