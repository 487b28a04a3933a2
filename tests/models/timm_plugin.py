"""pytest plugin (`-p timm_plugin --models A B ...`): timm's own tests/test_models.py, run on models of burn_timm.

That file asks `timm.list_models` for names while it is imported, so timm is narrowed to our modules before. It asks for
the modules that have forward_intermediates by a list of timm's own; of ours the binary ones have it.
Some of its tests hold for every model but name a few of timm's, to save time: these are given ours instead.
"""

import pytest
import timm

from burn_timm.models import BINARY_MODULES, MODULES

MARKERS = ("base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward")
# Tests with names of their own, and the names they get.
LENT = ("test_reactnet",)
NAMED_TESTS = (
    "test_reset_classifier_keeps_pool", "test_features_only_grad_checkpointing_backward",
    "test_feature_getter_stage_ends_torchscript", "test_prune_intermediate_layers_params_used",
    "test_head_hidden_size", "test_forward_after_prune_intermediate_layers", "test_model_init_weights_after_to_empty",
    "test_headless_checkpoint_reload",
)

_list_models = timm.list_models


def list_models(filter="", module="", **kwargs):
    return _list_models(filter, module=BINARY_MODULES if module else MODULES, **kwargs)


def list_pretrained(filter="", exclude_filters=""):
    return list_models(filter, exclude_filters=exclude_filters, pretrained=True, include_tags=True)


def pytest_addoption(parser):
    parser.addoption("--models", nargs="+", default=_list_models(module=MODULES))


def pytest_configure(config):
    timm.list_models, timm.list_pretrained = list_models, list_pretrained
    for name in (*MARKERS, "timeout(seconds)"):
        config.addinivalue_line("markers", f"{name}: of timm")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    if metafunc.definition.name not in NAMED_TESTS:
        return
    marks = metafunc.definition.own_markers
    for index, mark in enumerate(marks):
        names = mark.args[0].replace(" ", "").split(",") if mark.name == "parametrize" else [""]
        if names[0] == "model_name":
            values = LENT if len(names) == 1 else [(name, {}) for name in LENT]
            marks[index] = pytest.mark.parametrize(",".join(names), values).mark


def pytest_collection_modifyitems(config, items):
    models = config.getoption("--models")
    kept = [item for item in items if _model_of(item) in models]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _model_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get("model_name") if callspec else None
    return name.partition(".")[0] if isinstance(name, str) else ""
