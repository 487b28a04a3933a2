import pytest

from . import runs


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    runs.on_the_cpu_without_pictures(monkeypatch)
