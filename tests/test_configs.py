"""config.json: what no network can have is one line that names file and entry, before anything is built."""

import json

import pytest

from burn_timm.checkpoints import load_model
from burn_timm.configs import check_config
from burn_timm.errors import BurnError

GOOD = {
    "architecture": "test_reactnet", "num_classes": 0, "model_args": {"weight_bits": 1, "depths": [1, 1, 2, 1]},
    "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "crop_pct": 1},
}


@pytest.mark.parametrize(("changes", "entry"), [
    ({"architecture": None}, "architecture"), ({"architecture": ["test_reactnet"]}, "architecture"),
    ({"architecture": "no_such_net"}, "architecture"), ({"num_classes": -1}, "num_classes"),
    ({"num_classes": "10"}, "num_classes"), ({"model_args": ["weight_bits"]}, "model_args"),
    ({"model_args": "weight_bits=1"}, "model_args"), ({"model_args": {"weight_bits": {}}}, "weight_bits"),
    ({"model_args": {"act_bits": 2}}, "act_bits"), ({"model_args": {"device": "meta"}}, "device"),
    ({"model_args": {"depths": [1_000_000, 1, 1, 1]}}, "depths"), ({"model_args": {"depths": [999, 9]}}, "depths"),
    ({"model_args": {"stem_chs": 1e9}}, "stem_chs"), ({"model_args": {"drop_rate": float("nan")}}, "drop_rate"),
    ({"pretrained_cfg": 3}, "pretrained_cfg"), ({"pretrained_cfg": {"mean": [float("nan")] * 3}}, "mean"),
    ({"pretrained_cfg": {"std": [0.2, 0, 0.2]}}, "std"), ({"pretrained_cfg": {"std": 0.2}}, "std"),
    ({"pretrained_cfg": {"input_size": [3, -64, 64]}}, "input_size"),
    ({"pretrained_cfg": {"input_size": 64}}, "input_size"), ({"pretrained_cfg": {"crop_pct": "1"}}, "crop_pct"),
    ({"pretrained_cfg": {"interpolation": 3}}, "interpolation"), ({"other": [{"deep": float("inf")}]}, "other"),
    ({"model_args": {"in_chans": True}}, "in_chans"),
])
def test_a_wrong_entry_is_named_by_every_reader(changes, entry, tmp_path, fails):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**GOOD, **changes}))
    (folder / "model.safetensors").write_bytes(b"not read: config.json comes first")
    with pytest.raises(BurnError, match=rf"config\.json: {entry}") as error:
        load_model(f"local-dir:{folder}")
    assert "\n" not in str(error.value)
    assert f"{folder / 'config.json'}: {entry}" in fails("pack", folder, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_card_of_a_network_that_cannot_be_built_is_one_line(tmp_path, fails):
    (tmp_path / "config.json").write_text(json.dumps({**GOOD, "model_args": {"weight_bit": 1}}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    line = fails("card", tmp_path)
    assert "model test_reactnet: " in line and "weight_bit" in line


def test_good_ones_pass():
    assert check_config(GOOD, "x") is GOOD
    check_config({"architecture": "resnet50", "mean": [0.5], "num_classes": 1000}, "x")  # timm's early form
    check_config({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": [96, 96]}}, "x")
