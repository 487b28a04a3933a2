"""Weights through transformers and accelerate: right, or refused. Transformers' TimmWrapper sets parameters by their
names, on a network that is built on the meta device, and calls neither load_state_dict nor timm; its TimmBackbone lets
timm load, and then resets BatchNorm. Version 5 asks the network at the end; 4 and accelerate ask the file first.

The first tests replay what the loader of version 5 does, in its order; the last one runs transformers where it is
installed, of any version.
"""

import accelerate
import pytest
import timm
import torch
from exported import write_export
from safetensors import safe_open
from safetensors.torch import load_file

from burn_timm.cli import main
from burn_timm.configs import read_config
from burn_timm.errors import BurnError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network with statistics of its own, its packed export and the same in floats."""
    torch.manual_seed(3)
    model, folder = timm.create_model("test_reactnet", num_classes=5), tmp_path_factory.mktemp("transformers")
    for _ in range(3):
        model(torch.randn(8, 3, 64, 64))
    write_export(folder / "packed", model, {"input_size": (3, 64, 64)}, weight_bits=1, act_bits=1)
    assert main(["unpack", str(folder / "packed"), str(folder / "floats")]) == 0
    return model.eval(), folder


def by_names(folder):
    """What TimmWrapperModel.from_pretrained does (transformers 5.24)."""
    config = read_config(folder)
    with torch.device("meta"):
        model = timm.create_model(config["architecture"], pretrained=False, num_classes=5, **config["model_args"])
    missing = set(model.state_dict())
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name in missing:
            missing.remove(name)
            place(model, name, tensor)._is_hf_initialized = True
    for name in missing:
        place(model, name, torch.randn(model.state_dict()[name].shape))
    for module in reversed(list(model.modules())):
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    return model.eval()


def place(model, name, tensor):
    module, _, last = name.rpartition(".")
    if last not in model.get_submodule(module)._buffers:
        tensor = torch.nn.Parameter(tensor)
    setattr(model.get_submodule(module), last, tensor)
    return tensor


def test_a_loader_by_names_reads_floats_and_refuses_packed_weights(network):
    model, folder = network
    assert torch.equal(by_names(folder / "floats")(IMAGES), model(IMAGES))
    with pytest.raises(BurnError, match=r"no stages\.0\.0\.conv1\.weight: .* burn-timm unpack"):
        by_names(folder / "packed")


def test_nothing_is_refused_where_nobody_loads_by_names(network):
    """timm calls the same method after to_empty()."""
    with torch.device("meta"):
        model = timm.create_model("test_reactnet")
    model.to_empty(device="cpu")
    for other in (model, timm.create_model(f"local-dir:{network[1] / 'packed'}", pretrained=True)):
        other.init_non_persistent_buffers()


def test_batchnorm_that_timm_loaded_is_not_reset(network):
    """As TimmBackbone does behind timm.create_model, to what is not marked as loaded."""
    model, folder = network
    loaded = timm.create_model(f"local-dir:{folder / 'packed'}", pretrained=True, features_only=True)
    for name, buffer in loaded.named_buffers():
        if not getattr(buffer, "_is_hf_initialized", False):
            buffer.fill_(1 if name.endswith("var") else 0)
    for found, expected in zip(loaded.eval()(IMAGES), model.forward_intermediates(IMAGES)[1], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["test_reactnet", "resnet20_cifar"])
def test_every_network_of_ours_marks_what_was_loaded(name):
    model = timm.create_model(name)
    model.load_state_dict(model.state_dict())
    assert all(getattr(buffer, "_is_hf_initialized", False) for buffer in model.buffers())


def test_accelerate_reads_floats_and_refuses_packed_weights(network):
    """With a `device_map` it sets parameters by name. Transformers 4 checks the file's format as it does."""
    model, folder = network
    files = {kind: str(folder / kind / "model.safetensors") for kind in ("packed", "floats")}
    other = timm.create_model("test_reactnet", num_classes=5).eval()
    accelerate.load_checkpoint_in_model(other, files["floats"], device_map={"": "cpu"})
    assert torch.equal(other(IMAGES), model(IMAGES))
    with pytest.raises(OSError, match="valid metadata"):
        accelerate.load_checkpoint_in_model(other, files["packed"], device_map={"": "cpu"})
    with safe_open(files["packed"], framework="pt") as file:
        assert "burn-timm unpack" in file.metadata()["format"]  # which the error of transformers 4 cites


@torch.no_grad()
def test_transformers_itself(network):
    transformers = pytest.importorskip("transformers", minversion="4.48")
    model, folder = network
    wrappers = transformers.TimmWrapperModel, transformers.TimmWrapperForImageClassification
    for wrapper in wrappers:
        with pytest.raises((BurnError, ValueError), match="burn-timm unpack"):
            wrapper.from_pretrained(folder / "packed")
    pooled, classes = (wrapper.from_pretrained(folder / "floats").eval()(IMAGES) for wrapper in wrappers)
    assert torch.equal(classes.logits, model(IMAGES))
    assert torch.equal(pooled.pooler_output, model.forward_head(model.forward_features(IMAGES), pre_logits=True))
    for kind in ("packed", "floats"):
        backbone = transformers.TimmBackbone.from_pretrained(f"local-dir:{folder / kind}", out_indices=(1, 3)).eval()
        expected = model.forward_intermediates(IMAGES, [1, 3], intermediates_only=True)
        assert all(map(torch.equal, backbone(IMAGES).feature_maps, expected))
