"""hf-hub: through the real client: what was pushed comes back bit for bit, and what goes wrong on the way.

Whatever fails is told in one line by our loader, leaves no half file, and the next try succeeds.
"""

import pytest
import timm
import torch
from hub_server import DROP, TOKEN, HubClient, HubServer
from timm.models._hub import save_config_for_hf

from burn_timm.cli import main
from burn_timm.nn import binary_weight_names
from burn_timm.packing import pack_state_dict, save_packed

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
    folder.mkdir()
    save_config_for_hf(model, folder / "config.json", model_args={"num_classes": 10})
    save_packed(folder / "model.safetensors", pack_state_dict(model.state_dict(), binary_weight_names(model)))
    assert main(["card", str(folder), "--repo", "me/model"]) == 0
    return model


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with HubServer() as hub:
        client = HubClient(hub, tmp_path_factory.mktemp("home"))
        yield hub, client
        client.close()


@pytest.fixture
def hub(shared):
    shared[0].clear()
    return shared[0]


@pytest.fixture
def client(shared):
    return shared[1]


@pytest.fixture
def load(client, tmp_path):
    """What the network as timm loads it gives, or None and the error; downloads go into the folder `cache`."""
    def load(name):
        to = tmp_path / "output.pt"
        to.unlink(missing_ok=True)
        code, _, err = client.python(LOAD.format(name=name, cache=str(tmp_path / "cache"), to=str(to)))
        return (torch.load(to) if code == 0 else None), err
    return load


@pytest.fixture
def safe(client):
    """What our own loader says: `loaded`, or its one line."""
    def safe(name):
        code, out, err = client.python(SAFE.format(name=name))
        assert code == 0 and out.count("\n") == 1 and TOKEN not in out, (out, err)
        return out.rstrip("\n")
    return safe


def output_of(model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images)


def test_what_was_pushed_comes_back(hub, client, load, tmp_path):
    models = [network(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    for name in ("first", "second"):
        code, _, err = client.command("burn-timm", "push", tmp_path / name, "me/model", "--yes")
        assert (code, err) == (0, "")
    (first, _), (_, files) = hub.repos["me/model"]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    for name, model in (("hf-hub:me/model", models[1]), (f"hf-hub:me/model@{first}", models[0])):
        loaded, err = load(name)
        assert loaded is not None, err
        assert torch.equal(loaded[0], output_of(model)) and len(loaded[1]) > 1
    kept = {path.read_bytes() for path in (tmp_path / "cache").rglob("model.safetensors")}
    assert kept == {(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")}


@pytest.mark.parametrize("faults, said", [
    ([500], "500"), ([401], "401"), ([503], "503"), ([DROP] * 20, ""),
], ids=["500", "401", "503", "dropped"])
def test_a_download_that_fails_leaves_nothing_half_and_works_again(hub, load, safe, tmp_path, faults, said):
    model = network(tmp_path / "export")
    hub.commit("me/model", tmp_path / "export")
    hub.faults = {WEIGHTS: list(faults)}
    loaded, err = load("hf-hub:me/model")
    assert loaded is None and said in err, err
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.faults = {}
    loaded, err = load("hf-hub:me/model")
    assert loaded is not None and torch.equal(loaded[0], output_of(model)), err
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_connection_that_drops_once_is_taken_up_again(hub, load, tmp_path):
    model = network(tmp_path / "export")
    hub.commit("me/model", tmp_path / "export")
    hub.faults = {WEIGHTS: [DROP]}
    loaded, err = load("hf-hub:me/model")
    assert loaded is not None and torch.equal(loaded[0], output_of(model)), err
    assert hub.requests.count(WEIGHTS) == 2
