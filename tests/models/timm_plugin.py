"""pytest plugin (`-p timm_plugin`) under which timm's own tests/test_models.py tests the models of burn_timm.

That file reads `timm.list_models` while it is imported, so the registry is narrowed before. Its list of modules with
forward_intermediates is a constant of its own; asking for modules therefore gives ours, too.
"""

import pytest
import timm

from burn_timm.models import MODEL_MODULES

MARKERS = ("base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward")

_list_models = timm.list_models
OURS = _list_models(module=MODEL_MODULES)


def list_models(filter="", module="", **kwargs):
    return _list_models(filter, module=MODEL_MODULES, **kwargs)


def list_pretrained(filter="", exclude_filters=""):
    return list_models(filter, exclude_filters=exclude_filters, pretrained=True, include_tags=True)


def pytest_configure(config):
    timm.list_models, timm.list_pretrained = list_models, list_pretrained
    for name in (*MARKERS, "timeout(seconds)"):
        config.addinivalue_line("markers", f"{name}: of timm")


def pytest_collection_modifyitems(config, items):
    ours = [item for item in items if _model_of(item) in OURS]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours


def _model_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get("model_name") if callspec else None
    return name.partition(".")[0] if isinstance(name, str) else ""
