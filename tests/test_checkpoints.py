"""Reading files by content, inferring the model, and loading with nothing silently left out."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from exported import packed as pack
from safetensors import safe_open

import burn_timm  # noqa: F401
from burn_timm import checkpoints, identify, packing
from burn_timm.errors import BurnError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
EARLIER = Path(__file__).parent / "earlier"


def make(name="test_reactnet", seed=0, **kwargs):
    torch.manual_seed(seed)
    return timm.create_model(name, **kwargs).eval()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)


class Harmful:
    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


# read_state_dict


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    lambda state: {"model": {"state_dict": state}},
    lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    lambda state: {"state_dict": state, "best_acc1": np.float64(71.5), "args": argparse.Namespace(lr=0.1)},
    lambda state: {"state_dict": make(seed=1, num_classes=10).state_dict(), "state_dict_ema": state},  # timm's order
])
def test_torch_files_are_unwrapped(wrap, tmp_path):
    """With objects of foreign classes: test_compat.py."""
    state_dict = make(num_classes=10).state_dict()
    torch.save(wrap(state_dict), tmp_path / "weights.pth")
    read, metadata = checkpoints.read_state_dict(tmp_path / "weights.pth")
    assert same(read, state_dict) and metadata == {}


def test_safetensors_are_known_by_content_and_readable_by_anyone(tmp_path):
    model = make()
    model.to(memory_format=torch.channels_last)  # not contiguous
    checkpoints.save_latent(tmp_path / "weights.bin", model.state_dict(), "test_reactnet", 32)
    read, metadata = checkpoints.read_state_dict(tmp_path / "weights.bin")
    assert same(read, model.state_dict()) and same(safetensors.torch.load_file(tmp_path / "weights.bin"), read)
    assert metadata == {"burn_timm": "latent", "format": "pt", "model": "test_reactnet", "weight_bits": "32"}
    with safe_open(tmp_path / "weights.bin", framework="pt") as file:
        assert file.metadata() == metadata


@pytest.mark.parametrize("begin", [b"\x80", b"PK"])
def test_a_safetensors_header_may_be_as_long_as_the_first_bytes_of_a_pickle(begin, tmp_path):
    path, length = tmp_path / "weights.safetensors", int.from_bytes(begin.ljust(2, b"\x01"), "little")
    for words in range(length - 160, length, 8):  # a header has a little more than its words
        safetensors.torch.save_file({"weight": torch.ones(2)}, path, {"words": "x" * words})
        if path.read_bytes().startswith(begin):
            break
    assert path.read_bytes().startswith(begin)
    for name in ("weights.safetensors", "weights"):
        path = path.rename(tmp_path / name)
        assert checkpoints.read_state_dict(path)[0]["weight"].tolist() == [1, 1]


def test_a_folder_stands_for_its_weights(tmp_path):
    state_dict = make().state_dict()
    torch.save(state_dict, tmp_path / "pytorch_model.bin")
    assert same(checkpoints.read_state_dict(tmp_path)[0], state_dict)
    other = make(seed=1).state_dict()
    safetensors.torch.save_file(other, tmp_path / "model.safetensors")
    assert same(checkpoints.read_state_dict(tmp_path)[0], other)


def cut(path, end, write=torch.save, **kwargs):
    write(make().state_dict(), path, **kwargs)
    path.write_bytes(path.read_bytes()[:end])


@pytest.mark.parametrize(("write", "message"), [
    (lambda path: None, "no such file"),
    (lambda path: cut(path, -5000), "truncated"),
    (lambda path: cut(path, -5000, _use_new_zipfile_serialization=False), "truncated"),
    (lambda path: cut(path, -10, safetensors.torch.save_file), "truncated or damaged"),
    (lambda path: path.write_text("<html>404: not found</html>"), "neither a safetensors nor a torch file"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    (lambda path: path.write_bytes(b""), "truncated"),
    (lambda path: path.write_bytes(b"PK\3\4nothing"), "truncated or damaged"),
    (lambda path: torch.save([torch.ones(1)], path), "holds no state dict but list"),
    (lambda path: torch.save({"a": torch.ones(1), "loss": np.float64(1)}, path), "loss is scalar, not a tensor"),
    (lambda path: torch.save({"epoch": 3, "loss": torch.ones(1)}, path), "epoch is int, not a tensor"),
    (lambda path: torch.save({"state_dict": {"a": Harmful()}}, path), ""),
])
def test_bad_files_are_named_with_what_to_do(write, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(BurnError) as error:
        checkpoints.read_state_dict(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and "\n" not in str(error.value)
    assert "weights_only=False" not in str(error.value) and not (tmp_path / "ran").exists()


def test_the_checkpoint_of_a_run_names_its_export(tmp_path):
    torch.save({"version": 3, "content": {}}, tmp_path / "checkpoint.pt")
    (tmp_path / "export").mkdir()
    (tmp_path / "export/config.json").touch()
    with pytest.raises(BurnError, match=r"version is int, not a tensor; give .*export$"):
        checkpoints.read_state_dict(tmp_path / "checkpoint.pt")


# infer_model


SHAPES = [{"num_classes": 0}, {"num_classes": 7, "in_chans": 1}]


@pytest.mark.parametrize("name", identify.burn_models())
@pytest.mark.parametrize("kwargs", SHAPES)
def test_every_model_is_inferred_floats_and_packed(name, kwargs):
    model = make(name, device="meta", **kwargs)  # names and shapes are all it looks at
    expected = {"test_reactnet_mlp": "test_reactnet"}.get(name, name.removesuffix("_burn"))
    assert identify.infer_model(model.state_dict()) == expected
    if name == "test_reactnet":
        assert identify.infer_model(pack(make(name, **kwargs))) == name


def without(state_dict, *names):
    return {key: tensor for key, tensor in state_dict.items() if key not in names}


@pytest.mark.parametrize("packed", [False, True])
def test_the_nearest_model_and_its_first_difference_are_named(packed):
    state_dict = pack(make()) if packed else make().state_dict()
    for other, message in (
        ({**state_dict, "stem.bn.weight": torch.ones(9)}, r"stem\.bn\.weight is \[9\] instead of \[8\]"),
        (without(state_dict, "stem.bn.weight"), r"stem\.bn\.weight is missing"),
        ({**state_dict, "strange": torch.ones(1)}, "strange is in the file but not in the model"),
    ):
        with pytest.raises(BurnError, match=f"nearest is test_reactnet, but {message}; give --model"):
            identify.infer_model(other)


# load_model


def save(state_dict, path):
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, path)
    return path


@pytest.mark.parametrize("name", ["test_reactnet", "test_resnet", "test_vit"])
@pytest.mark.parametrize("file_classes", [0, 10])
@pytest.mark.parametrize("classes", [0, 3, None])
def test_the_body_loads_whatever_the_classifier(name, file_classes, classes, tmp_path):
    state_dict = make(name, num_classes=file_classes).state_dict()
    model = checkpoints.load_model(name, save(state_dict, tmp_path / "weights.safetensors"), num_classes=classes)
    head = {"test_reactnet": "head.fc.", "test_resnet": "fc.", "test_vit": "head."}[name]
    bodies = [{key: value for key, value in weights.items() if not key.startswith(head)}
              for weights in (model.state_dict(), state_dict)]
    assert same(*bodies) and not model.training and model.pretrained_cfg.get("state_dict") is None
    assert model.num_classes == (file_classes if classes is None else classes)
    if classes in (file_classes, None):
        assert same(model.state_dict(), state_dict)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("classes", [0, 3, None])
def test_packed_weights_load(kind, classes, tmp_path):
    source = make(num_classes=10)
    words = [f"local-dir:{folder(tmp_path, source)}"]  # means its weights
    if kind == "file":
        words = ["test_reactnet", tmp_path / "model.safetensors"]
    model = checkpoints.load_model(*words, num_classes=classes)
    stages = checkpoints.load_model(*words, features_only=True, out_indices=(1, 3))
    with torch.no_grad():
        assert torch.equal(model.forward_features(IMAGES), source.forward_features(IMAGES))
        assert model(IMAGES).shape == (2, {0: 128, 3: 3, None: 10}[classes])
        assert classes is not None or torch.equal(model(IMAGES), source(IMAGES))
        expected = source.forward_intermediates(IMAGES, [1, 3], intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(stages(IMAGES), expected, strict=True))
    random = checkpoints.load_model(words[0], pretrained=False, num_classes=10)
    assert not torch.equal(random.stem.conv.weight, source.stem.conv.weight)


def test_stages_carry_over_and_input_channels_come_from_the_file(tmp_path):
    source = make(num_classes=0, weight_bits=32, in_chans=1)
    checkpoints.save_latent(tmp_path / "latent.safetensors", source.state_dict(), "test_reactnet", 32)
    for bits in (1, 32):
        model = checkpoints.load_model("test_reactnet", tmp_path / "latent.safetensors", weight_bits=bits)
        assert model.weight_bits == bits and same(model.state_dict(), source.state_dict())
    with pytest.raises(BurnError, match="latent.safetensors: trained with 32 bits.* weight_bits=32$"):  # not its signs
        checkpoints.load_model("test_reactnet", tmp_path / "latent.safetensors")
    checkpoints.save_latent(tmp_path / "real.safetensors", source.state_dict(), "test_reactnet", 32, act_bits=32)
    with pytest.raises(BurnError, match="real.safetensors: trained with 32 bits.* act_bits=32$"):
        checkpoints.load_model("test_reactnet", tmp_path / "real.safetensors", weight_bits=32)
    real = {"weight_bits": 32, "act_bits": 32}
    assert checkpoints.load_model("test_reactnet", tmp_path / "real.safetensors", **real).act_bits == 32


def test_what_a_file_tells_of_its_model_holds(tmp_path):
    """The pooling leaves no trace in the weights: before, they loaded into a network that averages."""
    source = make(global_pool="max", num_classes=5)
    latent, timms = tmp_path / "latent.safetensors", tmp_path / "last.pth.tar"
    checkpoints.save_latent(latent, source.state_dict(), "test_reactnet", 1, {"global_pool": "max"})
    options = argparse.Namespace(model="test_reactnet", model_kwargs={}, gp="max")
    torch.save({"arch": "test_reactnet", "args": options, "state_dict": source.state_dict()}, timms)
    for file in (latent, timms):
        with torch.no_grad():
            assert torch.equal(checkpoints.load_model("test_reactnet", file)(IMAGES), source(IMAGES))
        other = checkpoints.load_model("test_reactnet", file, global_pool="avg")
        assert other.head.global_pool.pool_type == "avg"
    torch.save({"arch": "test_reactnet", "args": argparse.Namespace(model_kwargs={"weight_bits": 32}),
                "state_dict": source.state_dict()}, timms)
    with pytest.raises(BurnError, match="last.pth.tar: trained with 32 bits"):
        checkpoints.load_model("test_reactnet", timms)


@pytest.mark.parametrize(("told", "message"), [
    ("max", "model_args must be an object"), ('{"checkpoint_path": "w.pth"}', "checkpoint_path in .* must be left out"),
    ('{"depths": [1, 1, 2, 1001]}', "depths in .* must be at most 1,000 blocks"),
])
def test_what_a_file_tells_is_checked_as_config_json_is(told, message, tmp_path):
    metadata = {**checkpoints.latent_metadata("test_reactnet", 1), "model_args": told}
    safetensors.torch.save_file(make().state_dict(), tmp_path / "latent.safetensors", metadata)
    with pytest.raises(BurnError, match=f"latent.safetensors: {message}"):
        checkpoints.load_model("test_reactnet", tmp_path / "latent.safetensors")


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_the_config_beside_a_weights_file_holds(file, tmp_path):
    source = make(global_pool="max", num_classes=5, weight_bits=32)
    images = {"input_size": (3, 48, 48), "crop_pct": 1.0}
    checkpoints.save_folder(tmp_path, source, 32, {"global_pool": "max", "weight_bits": 32}, images)
    model = checkpoints.load_model("test_reactnet", tmp_path / file)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), source(IMAGES))
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 48, 48)
    assert checkpoints.load_model("test_reactnet", tmp_path / file, weight_bits=1).weight_bits == 1
    (tmp_path / "config.json").write_text('{"architectures": ["of transformers"]}')
    with pytest.raises(BurnError, match="trained with 32 bits"):
        checkpoints.load_model("test_reactnet", tmp_path / file)


def test_timms_own_renaming_is_applied(tmp_path):
    """A ConvNeXt in its authors' layout: other names, and the classifier under another one too."""
    source = make("test_convnext", num_classes=1000)
    names = (("^stem", "downsample_layers.0"), (r"^head\.fc", "head"), (r"^head\.norm", "norm"), ("mlp.fc", "pwconv"),
             ("conv_dw", "dwconv"), (r"\.blocks", ""), (r"stages\.(\d)\.downsample", r"downsample_layers.\1"))
    theirs = {}
    for name, tensor in source.state_dict().items():
        for new, old in names:
            name = re.sub(new, old, name)
        theirs[name] = tensor
    assert theirs.keys() != source.state_dict().keys()
    model = checkpoints.load_model("test_convnext", save(theirs, tmp_path / "weights.safetensors"))
    assert same(model.state_dict(), source.state_dict())


