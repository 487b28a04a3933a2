"""A teacher from the Hub and an export to it, over HTTP, and the model that anybody loads from there."""

import json

import timm
import torch
from timm.models._hub import save_for_hf

import train_burn
from burn_timm import runs
from burn_timm.hub.card import describe
from burn_timm.runs import draw_curves

from .runs import ONE_STEP, words_of


def test_a_teacher_from_the_hub_and_an_export_to_it(hub, streams, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "draw_curves", draw_curves)  # other short runs go without
    monkeypatch.setattr(train_burn, "describe", describe)
    teacher = timm.create_model("test_resnet", num_classes=0)
    teacher.pretrained_cfg.update({"input_size": (3, 32, 32), "mean": (0.4, 0.4, 0.4)})
    save_for_hf(teacher, tmp_path / "teacher", safe_serialization=True)
    hub.commit("somebody/teacher", tmp_path / "teacher")
    output = tmp_path / "run"
    words = words_of(ONE_STEP.replace("--teacher-img-size 32", ""), "--teacher hf-hub:somebody/teacher",
                     "--teacher-pretrained --push-to-hub student --output", output)
    for again in ([], ["--resume", "auto"]):  # behind its last step: its own repository is no obstacle
        code, _, err = streams(train_burn.main, *words, *again)
        assert code == 0, err[-3000:]
        assert "HTTP" not in err  # the client's own log
    model = timm.create_model("hf-hub:me/student", pretrained=True).eval()
    stages = timm.create_model("hf-hub:me/student", pretrained=True, features_only=True).eval()
    latent = timm.create_model("test_reactnet", num_classes=0, checkpoint_path=str(output / "latent.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), latent.eval()(images)) and len(stages(images)) > 1
    pushed = hub.files("me/student")
    note = json.loads((output / "pushed.json").read_text())
    assert note == {"repo": "me/student", "commit": hub.at("me/student", "main")[0]}
    assert "GET /somebody/teacher/resolve/main/model.safetensors" in hub.requests
    assert len([request for request in hub.requests if "/commit/" in request]) == 2
    settings = json.loads((output / "summary.json").read_text())["settings"]
    assert settings["teacher_img_size"] == 32  # of the configuration in the repository
    assert pushed == {file.name: file.read_bytes() for file in (output / "export").iterdir()}
    assert set(pushed) == {"README.md", "config.json", "model.safetensors", "training.json", "curves.png"}
    assert pushed["curves.png"].startswith(b"\x89PNG")
    assert pushed["training.json"] == (output / "summary.json").read_bytes()
    assert 'create_model("hf-hub:me/student", pretrained=True)' in pushed["README.md"].decode()


def test_a_repository_that_is_taken_stops_the_run_before_it_begins(hub, streams, tmp_path):
    hub.commit("me/student", {"README.md": b"another network"})
    words = words_of(ONE_STEP, "--push-to-hub student --output", tmp_path / "run")
    code, _, err = streams(train_burn.main, *words)
    assert code == 2 and not (tmp_path / "run").exists() and len(hub.repos["me/student"]) == 1
    start = "train_burn.py: error: --push-to-hub me/student: holds files already (README.md); name another repository"
    assert err.strip().splitlines()[-1].startswith(start), err
