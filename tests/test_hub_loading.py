"""hf-hub: through the real client: what was pushed comes back bit for bit, and what goes wrong on the way.

Whatever fails is told in one line by our loader, leaves no half file, and the next try succeeds.
"""

import json

import pytest
import timm
import torch
from exported import write_export
from hub_server import TOKEN

from burn_timm.cli import main
from burn_timm.provenance import file_sha256

WEIGHTS = "GET /me/model/resolve/main/model.safetensors"
LOAD = """
import sys, burn_timm, timm, torch
from pathlib import Path
cache = {{"cache_dir": {cache!r}}}
model = timm.create_model({name!r}, pretrained=True, **cache).eval()
stages = timm.create_model({name!r}, pretrained=True, features_only=True, **cache).eval()
images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save((model(images), [stage.shape for stage in stages(images)]), {to!r})
"""
SAFE = """
from burn_timm.checkpoints import load_model
from burn_timm.errors import BurnError
try:
    load_model({name!r})
except BurnError as error:
    print(error)
else:
    print("loaded")
"""


def network(folder, seed=0):
    torch.manual_seed(seed)
    model = timm.create_model("test_reactnet", num_classes=10).eval()
    write_export(folder, model, num_classes=10)
    assert main(["card", str(folder), "--repo", "me/model"]) == 0
    return model


@pytest.fixture
def load(hub_client, tmp_path):
    """What the network as timm loads it gives, or None and the error; downloads go into the folder `cache`."""
    def load(name):
        to = tmp_path / "output.pt"
        to.unlink(missing_ok=True)
        code, _, err = hub_client.python(LOAD.format(name=name, cache=str(tmp_path / "cache"), to=str(to)))
        return (torch.load(to) if code == 0 else None), err
    return load


@pytest.fixture
def safe(hub_client):
    """What our own loader says: `loaded`, or its one line."""
    def safe(name):
        code, out, err = hub_client.python(SAFE.format(name=name))
        assert code == 0 and out.count("\n") == 1 and TOKEN not in out, (out, err)
        return out.rstrip("\n")
    return safe


def output_of(model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images)


def test_what_was_pushed_comes_back(hub, hub_client, load, tmp_path):
    models = [network(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    for name in ("first", "second"):
        code, _, err = hub_client.command("burn-timm", "push", tmp_path / name, "me/model", "--yes")
        assert (code, err) == (0, "")
    assert len([request for request in hub.requests if request.startswith("PUT /lfs/")]) == 2
    (first, _), (_, files) = hub.repos["me/model"]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    for name, model in (("hf-hub:me/model", models[1]), (f"hf-hub:me/model@{first}", models[0])):
        loaded, err = load(name)
        assert loaded is not None, err
        assert torch.equal(loaded[0], output_of(model)) and len(loaded[1]) > 1
    for revision, folder in (("", "second"), (f"@{first}", "first")):
        code, out, err = hub_client.command("burn-timm", "info", f"hf-hub:me/model{revision}", "--json")
        assert code == 0, err
        assert json.loads(out)["sha256"] == file_sha256(tmp_path / folder / "model.safetensors")
    kept = {path.read_bytes() for path in (tmp_path / "cache").rglob("model.safetensors")}
    assert kept == {(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")}


@pytest.mark.parametrize("faults, said", [([500], "500"), ([401], "401")], ids=str)
def test_a_download_that_fails_leaves_nothing_half_and_works_again(hub, load, safe, tmp_path, faults, said):
    model = network(tmp_path / "export", seed=2)  # weights that no other test has left in the cache
    hub.commit("me/model", tmp_path / "export")
    hub.faults = {WEIGHTS: list(faults)}
    loaded, err = load("hf-hub:me/model")
    assert loaded is None and said in err, err
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.faults = {WEIGHTS: list(faults)}
    line = safe("hf-hub:me/model")
    assert line.startswith("model hf-hub:me/model: its model.safetensors cannot be loaded: ") and said in line
    hub.faults = {}
    loaded, err = load("hf-hub:me/model")
    assert loaded is not None and torch.equal(loaded[0], output_of(model)), err
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_what_is_not_there_or_not_what_was_packed_is_one_line(hub, safe, tmp_path):
    network(tmp_path / "export")
    files = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    altered = files["model.safetensors"][:-1] + bytes([files["model.safetensors"][-1] ^ 1])
    hub.commit("me/altered", {**files, "model.safetensors": altered})
    hub.commit("me/model", files)
    hub.commit("me/empty", {"README.md": b"nothing yet"})
    hub.commit("me/bare", {"config.json": files["config.json"]})
    for name in ("me/nothing", "me/model@nowhere", "me/empty", "me/bare", "me/altered"):
        line = safe(f"hf-hub:{name}")
        words = ("checksum",) if name == "me/altered" else ("404", "Entry Not Found")
        assert line.startswith(f"model hf-hub:{name}: ") and any(word in line for word in words), line
    hub.commit("me/altered", files)
    assert safe("hf-hub:me/altered") == safe("hf-hub:me/model") == "loaded"


def test_eval_downstream_measures_a_model_of_the_hub(hub, hub_client, tmp_path):
    network(tmp_path / "export")
    hub.commit("me/model", tmp_path / "export")

    def knn(name):
        out = tmp_path / "knn.json"
        line = ["eval_downstream.py", "knn", "--model", name, "--dataset", "digits", "--img-size", 32, "--output", out]
        code, _, err = hub_client.command(*line, "--workers", 0, "--limit-train", 100, "--limit-test", 50)
        return code, err, json.loads(out.read_text()) if out.exists() else None

    code, err, _ = knn("hf-hub:me/nothing")
    assert code == 2 and err.startswith("eval_downstream.py: error: model hf-hub:me/nothing: ") and err.count("\n") == 1
    assert TOKEN not in err
    _, _, here = knn(f"local-dir:{tmp_path / 'export'}")
    for name in ("hf-hub:me/model", "hf_hub:me/model"):  # timm takes both spellings
        code, err, there = knn(name)
        assert code == 0, err
        assert there["value"] == here["value"] and "me/model" in there["protocol"]["weights"]