@pytest.mark.parametrize(("name", "tensor"), [
    ("test_reactnet", "stem.bn.weight"), ("test_resnet", "bn1.weight"), ("resnet20_cifar", "bn1.weight"),
])
@pytest.mark.parametrize("num_classes", [0, 10])
def test_every_mismatch_is_an_error(name, tensor, num_classes, tmp_path):
    whole = make(name, num_classes=10).state_dict()
    for state_dict in (
        without(whole, tensor), {**whole, tensor: torch.ones(5)}, {**whole, f"{tensor}.strange": torch.ones(1)},
    ):
        path = save(state_dict, tmp_path / "weights.safetensors")
        with pytest.raises(BurnError) as error:
            checkpoints.load_model(name, path, num_classes=num_classes)
        assert str(path) in str(error.value) and tensor in str(error.value) and "\n" not in str(error.value)


def test_packed_weights_are_refused_by_another_model(tmp_path):
    packing.save_packed(tmp_path / "packed.safetensors", pack(make()))
    for name, message in (("test_resnet", "no model of burn_timm"), ("reactnet_18", "0.conv1.weight is packed")):
        with pytest.raises(BurnError, match=message) as error:
            checkpoints.load_model(name, tmp_path / "packed.safetensors")
        assert "packed.safetensors: " in str(error.value)


