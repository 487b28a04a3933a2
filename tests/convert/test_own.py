"""burn-timm pack from the checkpoints of training scripts to a folder to share."""

import argparse
import json

import pytest
import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV3

from burn_timm.checkpoints import save_folder, save_latent
from burn_timm.cli import main
from burn_timm.configs import images_of

IMAGES = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    return timm.create_model("test_reactnet", num_classes=5, in_chans=4, **kwargs).eval()


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


@pytest.fixture
def saved(tmp_path):
    """What timm's training script leaves: a file, its network, and the averaged network."""
    def save(**model_kwargs):
        model = make(**model_kwargs)
        average = ModelEmaV3(make(seed=1, **model_kwargs))
        others = {name: value for name, value in model_kwargs.items() if name != "global_pool"}
        options = argparse.Namespace(
            model="test_reactnet", model_kwargs=others, dataset="", data_dir="/photos/imagenette", img_size=96,
            crop_pct=1.0, mean=(0.5,), std=None, interpolation="", seed=3, gp=model_kwargs.get("global_pool"))
        optimizer = torch.optim.AdamW(model.parameters())
        CheckpointSaver(
            model, optimizer, options, average, checkpoint_dir=tmp_path, recovery_dir=tmp_path,
        ).save_checkpoint(6, 71.5)
        return tmp_path / "last.pth.tar", model, average.module

    return save


def test_the_floats_of_a_run_are_told_by_its_export(tmp_path):
    model = make()
    save_latent(tmp_path / "latent.safetensors", model.state_dict(), "test_reactnet", 1)
    images = images_of(model, {"img_size": 48, "crop_pct": 1.0})
    (tmp_path / "export").mkdir()
    save_folder(tmp_path / "export", model, 1, {"in_chans": 4}, images, label_names=list("abcde"))
    details = {"method": "burn", "teacher": "resnet20_cifar", "teacher_pretrained": False}
    (tmp_path / "export" / "training.json").write_text(json.dumps(details))
    assert main(["pack", str(tmp_path / "latent.safetensors"), str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    found = config["pretrained_cfg"]
    assert (found["input_size"], found["crop_pct"]) == ([4, 48, 48], 1.0) and config["label_names"] == list("abcde")
    assert json.loads((tmp_path / "out" / "training.json").read_text()) == details
    assert "resnet20_cifar (random weights)" in (tmp_path / "out" / "README.md").read_text()
    assert main(["export", str(tmp_path / "export" / "model.safetensors"), str(tmp_path / "c")]) == 0
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [4, 48, 48] and config["label_names"] == list("abcde")


def test_timms_checkpoint_to_a_folder(saved, tmp_path, capsys):
    """The averaged weights, as timm's own reader takes them, unless --part asks for the others."""
    # global_pool by --gp, which timm's script has beside --model-kwargs
    path, model, average = saved(global_pool="max", act_grad="clip")
    given = ["--model", "test_reactnet", "--model-kwargs", "num_classes=5"]
    for options, network in ((given, average), (["--part", "network"], model)):
        assert main(["pack", str(path), str(tmp_path / "out"), *options]) == 0
        loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
        assert torch.equal(outputs(loaded), outputs(network))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    images = config["pretrained_cfg"]
    assert config["model_args"]["act_grad"] == "clip"  # which whoever trains on wants to have
    assert (images["input_size"], images["crop_pct"], images["mean"]) == ([4, 96, 96], 1.0, [0.5] * 4)
    assert "license" not in images  # that of timm's registration
    card = (tmp_path / "out" / "README.md").read_text()
    assert "timm's training script, 7 epochs done" in card and "Imagenette" in card and "71.5" in card
    assert "/photos" not in card + (tmp_path / "out" / "training.json").read_text()
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "w1a1" in out and "timm's training script, 7 epochs done, on imagenette" in out and "--part network" in out
    assert "96 x 96" in out and "One image of 96 px" in out


def test_arguments_that_json_does_not_have_are_one_line(saved, tmp_path, fails):
    path, *_ = saved()
    content = torch.load(path, weights_only=False)
    content["args"].model_kwargs = {"channels": {8, 16}}
    torch.save(content, path)
    assert fails("pack", path, tmp_path / "out").startswith(f"{path}: model test_reactnet, channels {{")


@pytest.mark.parametrize(("told", "side", "line"), [
    ({"arch": "reactnet_a_025_burn"}, 64, "for images of 64 px: no size is told, this is reactnet_a_025_burn's own"),
    ({}, 224, "for images of 224 px: no size is told, this is reactnet_a_025's own; another --model may"),
])
def test_the_size_of_a_fine_tuned_network(told, side, line, tmp_path, capsys):
    """Before, `arch` was not read where timm's options lack: a network of 64 px was packed for 224."""
    weights = timm.create_model("reactnet_a_025_burn", num_classes=3).state_dict()
    torch.save({**told, "state_dict": weights}, tmp_path / "x.pth")
    assert main(["pack", str(tmp_path / "x.pth"), str(tmp_path / "out"), "--binarize"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, side, side] and line in capsys.readouterr().out


def test_the_first_stage_is_told_by_timms_options(saved, tmp_path, fails):
    path, *_ = saved(weight_bits=32)
    assert "trained with 32 bits" in fails("pack", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lightning_and_state_dicts(tmp_path, fails, capsys):
    model, folder = make(head_hidden_size=12), tmp_path / "out"
    weights = model.state_dict()
    lightning = {"pytorch-lightning_version": "2.5", "epoch": 1, "optimizer_states": [{"state": {0: torch.ones(2)}}],
                 "state_dict": {f"net.{name}": tensor for name, tensor in weights.items()} | {"loss.w": torch.ones(2)}}
    for content, who in ((lightning, "PyTorch Lightning 2.5, 2 epochs done"), (weights, "Nothing in the folder tells")):
        torch.save(content, tmp_path / "x.ckpt")
        assert "pass --binarize" in fails("pack", tmp_path / "x.ckpt", folder)
        assert main(["pack", str(tmp_path / "x.ckpt"), str(folder), "--binarize"]) == 0
        assert ("loss.w" in capsys.readouterr().out) == (content is lightning)
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
        assert torch.equal(outputs(loaded), outputs(model)) and who in (folder / "README.md").read_text()
    both = {f"{name}.{key}": tensor for name in ("student", "teacher") for key, tensor in weights.items()}
    torch.save({"state_dict": both}, tmp_path / "x.ckpt")
    assert "--part is needed: the file holds the networks stu" in fails("pack", tmp_path / "x.ckpt", folder)
    assert "--part x: the file holds" in fails("pack", tmp_path / "x.ckpt", folder, "--part", "x")
    assert main(["pack", str(tmp_path / "x.ckpt"), str(folder), "--binarize", "--part", "student"]) == 0
