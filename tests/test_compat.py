"""Private and version-dependent corners of timm, torch and accelerate. Docstrings say what to do when one breaks."""

import json

import timm

from burn_timm import compat


def test_timm_writes_the_config_by_which_it_builds_a_model_again(tmp_path):
    """If `timm.models._hub.save_config_for_hf` is gone: take the config.json that `timm.models.save_for_hf` writes."""
    model = timm.create_model("test_reactnet", num_classes=3)
    data_config = {"input_size": (3, 48, 48), "crop_pct": 1.0}
    compat.save_model_config(model, tmp_path / "config.json", {"act_grad": "clip"}, data_config)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_reactnet" and config["num_classes"] == 3
    assert config["model_args"]["act_grad"] == "clip" and config["pretrained_cfg"]["input_size"] == [3, 48, 48]


def test_accelerates_variable_for_the_cpu(monkeypatch):
    """If `accelerate.utils.parse_flag_from_env` is gone: compare the variable with 1, true, yes, on, y, t."""
    for value, expected in (("true", True), ("1", True), ("false", False), (None, False)):
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        if value is not None:
            monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        assert compat.use_cpu_is_set() is expected
