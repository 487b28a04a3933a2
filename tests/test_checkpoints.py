"""Reading files by content, inferring the model, and loading with nothing silently left out."""

import argparse
import json

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

import burn_timm  # noqa: F401
from burn_timm import checkpoints, packing
from burn_timm.errors import BurnError
from burn_timm.nn import binary_weight_names


def make(name="test_reactnet", seed=0, **kwargs):
    torch.manual_seed(seed)
    return timm.create_model(name, **kwargs).eval()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)


def pack(model):
    return packing.pack_state_dict(model.state_dict(), binary_weight_names(model))


class Stranger:
    """Something that weights_only loading refuses."""


# read_state_dict


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    lambda state: {"model": {"state_dict": state}},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_unwrapped(wrap, zipped, tmp_path):
    state_dict = make(num_classes=10).state_dict()
    torch.save(wrap(state_dict), tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    read, metadata = checkpoints.read_state_dict(tmp_path / "weights.pth")
    assert same(read, state_dict) and metadata == {}


def test_ema_weights_come_first_as_in_timm(tmp_path):
    first, second = make(seed=1).state_dict(), make(seed=2).state_dict()
    torch.save({"state_dict": first, "state_dict_ema": second}, tmp_path / "weights.pth")
    read, _ = checkpoints.read_state_dict(tmp_path / "weights.pth")
    assert same(read, second) and not same(read, first)


def test_safetensors_are_known_by_content(tmp_path):
    state_dict = make().state_dict()
    checkpoints.save_latent(tmp_path / "weights.bin", state_dict, "test_reactnet", 32)
    read, metadata = checkpoints.read_state_dict(tmp_path / "weights.bin")
    assert same(read, state_dict)
    assert (metadata["burn_timm"], metadata["model"], metadata["weight_bits"]) == ("latent", "test_reactnet", "32")


def test_a_folder_stands_for_its_weights(tmp_path):
    state_dict = make().state_dict()
    torch.save(state_dict, tmp_path / "pytorch_model.bin")
    assert same(checkpoints.read_state_dict(tmp_path)[0], state_dict)
    other = make(seed=1).state_dict()
    safetensors.torch.save_file(other, tmp_path / "model.safetensors")
    assert same(checkpoints.read_state_dict(tmp_path)[0], other)


def refused(write, message):
    return pytest.param(write, message, id=write.__name__)


def missing(path):
    pass


def pickled_objects(path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "config": Stranger()}, path)


def old_pickled_objects(path):
    torch.save({"config": Stranger()}, path, _use_new_zipfile_serialization=False)


def truncated_torch(path):
    torch.save(make().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def truncated_old_torch(path):
    torch.save(make().state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-5000])


def truncated_safetensors(path):
    safetensors.torch.save_file(make().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-10])


def text(path):
    path.write_text("<html>404: not found</html>")


def empty(path):
    path.write_bytes(b"")


def whole_model(path):
    torch.save([torch.ones(1)], path)


def numbers(path):
    torch.save({"epoch": 3, "loss": torch.ones(1)}, path)


