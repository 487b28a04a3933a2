import hashlib
import json
import os
import subprocess

import pytest
import torch

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


def test_a_bare_word_or_root_as_place_replaces_nothing(places, monkeypatch):
    monkeypatch.chdir(places)
    monkeypatch.setenv("BURN_DATA", "data")
    monkeypatch.setenv("HOME", "/")
    assert redact(f"the data of torch/data in {places}/data/x") == "the data of torch/data in $BURN_DATA/x"


def test_the_command_can_be_pasted(places):
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


def test_write_result(places):
    checkpoint = places / "here" / "runs" / "w.bin"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    returned = write(
        "out/r.json",
        checkpoint=checkpoint,
        dataset={"name": f"hfds/{places}/data/c", "train": {"images": 7}},
        protocol={"weights": [f"{places}/home/w"]},
        extra={"top5": 0.75, "dir": places / "elsewhere"},
        command=["prog", "--checkpoint", str(checkpoint)],
    )
    text = (places / "here" / "out" / "r.json").read_text()
    result = json.loads(text)
    assert result == returned and str(places) not in text
    assert result["checkpoint"] == {"path": "runs/w.bin", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert result["dataset"] == {"name": "hfds/$BURN_DATA/c", "train": {"images": 7}}
    assert result["protocol"] == {"weights": ["$HOME/w"]}
    assert result["extra"] == {"top5": 0.75, "dir": ".../elsewhere"}
    assert result["command"] == "prog --checkpoint runs/w.bin"
    assert result["versions"]["torch"] == torch.__version__
    assert set(result["versions"]) == {"python", "torch", "timm", "burn_timm"}
    assert result["hardware"]["threads"] == torch.get_num_threads() and result["hardware"]["cpu"]
    assert result["hardware"] == hardware()


def test_a_failed_write_leaves_the_old_file(places):
    write("r.json", value=0.25)
    with pytest.raises(ValueError):
        write("r.json", value=float("nan"))
    with pytest.raises(BurnError, match="missing.bin: cannot be read"):
        write("r.json", checkpoint="missing.bin")
    assert json.loads((places / "here" / "r.json").read_text())["value"] == 0.25
    assert os.listdir() == ["r.json"]
    (places / "here" / "file").write_text("")
    with pytest.raises(BurnError, match="cannot be written"):
        write("file/r.json")


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