# folders with config.json


def folder(path, source, architecture="test_reactnet", packed=True, change=lambda tensors: tensors):
    """An export folder of `source`, whose tensors may be changed."""
    if packed:
        packing.save_packed(path / "model.safetensors", pack(source))
    else:
        save(change(source.state_dict()), path / "model.safetensors")
    settings = {"num_classes": source.num_classes, "classifier": source.pretrained_cfg["classifier"]}
    config = {"architecture": architecture, "num_classes": source.num_classes, "pretrained_cfg": settings}
    (path / "config.json").write_text(json.dumps(config))
    return path


CONV = "stages.0.0.conv1.weight"


@pytest.mark.parametrize("own", [0, 10], ids=["headless", "classifier"])
@pytest.mark.parametrize(("architecture", "change", "tensor"), [
    ("test_reactnet", lambda t: without(t, CONV), CONV),
    ("test_reactnet", lambda t: {**t, "stages.9.strange": torch.ones(1)}, "stages.9.strange"),
    ("resnet56_cifar", lambda t: t, "layer1."),
    ("resnet20_cifar", lambda t: {**t, "layer9.strange": torch.ones(1)}, "layer9.strange"),
])
def test_missing_and_surplus_tensors_are_errors_through_us_and_through_timm(
    tmp_path, own, architecture, change, tensor,
):
    """A model with random layers and no word is the worst of all answers. (Packed ones: test_packing_malformed.py.)"""
    source = make("resnet20_cifar" if "cifar" in architecture else "test_reactnet", num_classes=own)
    name = f"local-dir:{folder(tmp_path, source, architecture, False, change)}"
    for classes in (0, 3, None):  # with others than the file's, timm loads unstrictly
        with pytest.raises(BurnError, match=tensor) as error:
            checkpoints.load_model(name, num_classes=classes)
        assert "\n" not in str(error.value)
        with pytest.raises(RuntimeError, match=tensor):
            timm.create_model(name, pretrained=True, **({} if classes is None else {"num_classes": classes}))
    with pytest.raises(BurnError, match=tensor):
        checkpoints.load_model(name, features_only=True)