@pytest.mark.parametrize(("write", "message"), [
    refused(missing, "no such file"),
    refused(pickled_objects, "Stranger"),
    refused(old_pickled_objects, "weights_only"),
    refused(truncated_torch, "truncated"),
    refused(truncated_old_torch, "truncated"),
    refused(truncated_safetensors, "truncated or damaged within tensor stem.conv.weight"),
    refused(text, "neither a safetensors nor a torch file"),
    refused(empty, "truncated"),
    refused(whole_model, "holds no state dict but list"),
    refused(numbers, "epoch is int, not a tensor"),
])
def test_bad_files_are_named_with_what_to_do(write, message, tmp_path):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(BurnError) as error:
        checkpoints.read_state_dict(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and "\n" not in str(error.value)


def test_a_pickle_under_the_name_of_a_safetensors_file(tmp_path):
    torch.save(make().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(BurnError, match=r"model\.safetensors: a torch \(pickle\) file"):
        checkpoints.read_state_dict(tmp_path)


# infer_model


SHAPES = [{"num_classes": 0}, {"num_classes": 7}, {"num_classes": 7, "in_chans": 1}]


@pytest.mark.parametrize("name", checkpoints.burn_models())
@pytest.mark.parametrize("kwargs", SHAPES)
def test_every_model_is_inferred(name, kwargs):
    model = make(name, device="meta", **kwargs)  # names and shapes are all it looks at
    expected = {"reactnet_a_burn": "reactnet_a", "test_reactnet_mlp": "test_reactnet"}.get(name, name)
    assert checkpoints.infer_model(model.state_dict()) == expected


@pytest.mark.parametrize("name", ["reactnet_a_025", "test_reactnet"])
@pytest.mark.parametrize("kwargs", SHAPES)
def test_packed_weights_are_inferred(name, kwargs):
    assert checkpoints.infer_model(pack(make(name, **kwargs))) == name


def change(state_dict, **tensors):
    return {**state_dict, **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}


def without(state_dict, name):
    return {key: tensor for key, tensor in state_dict.items() if key != name}


@pytest.mark.parametrize("packed", [False, True])
def test_the_nearest_model_and_its_first_difference_are_named(packed):
    model = make()
    state_dict = pack(model) if packed else model.state_dict()
    for other, message in (
        (change(state_dict, stem__bn__weight=torch.ones(9)), r"stem\.bn\.weight is \[9\] instead of \[8\]"),
        (without(state_dict, "stem.bn.weight"), r"stem\.bn\.weight is missing"),
        (change(state_dict, strange=torch.ones(1)), "strange is in the file but not in the model"),
    ):
        with pytest.raises(BurnError, match=f"nearest is test_reactnet, but {message}; give --model"):
            checkpoints.infer_model(other)


def test_ambiguous_names_are_refused(monkeypatch):
    monkeypatch.setattr(checkpoints, "burn_models", lambda: ["reactnet_a_025", "test_reactnet"])
    monkeypatch.setattr(checkpoints, "differences", lambda state_dict, name: [])
    with pytest.raises(BurnError, match="test_reactnet, reactnet_a_025 fit all the same; give --model"):
        checkpoints.infer_model({})


# load_model


def save(state_dict, path):
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, path)
    return path


def is_loaded(model, state_dict, head="head.fc."):
    """Whether `model` holds exactly `state_dict`, but for the classifier."""
    body = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(head)}
    return same(body, {name: tensor for name, tensor in state_dict.items() if not name.startswith(head)})


@pytest.mark.parametrize("name", ["test_reactnet", "test_resnet", "test_vit"])
@pytest.mark.parametrize("file_classes", [0, 10])
@pytest.mark.parametrize("classes", [0, 10, 3, None])
def test_the_body_loads_whatever_the_classifier(name, file_classes, classes, tmp_path):
    source = make(name, num_classes=file_classes)
    state_dict = source.state_dict()
    model = checkpoints.load_model(name, save(state_dict, tmp_path / "weights.safetensors"), num_classes=classes)
    head = {"test_reactnet": "head.fc.", "test_resnet": "fc.", "test_vit": "head."}[name]
    assert is_loaded(model, state_dict, head) and not model.training
    assert model.num_classes == (file_classes if classes is None else classes)
    if classes == file_classes or classes is None:
        assert same(model.state_dict(), state_dict)
    assert model.pretrained_cfg.get("state_dict") is None


@pytest.mark.parametrize("classes", [0, 3, 10])
def test_packed_weights_load(classes, tmp_path):
    source = make(num_classes=10)
    packing.save_packed(tmp_path / "packed.safetensors", pack(source))
    model = checkpoints.load_model("test_reactnet", tmp_path / "packed.safetensors", num_classes=classes)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), source.forward_features(images))
        if classes == 10:
            assert torch.equal(model(images), source(images))
        else:
            assert model(images).shape == (2, classes or 128)


def test_packed_weights_load_into_features_only(tmp_path):
    source = make(num_classes=10)
    packing.save_packed(tmp_path / "packed.safetensors", pack(source))
    model = checkpoints.load_model(
        "test_reactnet", tmp_path / "packed.safetensors", features_only=True, out_indices=(1, 3)
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, expected = model(images), source.forward_intermediates(images, [1, 3], intermediates_only=True)
    assert len(features) == 2 and all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


def test_stages_carry_over(tmp_path):
    source = make(num_classes=0, weight_bits=32)
    checkpoints.save_latent(tmp_path / "latent.safetensors", source.state_dict(), "test_reactnet", 32)
    for bits in (1, 32):
        model = checkpoints.load_model("test_reactnet", tmp_path / "latent.safetensors", weight_bits=bits)
        assert model.weight_bits == bits and same(model.state_dict(), source.state_dict())


def test_the_number_of_input_channels_comes_from_the_file(tmp_path):
    source = make(num_classes=0, in_chans=1)
    packing.save_packed(tmp_path / "packed.safetensors", pack(source))
    model = checkpoints.load_model("test_reactnet", tmp_path / "packed.safetensors")
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), source(images))


