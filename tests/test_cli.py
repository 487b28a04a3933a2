"""burn-timm info, pack, unpack, called as the shell calls them."""

import json
import os
import subprocess
import sys

import pytest
import timm
import torch

import burn_timm  # noqa: F401
from burn_timm import packing
from burn_timm.checkpoints import read_state_dict, save_latent
from burn_timm.cli import main
from burn_timm.counting import count_stages
from burn_timm.nn import binary_weight_names


def make(seed=0, name="test_reactnet", **kwargs):
    torch.manual_seed(seed)
    return timm.create_model(name, **{"num_classes": 10, **kwargs}).eval()


@pytest.fixture
def latent(tmp_path):
    model = make()
    save_latent(tmp_path / "latent.safetensors", model.state_dict(), "test_reactnet", 1)
    return model, tmp_path / "latent.safetensors"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    """The one line on stderr, after the part `burn-timm COMMAND: `."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"burn-timm {arguments[0]}: ")
    return err.removeprefix(f"burn-timm {arguments[0]}: ").rstrip("\n")


def test_bare_command_prints_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("info", "pack", "unpack"))


def test_as_a_process(tmp_path):
    """Exit code and streams as the shell sees them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "burn_timm.cli", "pack", "nothing.safetensors", "packed.safetensors"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "burn-timm pack: nothing.safetensors: no such file\n"


# info


