"""Costs: the published ones, a count by hand, and the sizes of real files."""

import pytest
import timm
import torch
from exported import packed as pack

import burn_timm  # noqa: F401
from burn_timm import packing
from burn_timm.checkpoints import save_latent
from burn_timm.counting import count, count_stages


@pytest.fixture(scope="module")
def reactnet_a():
    return count_stages("reactnet_a")


def test_reactnet_a_costs_what_is_published(reactnet_a):
    """ReActNet (ECCV 2020), Table 3: 4.82e9 BOPs, 0.12e8 FLOPs, 0.87e8 OPs."""
    assert reactnet_a["bops"] == pytest.approx(4.82e9, rel=0.02)
    assert reactnet_a["flops"] == pytest.approx(0.12e8, rel=0.02)
    assert reactnet_a["ops"] == pytest.approx(0.87e8, rel=0.02)
    assert reactnet_a["params"] == pytest.approx(29.3e6, rel=0.01)


def test_reactnet_a_by_hand(reactnet_a):
    channels = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    size, bops, weights = 112, 0, 0
    for before, after in zip(channels, channels[1:], strict=False):
        if after == 2 * before and before != 32:
            size //= 2
        weights += before * before * 9 + before * after
        bops += (before * before * 9 + before * after) * size * size
    flops = 3 * 32 * 9 * 112 * 112 + 1024 * 1000
    assert (reactnet_a["bops"], reactnet_a["flops"], reactnet_a["binary_params"]) == (bops, flops, weights)
    assert reactnet_a["ops"] == flops + bops / 64
    for stage in reactnet_a["stages"].values():  # real-valued weights make every convolution a FLOP
        assert (stage["bops"], stage["flops"], stage["binary_params"]) == (0, flops + bops, 0)
        assert stage["params"] == reactnet_a["params"] and stage["bytes_packed"] is None


@pytest.mark.parametrize(("name", "num_classes", "dtype"), [
    ("test_reactnet", 0, torch.float64), ("test_reactnet", 10, torch.bfloat16), ("reactnet_a_025", 10, torch.float32),
])
def test_bytes_are_those_of_the_written_files(name, num_classes, dtype, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=num_classes).to(dtype)
    counts = count(timm.create_model(name, num_classes=num_classes, device="meta", dtype=dtype))
    packing.save_packed(tmp_path / "packed", pack(model))
    save_latent(tmp_path / "floats", model.state_dict(), name, 1)
    assert counts["bytes_packed"] == (tmp_path / "packed").stat().st_size
    assert counts["bytes_fp32"] == (tmp_path / "floats").stat().st_size


def test_operations_follow_the_area_and_the_model_is_left_as_it_was():
    model = timm.create_model("test_reactnet", num_classes=0, device="meta").train()
    assert count(model, 128)["bops"] == 4 * count(model, 64)["bops"] == 4 * count(model)["bops"] > 0
    assert count(model, 128)["flops"] == 4 * count(model)["flops"]
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_real_valued_parts_of_reactnet_18_are_flops():
    counts = count(timm.create_model("reactnet_18", num_classes=1000, device="meta"), 224)
    stem, projections = 3 * 64 * 49 * 112**2, sum(c * 2 * c * (28 * 64 // c) ** 2 for c in (64, 128, 256))
    assert counts["flops"] == stem + projections + 512 * 1000