def test_timms_own_renaming_is_applied(tmp_path):
    """A ConvNeXt in its authors' layout: other names, and the classifier under another one too."""
    source = make("test_convnext", num_classes=1000)
    renamed = {}
    for name, tensor in source.state_dict().items():
        for new, old in (("stem.", "downsample_layers.0."), ("head.fc.", "head."), ("head.norm.", "norm.")):
            if name.startswith(new):
                name = old + name.removeprefix(new)
        renamed[name.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2").replace("conv_dw", "dwconv")] = tensor
    stages = {}
    for name, tensor in renamed.items():
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "blocks":
            name = ".".join([*parts[:2], *parts[3:]])
        elif parts[0] == "stages" and parts[2] == "downsample":
            name = ".".join(["downsample_layers", parts[1], *parts[3:]])
        stages[name] = tensor
    assert stages.keys() != source.state_dict().keys()
    model = checkpoints.load_model("test_convnext", save(stages, tmp_path / "weights.safetensors"))
    body = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.fc")}
    assert same(model.state_dict(), body)


@pytest.mark.parametrize(("name", "tensor"), [("test_reactnet", "stem.bn.weight"), ("test_resnet", "bn1.weight")])
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


@pytest.fixture
def export(tmp_path):
    """A folder as the training writes it."""
    source = make(num_classes=10)
    packing.save_packed(tmp_path / "model.safetensors", pack(source))
    config = {"architecture": "test_reactnet", "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return source, tmp_path


@pytest.mark.parametrize("classes", [0, 10, 3, None])
def test_local_dir_means_its_weights(export, classes):
    source, folder = export
    model = checkpoints.load_model(f"local-dir:{folder}", num_classes=classes)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), source.forward_features(images))
    assert model.num_classes == (10 if classes is None else classes)
    random = checkpoints.load_model(f"local-dir:{folder}", pretrained=False, num_classes=10)
    assert not torch.equal(random.stem.conv.weight, source.stem.conv.weight)


def test_model_names_that_lead_nowhere(tmp_path, monkeypatch):
    with pytest.raises(BurnError, match=r"^model reactnet_b: timm knows no such name; is it .*reactnet_a"):
        checkpoints.load_model("reactnet_b")
    with pytest.raises(BurnError, match=r"^model test_reactnet: its pretrained weights cannot be loaded"):
        checkpoints.load_model("test_reactnet", pretrained=True)
    with pytest.raises(BurnError, match="config.json cannot be read"):
        (tmp_path / "model.safetensors").write_bytes(b"")
        packing.save_packed(tmp_path / "model.safetensors", pack(make()))
        checkpoints.load_model(f"local-dir:{tmp_path}")
    with pytest.raises(BurnError, match="unexpected keyword argument 'strange'"):
        checkpoints.load_model("test_reactnet", strange=1)
    with pytest.raises(BurnError, match="no such file"):
        checkpoints.load_model("test_reactnet", tmp_path / "nothing.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BurnError, match="hf-hub:nobody/nothing") as error:
        checkpoints.load_model("hf-hub:nobody/nothing")
    assert "\n" not in str(error.value)


def test_random_weights_follow_the_seed():
    torch.manual_seed(3)
    model = checkpoints.load_model("test_reactnet")
    assert same(model.state_dict(), make(seed=3, num_classes=0).state_dict()) and not model.training


# state_hash, save_latent


def test_state_hash_sees_values_names_shapes_and_dtypes():
    state_dict = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)}
    others = [
        {**state_dict, "a": torch.arange(6.0).view(2, 3)},
        {**state_dict, "a": torch.arange(6.0).double()},
        {**state_dict, "a": torch.arange(6.0) + torch.eye(6)[3] * 1e-6},
        {"c": state_dict["a"], "b": state_dict["b"]},
        {"a": state_dict["a"]},
    ]
    hashes = {checkpoints.state_hash(other) for other in [state_dict, *others]}
    assert len(hashes) == 6 and all(len(value) == 64 for value in hashes)
    assert checkpoints.state_hash(dict(reversed(state_dict.items()))) == checkpoints.state_hash(state_dict)
    model = make()
    assert checkpoints.state_hash(model) == checkpoints.state_hash(model.state_dict())


def test_save_latent_is_read_by_anyone(tmp_path):
    model = make()
    model.to(memory_format=torch.channels_last)  # not contiguous
    checkpoints.save_latent(tmp_path / "latent.safetensors", model.state_dict(), "test_reactnet", 1)
    assert same(safetensors.torch.load_file(tmp_path / "latent.safetensors"), model.state_dict())
    with safe_open(tmp_path / "latent.safetensors", framework="pt") as file:
        assert file.metadata() == {"burn_timm": "latent", "format": "pt", "model": "test_reactnet", "weight_bits": "1"}
