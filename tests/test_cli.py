"""burn-timm info, pack, unpack, called as the shell calls them."""

import argparse
import json
import os
import runpy
import shlex
from pathlib import Path

import pytest
import timm
import torch
from exported import packed as pack

import burn_timm  # noqa: F401
from burn_timm import cli, commands, packing
from burn_timm.checkpoints import read_state_dict, save_folder, save_latent, state_hash
from burn_timm.counting import count_stages

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
DEEP = {"depths": (2, 2, 2, 1), "head_hidden_size": 24, "drop_rate": 0.1}  # no registered name has this shape
DEEP_OPTIONS = ["--model", "test_reactnet", "--model-kwargs", "depths=(2,2,2,1)", "head_hidden_size=24"]
BESIDE = ("README.md", "LICENSE", "training.json", "curves.png")


def make(seed=0, name="test_reactnet", **kwargs):
    torch.manual_seed(seed)
    return timm.create_model(name, **{"num_classes": 10, **kwargs}).eval()


def write_folder(path, **kwargs):
    """Float weights beside a config and a card."""
    path.mkdir()
    save_latent(path / "model.safetensors", make(**kwargs).state_dict(), "test_reactnet", 1)
    config = {"architecture": "test_reactnet", "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}
    config |= {"model_args": {"weight_bits": 1, "act_bits": 1, **kwargs}} if kwargs else {}
    (path / "config.json").write_text(json.dumps(config))
    for name in BESIDE:
        (path / name).write_text('{"method": "byol", "dataset": "cifar10"}' if name == "training.json" else name)
    return path


@pytest.fixture
def latent(tmp_path):
    model = make()
    save_latent(tmp_path / "latent.safetensors", model.state_dict(), "test_reactnet", 1)
    return model, tmp_path / "latent.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "floats")


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def outputs(model, images=IMAGES):
    with torch.no_grad():
        return model.eval()(images)


def gives(model, *files, **kwargs):
    """Whether timm gives the outputs of `model` with each of the files."""
    return all(torch.equal(outputs(model), outputs(timm.create_model(
        "test_reactnet", num_classes=10, checkpoint_path=file, **kwargs))) for file in files)


def test_help_lists_every_command_and_explains_every_option_and_its_examples_are_real(capsys):
    assert run() == 0
    shown = capsys.readouterr().out
    parser = cli._parser()
    (subparsers,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert {"info", "pack", "unpack", "convert", "card", "push", "export", "bench"} == subparsers.choices.keys()
    for name, command in subparsers.choices.items():
        assert f"  {name} " in shown and "burn-timm COMMAND" not in command.format_usage()
        assert all(action.help for action in command._actions)
        examples = [line for line in command.format_help().splitlines() if line.startswith(f"  burn-timm {name} ")]
        assert examples
        for example in examples:
            parser.parse_args(shlex.split(example)[1:])


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "known", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run("info", "test_reactnet")
    assert capsys.readouterr().err == "\nburn-timm info: interrupted\n"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_as_a_module(monkeypatch, capsys):
    """Exit code and streams as the shell sees them."""
    monkeypatch.setattr("sys.argv", ["burn-timm", "pack", "nothing.safetensors", "packed.safetensors"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("burn_timm.cli", run_name="__main__")
    assert capsys.readouterr() == ("", "burn-timm pack: error: nothing.safetensors: no such file or folder\n")


# info


def test_info_of_a_name(capsys, fails):
    assert run("info", "test_reactnet.untrained", "--img-size", 96, "--num-classes", 5, "--json") == 0
    assert json.loads(capsys.readouterr().out) == count_stages("test_reactnet", 96, 5)
    assert run("info", "test_reactnet") == 0
    out, counts = capsys.readouterr().out, count_stages("test_reactnet")
    assert all(f"{counts[key]:,.0f}" in out for key in ("params", "bops", "flops", "ops", "bytes_packed"))
    assert fails("info", "test_reactnet.nonsense").startswith("model test_reactnet.nonsense: ")
    assert fails("info", "resnet50") == "resnet50: no such file or folder"
    assert "is it reactnet_a_burn or " in fails("info", "reactnet_a_bur")


def test_the_name_of_released_weights_stands_for_them(tmp_path, capsys, fails):
    assert run("info", "reactnet_a_025_burn", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    shipped = Path(timm.get_pretrained_cfg("reactnet_a_025_burn").file)
    assert facts["file"] == str(shipped) and facts["images"] == "3 x 64 x 64" and facts["classes"] == 0
    assert "tf_efficientnet_lite0" in facts["trained_by"] and facts["operations"]["img_size"] == 64
    floats = tmp_path / "floats.safetensors"
    assert run("unpack", "reactnet_a_025_burn", floats) == 0
    model = timm.create_model("reactnet_a_025_burn", checkpoint_path=str(floats), num_classes=0)
    packed = timm.create_model("reactnet_a_025_burn", pretrained=True)
    assert state_hash(model) == state_hash(packed)
    assert run("export", "reactnet_a_025_burn", tmp_path / "one_bit") == 0
    assert json.loads((tmp_path / "one_bit" / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert "name without weights" in fails("info", "reactnet_a_025_burn", "--num-classes", 3)


def test_info_of_weights(latent, folder, tmp_path, capsys, fails):
    def facts(source):
        assert run("info", source, "--json") == 0
        return json.loads(capsys.readouterr().out)

    torch.save(make(num_classes=0, weight_bits=32).state_dict(), tmp_path / "plain.pth")
    packed, real = tmp_path / "packed", tmp_path / "real.safetensors"
    save_latent(real, make(num_classes=0, weight_bits=32, act_bits=32).state_dict(), "test_reactnet", 32, act_bits=32)
    assert run("pack", folder, packed) == 0 and capsys.readouterr()
    for source, expected in (
        (latent[1], ("w1a1", "no, floats", 10, "nothing in the file tells")),
        (real, ("w32a32", "no, floats", 0, "nothing in the file tells")),
        (tmp_path / "plain.pth", ("nothing in the file tells", "no, floats", 0, "nothing in the file tells")),
        (packed, ("w1a1", "yes, one bit a weight", 10, "burn-timm, method byol, on cifar10")),
        (f"local-dir:{packed}", ("w1a1", "yes, one bit a weight", 10, "burn-timm, method byol, on cifar10")),
    ):
        found = facts(source)
        assert tuple(found[name] for name in ("stage", "packed", "classes", "trained_by")) == expected
        assert found["model"] == "test_reactnet" and os.path.getsize(found["file"]) == found["bytes"]
    assert found["operations"]["bytes_packed"] == found["bytes"]  # of the packed folder, the last one
    (packed / "LICENSE").write_text("Weights converted from BURN.\n")
    assert facts(packed)["trained_by"] == "others; weights converted from BURN."
    data = bytearray((packed / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (packed / "model.safetensors").write_bytes(data)
    assert "checksum" in fails("info", packed)
    other = timm.create_model("test_resnet", num_classes=7)
    (tmp_path / "other").mkdir()
    save_folder(tmp_path / "other", other, 32, {}, {"input_size": (3, 32, 32)})
    assert facts(tmp_path / "other") == facts(tmp_path / "other" / "model.safetensors")
    assert "weights have their own number" in fails("info", folder, "--num-classes", 3)


# pack, unpack


def test_pack_unpack_pack_is_the_same_file(latent, tmp_path):
    model, path = latent
    first, floats, again, own = (tmp_path / f"{name}.safetensors" for name in ("first", "floats", "again", "own"))
    assert run("pack", path, first) == run("unpack", first, floats) == run("pack", floats, again) == 0
    packing.save_packed(own, pack(model))
    assert first.read_bytes() == again.read_bytes() == own.read_bytes()  # and the library packs the same
    assert gives(model, first, floats)
    metadata = read_state_dict(floats)[1]
    assert (metadata["model"], metadata["weight_bits"]) == ("test_reactnet", "1")
    torch.save(read_state_dict(floats)[0], tmp_path / "scaled_signs.pth")  # which tell that 1 bit was trained
    assert run("pack", tmp_path / "scaled_signs.pth", again) == 0 and first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("told", ["32", None])
def test_weights_that_were_not_trained_with_1_bit_need_binarize(tmp_path, fails, told):
    path, packed = tmp_path / "latent.safetensors", tmp_path / "packed.safetensors"
    state_dict = make(weight_bits=32).state_dict()
    save_latent(path, state_dict, "test_reactnet", 32) if told else torch.save(state_dict, path := tmp_path / "w.pth")
    message = fails("pack", path, packed)
    assert message.startswith(f"{path}: ") and "--binarize" in message and ("32 bits" in message) == bool(told)
    assert not packed.exists()
    assert run("pack", path, packed, "--binarize") == 0
    assert packing.is_packed(read_state_dict(packed)[0])


@pytest.mark.parametrize("shape", [{}, DEEP])
def test_folders_keep_what_tells_of_them_and_load_in_timm(shape, tmp_path):
    folder, first, floats, again = (tmp_path / name for name in ("floats", "first", "floats2", "again"))
    write_folder(folder, **shape)
    assert run("pack", f"local-dir:{folder}", first) == run("unpack", f"local-dir:{first}", floats) == 0
    assert run("pack", floats, again) == 0
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    for path in (first, floats, again):
        assert {file.name for file in path.iterdir()} == {file.name for file in folder.iterdir()}
        assert all((path / name).read_bytes() == (folder / name).read_bytes() for name in BESIDE)
        assert json.loads((path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
        loaded = timm.create_model(f"local-dir:{path}", pretrained=True)
        assert torch.equal(outputs(loaded), outputs(make(**shape)))


def test_binarizing_a_folder_changes_the_stage_in_its_config(folder, tmp_path, fails):
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {"weight_bits": 32, "act_bits": 1, "drop_rate": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    torch.save(make().state_dict(), folder / "pytorch_model.bin")
    assert "trained with 32 bits" in fails("pack", folder, tmp_path / "packed")
    assert run("pack", folder, tmp_path / "packed", "--binarize") == 0
    written = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert written == {**config, "model_args": {"weight_bits": 1, "act_bits": 1, "drop_rate": 0.1}}


def test_source_and_destination_are_checked(latent, folder, tmp_path, fails):
    _, path = latent
    packed, nan = tmp_path / "packed.safetensors", tmp_path / "nan.safetensors"
    assert run("pack", path, packed) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    state_dict = make().state_dict()
    state_dict["stages.0.0.conv1.weight"][0, 0] = float("nan")
    save_latent(nan, state_dict, "test_reactnet", 1)
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    new = tmp_path / "new.safetensors"
    for arguments, message in (
        (("unpack", path, new), "not packed"), (("pack", packed, new), "packed already"),
        (("pack", path, path), "are the same"), (("unpack", packed, tmp_path / "x.pth"), "ends in .safetensors"),
        (("unpack", packed, folder), "ends in .safetensors"), (("pack", folder, packed), "a folder"),
        (("pack", folder, tmp_path / "other"), "also holds thesis.tex"),
        (("pack", path, tmp_path / "other"), "also holds thesis.tex"),
        (("pack", nan, new), f"{nan}: stages.0.0.conv1.weight: NaN"),
        (("pack", path, new, "--model", "reactnet_a"), f"{path}: reactnet_a does not fit the weights: st"),
        (("pack", path, new, "--model", "resnet50"), "not one of"), (("pack", path, new, "--part", "x"), "holds one"),
        (("pack", tmp_path / "other.pth", new), "other.pth: no burn_timm model fits"),
    ):
        assert message in fails(*arguments)
    assert not new.exists() and (tmp_path / "other" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("changes, message", [
    ({"architecture": "resnet50"}, "model resnet50: not one of "),
    ({"architecture": "reactnet_18"}, "reactnet_18 does not fit the weights: st"),
    ({"model_args": {"weight_bits": 32}}, "weight_bits 32, but the weights beside it say 1"),
])
@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_a_config_that_contradicts_its_weights_is_one_line(folder, tmp_path, changes, message, command, fails):
    if command == "unpack":
        assert run("pack", folder, tmp_path / "packed") == 0
        folder = tmp_path / "packed"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    line = fails(command, folder, tmp_path / "new")
    assert line.startswith(f"{folder / 'config.json'}: ") and message in line and not (tmp_path / "new").exists()


def test_a_shape_given_by_model_kwargs(tmp_path, fails):
    """unpack notes the arguments, so packing again needs no option."""
    model = make(**DEEP)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    first, floats, again = (tmp_path / f"{name}.safetensors" for name in ("first", "floats", "again"))
    assert run("pack", tmp_path / "weights.pth", first, "--binarize", *DEEP_OPTIONS) == 0
    assert run("unpack", first, floats, *DEEP_OPTIONS) == run("pack", floats, again) == 0
    assert first.read_bytes() == again.read_bytes() and gives(model, first, floats, **DEEP)
    for options, message in (
        (["--model-kwargs", "depths=(2,2,2,1)"], "--model-kwargs: give --model too"),
        (["--model", "test_reactnet", "--model-kwargs", "depths=(1,1,2,2)"], "depths (1, 1, 2, 2) does not fit"),
        (["--model", "test_reactnet", "--model-kwargs", "strange=1"], "unexpected keyword argument"),
    ):
        assert message in fails("pack", tmp_path / "weights.pth", again, "--binarize", *options)
