"""burn-timm export: what comes in, what is written, what is refused."""

import json
import os
import shutil
from argparse import Namespace

import pytest
import timm
import torch
from exported import packed, write_export
from safetensors.torch import save_file

from burn_timm.checkpoints import save_latent
from burn_timm.cli import main
from burn_timm.deploy import load
from burn_timm.deploy.export import export
from burn_timm.packing import save_packed
from deploy.networks import errors, lively

DATA = {"input_size": [3, 48, 48], "crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
FILES = {"openvino": ["model.bin", "model.xml"], "onnx": ["model.onnx"], "torch-export": ["model.pt2"]}


def requires(format):
    if format == "openvino":
        pytest.importorskip("openvino")
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def trained(tmp_path):
    """A folder as train_burn.py writes it, but with a classifier and labels; and the model."""
    model = lively(num_classes=5)
    folder = write_export(tmp_path / "trained", model, DATA, weight_bits=1, act_bits=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "label_names": list("vwxyz")}))
    return model, folder


def outputs(folder, format, x):
    """Features and logits of an exported folder."""
    if format == "openvino":
        model = load(folder, threads=1)
        return model.features(x), model(x)
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"])
        return tuple(torch.from_numpy(value) for value in session.run(["features", "logits"], {"images": x.numpy()}))
    return torch.export.load(folder / "model.pt2").module()(x)


@pytest.mark.parametrize("format", FILES)
def test_a_trained_folder_to_every_format(trained, tmp_path, format, digits, capsys):
    """Interchange formats take any number of images unless a number is named; a 1-bit engine takes the named one."""
    requires(format)
    model, folder = trained
    out = tmp_path / "out" / "net"
    one_bit = format == "openvino"
    assert run("export", f"local-dir:{folder}", out, "--format", format, *(["--batch-size", 3] if one_bit else [])) == 0
    assert ("does not run in 1 bit" in capsys.readouterr().out) != one_bit
    assert sorted(os.listdir(out)) == ["config.json", *FILES[format]]
    config = json.loads((out / "config.json").read_text())
    assert config["one_bit"] == one_bit and ("does not run in 1 bit" in config.get("note", "")) != one_bit
    assert {name: config["pretrained_cfg"][name] for name in DATA} == DATA
    assert config["label_names"] == list("vwxyz") and config["batch_size"] == (3 if one_bit else None)
    assert str(tmp_path) not in (out / "config.json").read_text()
    x = torch.nn.functional.interpolate(digits[0][:3].float() / 255 - 0.5, (48, 48))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True), model(x)
    for size in (3,) if one_bit else (1, 3):
        for got, reference in zip(outputs(out, format, x[:size]), expected, strict=True):
            assert errors(got, reference[:size]).median() < 2e-3
    if format == "onnx":
        import onnx

        written = onnx.load(out / "model.onnx")
        assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", 17)] and config["opset"] == 17
        assert "does not run in 1 bit" in {entry.key: entry.value for entry in written.metadata_props}["note"]


@pytest.mark.parametrize("kind", ["packed", "restored", "latent"])
def test_a_weights_file(trained, tmp_path, kind):
    pytest.importorskip("openvino")
    model, folder = trained
    file = folder / "model.safetensors"
    if kind == "restored":  # floats whose rows are +-scale: they must be of 1 bit
        file = bare(tmp_path, timm.create_model("test_reactnet", num_classes=5, checkpoint_path=file))
    elif kind == "latent":
        file = tmp_path / "latent.safetensors"
        save_latent(file, model.state_dict(), "test_reactnet", 1)
    assert run("export", file, tmp_path / "net", "--img-size", 41) == 0
    loaded = load(tmp_path / "net")
    x = torch.randn(1, 3, 41, 41)
    assert loaded.num_classes == 5 and errors(loaded(x), model(x).detach()) < 0.05
    assert run("export", file, tmp_path / "net", "--img-size", 41, "--headless") == 0
    headless = load(tmp_path / "net")
    assert headless.num_classes == 0 and headless.label_names is None and headless(x).shape == (1, 128)


def test_a_file_of_a_shape_of_its_own_and_a_training_checkpoint(tmp_path):
    """As `pack` reads them: the arguments that the file tells, and the images of timm's options."""
    shape = {"depths": (1, 1, 1, 1)}
    model = lively(num_classes=5, **shape)
    save_latent(tmp_path / "floats.safetensors", model.state_dict(), "test_reactnet", 1, shape)
    options = Namespace(model_kwargs=shape, img_size=40, mean=(0.5, 0.4, 0.3))
    torch.save({"arch": "test_reactnet", "args": options, "state_dict": model.state_dict()}, tmp_path / "last.pth.tar")
    for name, side in (("floats.safetensors", 64), ("last.pth.tar", 40)):
        assert run("export", tmp_path / name, tmp_path / "net", "--format", "c") == 0
        x = torch.randn(1, 3, side, side)
        assert errors(load(tmp_path / "net")(x), model(x).detach()) < 0.05
    images = json.loads((tmp_path / "net" / "config.json").read_text())["pretrained_cfg"]
    assert (images["input_size"], images["mean"]) == ([3, 40, 40], [0.5, 0.4, 0.3])