def test_info_as_json(capsys):
    assert run("info", "test_reactnet", "--img-size", 96, "--num-classes", 5, "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts == count_stages("test_reactnet", 96, 5)
    keys = {"params", "binary_params", "flops", "bops", "ops", "bytes_fp32", "bytes_packed"}
    assert keys <= counts.keys() and set(counts["stages"]) == {"w32a1", "w32a32"}
    assert all(set(stage) == keys for stage in counts["stages"].values())


def test_info_as_a_table(capsys):
    assert run("info", "test_reactnet") == 0
    out = capsys.readouterr().out
    counts = count_stages("test_reactnet")
    assert all(f"{counts[key]:,.0f}" in out for key in ("params", "bops", "flops", "ops", "bytes_packed"))


def test_info_of_an_unknown_model(capsys):
    assert fails(capsys, "info", "resnet50").startswith("model resnet50: not one of ")
    assert fails(capsys, "info", "test_reactnet.nonsense").startswith("model test_reactnet.nonsense: ")


@pytest.mark.parametrize("option, text, least", [
    ("img-size", "0", 1), ("num-classes", "-1", 0), ("img-size", "big", 1),
])
def test_info_of_an_impossible_size_is_one_line(capsys, option, text, least):
    with pytest.raises(SystemExit) as error:
        run("info", "test_reactnet", f"--{option}", text)
    assert error.value.code == 2
    expected = f"argument --{option}: expected a whole number of at least {least}, not {text}"
    assert capsys.readouterr().err == f"burn-timm info: {expected}\n"


def test_info_takes_a_name_with_timms_tag(capsys):
    assert run("info", "test_reactnet.untrained", "--json") == 0
    assert json.loads(capsys.readouterr().out) == count_stages("test_reactnet")


# pack, unpack


def test_pack_unpack_pack_is_the_same_file(latent, tmp_path):
    model, path = latent
    first, floats, again = (tmp_path / f"{name}.safetensors" for name in ("first", "floats", "again"))
    assert run("pack", path, first) == run("unpack", first, floats) == run("pack", floats, again) == 0
    assert first.read_bytes() == again.read_bytes()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        for file in (first, floats):
            loaded = timm.create_model("test_reactnet", num_classes=10, checkpoint_path=file).eval()
            assert torch.equal(loaded(images), expected)
    _, metadata = read_state_dict(floats)
    assert (metadata["model"], metadata["weight_bits"]) == ("test_reactnet", "1")


def test_the_cli_packs_what_the_library_packs(latent, tmp_path):
    model, path = latent
    assert run("pack", path, tmp_path / "cli.safetensors") == 0
    packing.save_packed(
        tmp_path / "own.safetensors", packing.pack_state_dict(model.state_dict(), binary_weight_names(model))
    )
    assert (tmp_path / "cli.safetensors").read_bytes() == (tmp_path / "own.safetensors").read_bytes()


def test_weights_of_stage_1_need_binarize(tmp_path, capsys):
    path, packed = tmp_path / "latent.safetensors", tmp_path / "packed.safetensors"
    save_latent(path, make(weight_bits=32).state_dict(), "test_reactnet", 32)
    message = fails(capsys, "pack", path, packed)
    assert message.startswith(f"{path}: weights trained with 32 bits") and "--binarize" in message
    assert not packed.exists()
    assert run("pack", path, packed, "--binarize") == 0
    assert packing.is_packed(packing.read_packed(packed))


def test_weights_of_an_unknown_stage_need_binarize(tmp_path, capsys):
    path, packed = tmp_path / "weights.pth", tmp_path / "packed.safetensors"
    torch.save({"state_dict": make().state_dict()}, path)
    assert "pass --binarize" in fails(capsys, "pack", path, packed)
    assert run("pack", path, packed, "--binarize") == 0


def test_scaled_signs_pack_without_asking(latent, tmp_path):
    model, path = latent
    assert run("pack", path, tmp_path / "packed.safetensors") == 0
    restored = make(seed=1)
    restored.load_state_dict(packing.read_packed(tmp_path / "packed.safetensors"))
    torch.save(restored.state_dict(), tmp_path / "restored.pth")
    assert run("pack", tmp_path / "restored.pth", tmp_path / "again.safetensors") == 0
    assert (tmp_path / "packed.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.fixture
def folder(tmp_path):
    """Float weights beside a config and a card."""
    path = tmp_path / "floats"
    path.mkdir()
    save_latent(path / "model.safetensors", make().state_dict(), "test_reactnet", 1)
    config = {"architecture": "test_reactnet", "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "README.md").write_text("# A model\n")
    (path / "training.json").write_text('{"seed": 3}\n')
    (path / "curves.png").write_bytes(b"\x89PNG")
    return path


def test_folders_keep_what_tells_of_them_and_load_in_timm(folder, tmp_path):
    first, floats, again = (tmp_path / name for name in ("first", "floats2", "again"))
    assert run("pack", folder, first) == run("unpack", first, floats) == run("pack", floats, again) == 0
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for path in (first, floats, again):
        assert {file.name for file in path.iterdir()} == {file.name for file in folder.iterdir()}
        for name in ("README.md", "training.json", "curves.png"):
            assert (path / name).read_bytes() == (folder / name).read_bytes()
        assert json.loads((path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
        loaded = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        with torch.no_grad():
            assert torch.equal(loaded(images), make()(images))


def test_binarizing_a_folder_changes_the_stage_in_its_config(folder, tmp_path, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {"weight_bits": 32, "act_bits": 1, "drop_rate": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(make().state_dict(), tmp_path / "x.pth")
    (folder / "model.safetensors").unlink()
    os.replace(tmp_path / "x.pth", folder / "pytorch_model.bin")
    assert "trained with 32 bits" in fails(capsys, "pack", folder, tmp_path / "packed")
    assert run("pack", folder, tmp_path / "packed", "--binarize") == 0
    written = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert written == {**config, "model_args": {"weight_bits": 1, "act_bits": 1, "drop_rate": 0.1}}


def test_the_wrong_model_is_named_with_the_tensor(latent, tmp_path, capsys):
    _, path = latent
    message = fails(capsys, "pack", path, tmp_path / "packed.safetensors", "--model", "reactnet_a")
    assert message.startswith(f"{path}: does not fit reactnet_a: ") and "stages.0.0" in message
    assert "not one of" in fails(capsys, "pack", path, tmp_path / "packed.safetensors", "--model", "resnet50")
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    message = fails(capsys, "pack", tmp_path / "other.pth", tmp_path / "packed.safetensors")
    assert message.startswith(f"{tmp_path / 'other.pth'}: no burn_timm model fits") and "--model" in message


def test_not_finite_weights_are_refused(tmp_path, capsys):
    state_dict = make().state_dict()
    state_dict["stages.0.0.conv1.weight"][0, 0] = float("nan")
    save_latent(tmp_path / "latent.safetensors", state_dict, "test_reactnet", 1)
    message = fails(capsys, "pack", tmp_path / "latent.safetensors", tmp_path / "packed.safetensors")
    assert message.startswith(f"{tmp_path / 'latent.safetensors'}: stages.0.0.conv1.weight: NaN")


def test_source_and_destination_are_checked(latent, folder, tmp_path, capsys):
    _, path = latent
    packed = tmp_path / "packed.safetensors"
    assert "not packed" in fails(capsys, "unpack", path, packed)
    assert run("pack", path, packed) == 0
    capsys.readouterr()
    assert "packed already" in fails(capsys, "pack", packed, tmp_path / "x.safetensors")
    assert "are the same" in fails(capsys, "pack", path, path)
    assert "ends in .safetensors" in fails(capsys, "unpack", packed, tmp_path / "x.pth")
    assert "ends in .safetensors" in fails(capsys, "pack", path, folder)
    assert "must be a folder" in fails(capsys, "pack", folder, packed)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    assert "also holds thesis.tex" in fails(capsys, "pack", folder, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "years of work"
    (folder / "config.json").write_text("{")
    assert str(folder / "config.json") in fails(capsys, "pack", folder, tmp_path / "new")
    (folder / "config.json").unlink()
    assert str(folder / "config.json") in fails(capsys, "pack", folder, tmp_path / "new")


@pytest.mark.parametrize("changes, message", [
    ({"model_args": ["weight_bits"]}, 'model_args must be an object of argument: value, not ["weight_bits"]'),
    ({"model_args": "weight_bits=1"}, 'model_args must be an object of argument: value, not "weight_bits=1"'),
    ({"model_args": {"weight_bits": {}}}, "weight_bits in model_args must be 1 or 32, not {}"),
    ({"architecture": None}, "architecture must be the name of a model, not null"),
    ({"architecture": ["test_reactnet"]}, 'architecture must be the name of a model, not ["test_reactnet"]'),
    ({"architecture": "resnet50"}, "architecture: model resnet50: not one of "),
    ({"architecture": "reactnet_18"}, "does not fit the weights beside it, which say test_reactnet: "),
    ({"model_args": {"weight_bits": 32}}, "weight_bits 32, but the weights beside it say 1"),
])
def test_a_malformed_or_contradicting_config_is_one_line(folder, tmp_path, capsys, changes, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    line = fails(capsys, "pack", folder, tmp_path / "new", "--binarize")
    assert line.startswith(f"{folder / 'config.json'}: ") and message in line
    assert not (tmp_path / "new").exists()


def test_a_packed_folder_that_says_32_bits_is_refused(folder, tmp_path, capsys):
    assert run("pack", folder, tmp_path / "packed") == 0
    capsys.readouterr()
    file = tmp_path / "packed" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_args": {"weight_bits": 32}}))
    assert "weight_bits 32, but the weights" in fails(capsys, "unpack", tmp_path / "packed", tmp_path / "new")


# networks of another shape than a registered name's


DEEP = {"depths": (2, 2, 2, 1), "head_hidden_size": 24, "drop_rate": 0.1}
DEEP_OPTIONS = ["--model", "test_reactnet", "--model-kwargs", "depths=(2,2,2,1)", "head_hidden_size=24"]


def test_a_shape_given_by_model_kwargs(tmp_path):
    """unpack notes the arguments, so packing again needs no option; the networks compute the same."""
    model = make(**DEEP)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    first, floats, again = (tmp_path / f"{name}.safetensors" for name in ("first", "floats", "again"))
    assert run("pack", tmp_path / "weights.pth", first, "--binarize", *DEEP_OPTIONS) == 0
    assert run("unpack", first, floats, *DEEP_OPTIONS) == run("pack", floats, again) == 0
    assert first.read_bytes() == again.read_bytes()
    images = torch.randn(2, 3, 64, 64)
    for file in (first, floats):
        loaded = timm.create_model("test_reactnet", num_classes=10, **DEEP, checkpoint_path=file).eval()
        with torch.no_grad():
            assert torch.equal(loaded(images), model(images))


def test_reactnet_34(tmp_path):
    model = timm.create_model("reactnet_18", depths=(6, 8, 12, 6), num_classes=0)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    options = ["--model", "reactnet_18", "--model-kwargs", "depths=(6,8,12,6)"]
    assert run("pack", tmp_path / "weights.pth", tmp_path / "packed.safetensors", "--binarize", *options) == 0
    packed = packing.read_packed(tmp_path / "packed.safetensors")
    assert len(packing.packed_weight_names(packed)) == 32
    assert (tmp_path / "packed.safetensors").stat().st_size < 5_500_000


def test_a_shape_in_the_config_of_a_folder(tmp_path):
    folder, first, floats, again = (tmp_path / name for name in ("source", "first", "floats", "again"))
    folder.mkdir()
    model = make(**DEEP)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": "test_reactnet", "num_classes": 10, "pretrained_cfg": {"num_classes": 10},
              "model_args": {"weight_bits": 1, "act_bits": 1, **DEEP, "depths": list(DEEP["depths"])}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "LICENSE").write_text("as it is\n")
    assert run("pack", folder, first) == run("unpack", first, floats) == run("pack", floats, again) == 0
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (again / "LICENSE").read_text() == "as it is\n"
    loaded = timm.create_model(f"local-dir:{again}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_model_kwargs_that_do_not_fit(tmp_path, capsys):
    torch.save(make(**DEEP).state_dict(), tmp_path / "weights.pth")
    arguments = ["pack", tmp_path / "weights.pth", tmp_path / "packed.safetensors"]
    assert "--model-kwargs" in fails(capsys, *arguments)
    message = fails(capsys, *arguments, "--model", "test_reactnet", "--model-kwargs", "depths=(1,1,2,2)")
    start = f"{tmp_path / 'weights.pth'}: does not fit test_reactnet with depths (1, 1, 2, 2): stages."
    assert message.startswith(start)
    message = fails(capsys, *arguments, "--model", "test_reactnet", "--model-kwargs", "deepness=3")
    assert message.startswith("model test_reactnet with deepness 3: ") and "deepness" in message
    assert fails(capsys, *arguments, "--model-kwargs", "depths=(1,1,2,2)") == "--model-kwargs: give --model too"
    with pytest.raises(SystemExit):
        run(*arguments, "--model-kwargs", "depths")
    assert capsys.readouterr().err == "burn-timm pack: argument --model-kwargs: expected KEY=VALUE, not depths\n"
    assert not (tmp_path / "packed.safetensors").exists()
