import pytest

from . import runs


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    runs.on_the_cpu_without_pictures(monkeypatch)


@pytest.fixture
def refused(capsys, tmp_path):
    """The one line that a run in the folder `run` of the test ends with, before it has exported anything."""
    def refused(*options: object) -> str:
        line = runs.failure(capsys, *options, "--output", tmp_path / "run")
        assert not (tmp_path / "run" / "export").exists()
        return line

    return refused
