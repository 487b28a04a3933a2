"""Counts that a reader of the test log should see, even where everything passes."""

import pytest

LINES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def in_summary(request):
    """A list; its lines are written below the test results."""
    return request.config.stash.setdefault(LINES, [])


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(line)