@pytest.mark.parametrize(("format", "bits"), [
    ("onnx", (32, 1)), pytest.param("torch-export", (32, 32), marks=pytest.mark.slow),
])
def test_other_stages_are_for_interchange_only_here_one_image_at_a_time(tmp_path, format, bits, fails):
    requires(format)
    model = lively(num_classes=4, weight_bits=bits[0], act_bits=bits[1])
    folder = tmp_path / "stage"
    folder.mkdir()
    save_latent(folder / "model.safetensors", model.state_dict(), "test_reactnet", bits[0])
    config = {"architecture": "test_reactnet", "num_classes": 4, "pretrained_cfg": {"input_size": [3, 64, 64]},
              "model_args": {"weight_bits": bits[0], "act_bits": bits[1]}}
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "model.safetensors"
    assert run("export", file, tmp_path / "net", "--format", format, "--batch-size", 1) == 0
    assert json.loads((tmp_path / "net" / "config.json").read_text())["batch_size"] == 1
    x = torch.randn(1, 3, 64, 64)
    assert errors(outputs(tmp_path / "net", format, x)[1], model(x).detach()) < 0.05
    with pytest.raises(Exception, match=r"(?i)shape|dimension|size"):
        outputs(tmp_path / "net", format, torch.cat([x, x]))
    alone = shutil.copy(file, tmp_path / "floats.safetensors")
    stage = f"weight_bits={bits[0]}, act_bits={bits[1]}; only 1/1 runs in 1 bit"
    for source, message in ((folder, stage), (file, stage), (alone, "weights trained with 32 bits; give the folder")):
        assert message in fails("export", source, tmp_path / "no") and not (tmp_path / "no").exists()


def bare(tmp_path, model):
    file = tmp_path / "bare.safetensors"
    save_file(model.state_dict(), file)
    return file


def not_finite(tmp_path):
    model = lively()
    model.stages[1][0].bn1.bias.data[2] = float("nan")
    save_packed(tmp_path / "nan.safetensors", packed(model))
    return tmp_path / "nan.safetensors"


@pytest.mark.parametrize(("arguments", "message"), [
    (lambda path: ["nothing"], "no such file"),
    (lambda path: ["resnet18"], "for timm's weights of this name add --pretrained"),
    (lambda path: ["reactnet_a"], "names a network without weights"),
    (lambda path: ["resnet18.a1_in1k", "--pretrained", "--model", "x"], "--model is for a weights file"),
    (lambda path: [bare(path, lively())], "nothing tells whether"),
    (lambda path: [bare(path, timm.create_model("test_resnet"))], "no burn_timm model fits"),
    (lambda path: [bare(path, timm.create_model("test_resnet")), "--model", "test_resnet"], "no binary convolutions"),
    (lambda path: [not_finite(path)], "bias of binary convolution 2: NaN or infinite weights"),
])
def test_what_is_refused(arguments, message, tmp_path, fails):
    checkpoint, *options = arguments(tmp_path)
    assert message in fails("export", checkpoint, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_what_was_there_stays(trained, tmp_path, monkeypatch, fails):
    """Other files are not replaced, and a failure leaves the old export."""
    pytest.importorskip("openvino")
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    assert "would be replaced, but it also holds precious.txt" in fails("export", trained[1], out)
    assert os.listdir(out) == ["precious.txt"]
    assert "a file; give the name of a folder" in fails("export", trained[1], out / "precious.txt")
    assert run("export", trained[1], tmp_path / "net", "--format", "openvino") == 0
    before = (tmp_path / "net" / "model.bin").read_bytes()
    monkeypatch.setattr("openvino.save_model", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    assert "disk full" in fails("export", trained[1], tmp_path / "net", "--img-size", "64", "--format", "openvino")
    assert (tmp_path / "net" / "model.bin").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["net", "out", "trained"]


def test_the_thousand_class_network_takes_less_than_8_mb(tmp_path):
    pytest.importorskip("openvino")
    export(timm.create_model("reactnet_a"), tmp_path / "net", "openvino")
    assert sum(path.stat().st_size for path in (tmp_path / "net").iterdir()) < 6.2e6
