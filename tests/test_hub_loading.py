"""hf-hub: through the real client: what was pushed comes back bit for bit, and what goes wrong on the way.

Whatever fails is told in one line by our loader, leaves no half file, and the next try succeeds.
"""

import json

import pytest
import timm
import torch
from exported import write_export
from hub_server import TOKEN

import eval_downstream
from burn_timm.checkpoints import load_model
from burn_timm.cli import main
from burn_timm.errors import BurnError
from burn_timm.provenance import file_sha256

WEIGHTS = "GET /me/model/resolve/main/model.safetensors"
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(folder, seed=0):
    torch.manual_seed(seed)
    model = timm.create_model("test_reactnet", num_classes=10).eval()
    write_export(folder, model, num_classes=10)
    assert main(["card", str(folder), "--repo", "me/model"]) == 0
    return model


def by_timm(name):
    """What the network as timm loads it gives, also as stages."""
    stages = timm.create_model(name, pretrained=True, features_only=True).eval()
    assert len(stages(IMAGES)) > 1
    return timm.create_model(name, pretrained=True).eval()(IMAGES)


def refused(name):
    """The one line of our own loader."""
    with pytest.raises(BurnError, match=f"^model {name}: ") as error:
        load_model(name)
    assert "\n" not in str(error.value) and TOKEN not in str(error.value)
    return str(error.value)


@torch.no_grad()
def test_what_was_pushed_comes_back(hub, streams, tmp_path):
    models = [network(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    for name in ("first", "second"):
        code, _, err = streams(main, "push", tmp_path / name, "me/model", "--yes")
        assert (code, err) == (0, "")
    assert len([request for request in hub.requests if request.startswith("PUT /lfs/")]) == 2
    (first, _), (_, files) = hub.repos["me/model"]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    for name, model in (("hf-hub:me/model", models[1]), (f"hf-hub:me/model@{first}", models[0])):
        assert torch.equal(by_timm(name), model(IMAGES))
    for revision, folder in (("", "second"), (f"@{first}", "first")):
        code, out, err = streams(main, "info", f"hf-hub:me/model{revision}", "--json")
        assert code == 0, err
        assert json.loads(out)["sha256"] == file_sha256(tmp_path / folder / "model.safetensors")
    kept = {path.read_bytes() for path in (tmp_path / "cache").rglob("model.safetensors")}
    assert kept == {(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")}


@torch.no_grad()
@pytest.mark.parametrize("status", [500, 401])
def test_a_download_that_fails_leaves_nothing_half_and_works_again(hub, tmp_path, status):
    model = network(tmp_path / "export")
    hub.commit("me/model", tmp_path / "export")
    hub.faults = {WEIGHTS: [status]}
    with pytest.raises(Exception, match=str(status)):
        by_timm("hf-hub:me/model")
    hub.faults = {WEIGHTS: [status]}
    line = refused("hf-hub:me/model")
    assert "its model.safetensors cannot be loaded: " in line and str(status) in line
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.faults = {}
    assert torch.equal(by_timm("hf-hub:me/model"), model(IMAGES))
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_what_is_not_there_or_not_what_was_packed_is_one_line(hub, tmp_path):
    network(tmp_path / "export")
    files = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    altered = files["model.safetensors"][:-1] + bytes([files["model.safetensors"][-1] ^ 1])
    hub.commit("me/altered", {**files, "model.safetensors": altered})
    hub.commit("me/model", files)
    hub.commit("me/empty", {"README.md": b"nothing yet"})
    hub.commit("me/bare", {"config.json": files["config.json"]})
    for name in ("me/nothing", "me/model@nowhere", "me/empty", "me/bare", "me/altered"):
        line = refused(f"hf-hub:{name}")
        words = ("checksum",) if name == "me/altered" else ("404", "Entry Not Found")
        assert any(word in line for word in words), line
    hub.commit("me/altered", files)
    for name in ("me/altered", "me/model"):
        load_model(f"hf-hub:{name}")


def test_eval_downstream_measures_a_model_of_the_hub(hub, streams, tmp_path):
    network(tmp_path / "export")
    hub.commit("me/model", tmp_path / "export")
    out = tmp_path / "knn.json"

    def knn(name):
        return streams(
            eval_downstream.main, "knn", "--model", name, "--dataset", "digits", "--img-size", 32, "--output", out,
            "--workers", 0, "--limit-train", 100, "--limit-test", 50)

    code, _, err = knn("hf-hub:me/nothing")
    assert code == 2 and err.startswith("eval_downstream.py: error: model hf-hub:me/nothing: ") and err.count("\n") == 1
    assert TOKEN not in err and not out.exists()
    values = []
    for name in (f"local-dir:{tmp_path / 'export'}", "hf-hub:me/model", "hf_hub:me/model"):  # timm takes both spellings
        code, _, err = knn(name)
        assert code == 0, err
        result = json.loads(out.read_text())
        assert result["checkpoint"]["sha256"] == file_sha256(tmp_path / "export" / "model.safetensors")
        values.append(result["value"])
        assert values[-1] == values[0] and (not values[1:] or "me/model" in result["protocol"]["weights"])