@pytest.mark.parametrize("name", ["packed", "classes", "stage1"])
def test_folders_of_version_0_1_0_give_what_they_gave(name):
    expected = torch.tensor(json.loads((EARLIER / name / "outputs.json").read_text()), dtype=torch.float64)
    images = torch.sin(torch.arange(2 * 3 * 64 * 64, dtype=torch.float64) * 0.37).view(2, 3, 64, 64)
    for model in (
        checkpoints.load_model(f"local-dir:{EARLIER / name}", num_classes=None),
        timm.create_model(f"local-dir:{EARLIER / name}", pretrained=True).eval(),
    ):
        with torch.no_grad():
            torch.testing.assert_close(model.double()(images), expected, rtol=1e-9, atol=1e-9)


def test_model_names_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    packing.save_packed(tmp_path / "model.safetensors", pack(make()))
    for name, kwargs, message in (
        ("reactnet_b", {}, r"^model reactnet_b: timm knows no such name; is it .*reactnet_a"),
        (str(tmp_path), {}, "to load this folder, write local-dir:/"),
        ("test_reactnet", {"pretrained": True}, r"^model test_reactnet: its pretrained weights cannot be loaded"),
        (f"local-dir:{tmp_path}", {}, r"config.json"),
        ("test_reactnet", {"strange": 1}, "unexpected keyword argument 'strange'"),
        ("test_reactnet", {"checkpoint": tmp_path / "nothing.safetensors"}, "no such file"),
        ("hf-hub:nobody/nothing", {}, "hf-hub:nobody/nothing"), ("ftp:nothing", {}, "expected a timm name"),
    ):
        with pytest.raises(BurnError, match=message) as error:
            checkpoints.load_model(name, **kwargs)
        assert "\n" not in str(error.value)


def test_classes_are_counted_where_a_network_has_two_classifiers():
    heads = {"head.weight": torch.zeros(7, 2), "head_dist.weight": torch.zeros(7, 2)}
    assert identify.classes_in(heads, "deit_tiny_distilled_patch16_224") == 7
    assert identify.classes_in({"fc.weight": torch.zeros(5, 2)}, "test_resnet") == 5
    assert identify.classes_in(heads, "test_resnet") is None


def test_state_hash_sees_values_names_shapes_and_dtypes():
    state_dict = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)}
    a = state_dict["a"]
    others = [{**state_dict, "a": other} for other in (a.view(2, 3), a.double(), a + torch.eye(6)[3] * 1e-6)]
    others += [{"c": a, "b": state_dict["b"]}, {"a": a}]
    hashes = {checkpoints.state_hash(other) for other in [state_dict, *others]}
    assert len(hashes) == 6 and all(len(value) == 64 for value in hashes)
    assert checkpoints.state_hash(dict(reversed(state_dict.items()))) == checkpoints.state_hash(state_dict)
    model = make()
    assert checkpoints.state_hash(model) == checkpoints.state_hash(model.state_dict())
