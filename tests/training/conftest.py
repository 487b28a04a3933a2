import gc

import pytest

from . import runs


@pytest.fixture(scope="session", autouse=True)
def _quick_collections():
    """accelerate collects garbage at the end of each run: what has been imported need not be looked at again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    runs.on_the_cpu_without_pictures(monkeypatch)
