"""Shared by all tests: repeatable, on real images (the digits inside scikit-learn), few threads, no real Hub."""

import contextlib
import gc
import io
import logging
import os
import time
import traceback

import numpy as np
import pytest
import torch
from hub_server import TOKEN, HubServer

HUB = HubServer()
os.environ.update(HUB.environment())  # huggingface_hub, which burn_timm imports, reads it once

import burn_timm  # noqa: E402, F401 - registers the models


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(scope="session", autouse=True)
def _quick_collections():
    """accelerate collects garbage at the end of each run: what has been imported need not be looked at again."""
    gc.freeze()


@pytest.fixture(scope="session")
def digits():
    """uint8 [1797, 3, 32, 32] scanned digits and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy((data.images * 255 / 16).astype(np.uint8))
    images = images.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return images[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(data.target)


@pytest.fixture(scope="session")
def burn_data():
    """Root of the real data sets; tests that need it are skipped where BURN_DATA is unset."""
    root = os.environ.get("BURN_DATA")
    if not root:
        pytest.skip("BURN_DATA is not set")
    return root


@pytest.fixture(scope="session")
def _hub():
    with HUB:
        yield HUB


@pytest.fixture
def hub(_hub, monkeypatch, tmp_path):
    """A Hub on 127.0.0.1 with nothing on it (hub_server.HubServer), a token for it, and a cache of this test's own."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))  # the client waits, then tries again
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    _hub.clear()
    return _hub


@pytest.fixture
def streams(monkeypatch):
    """Calls a command line, `streams(main, *words)`: its exit code, and all it tells on stdout and stderr."""

    def streams(main, *words):
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), monkeypatch.context() as patch:
            patch.setattr(logging.root, "handlers", [])  # pytest's: as where no test listens
            try:
                main([str(word) for word in words])
            except SystemExit as stopped:
                code = stopped.code
            except Exception:
                code = 1
                traceback.print_exc()
        return code, out.getvalue(), err.getvalue()

    return streams


def _fails(capsys, start, main, words):
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and err.startswith(start), (code, out, err)
    return out, err.rstrip("\n")


@pytest.fixture
def fails(capsys):
    """Calls `burn-timm WORDS`: exit code 2, nothing on stdout and one line on stderr, which it returns without the
    command's name."""
    from burn_timm.cli import main

    def fails(*words):
        out, line = _fails(capsys, f"burn-timm {words[0]}: error: ", main, words)
        assert out == ""
        return line.removeprefix(f"burn-timm {words[0]}: error: ")

    return fails


@pytest.fixture
def eval_fails(capsys):
    """The same of `eval_downstream.py WORDS`, which may have printed what it read before."""
    from eval_downstream import main

    return lambda *words: _fails(capsys, "eval_downstream.py", main, words)[1]


def pytest_terminal_summary(terminalreporter):
    """Counts that a reader of the log should see even where everything passes: what tests record as `summary`."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "summary":
                    terminalreporter.write_line(value)
