import logging
from types import SimpleNamespace

import pytest
import torch

import train_burn
from burn_timm.errors import BurnError
from burn_timm.training.guards import TargetMonitor, check_compiler, check_finite


def test_a_loss_that_is_not_finite_names_step_terms_and_checkpoint():
    values = {"loss": torch.tensor(float("nan")), "loss_kl": torch.tensor(float("inf")), "loss_fs": 0.5}
    with pytest.raises(BurnError, match=r"step 17: .*loss_kl inf, loss_fs 0.5.*good checkpoint: run/checkpoint.pt"):
        check_finite(values, 17, "run/checkpoint.pt")
    with pytest.raises(BurnError, match="step 17: .*grad_norm inf"):
        check_finite({"loss": torch.tensor(1.0), "grad_norm": float("inf")}, 17, "none")
    check_finite({"loss": torch.tensor(1.0), "grad_norm": 3.0}, 17, "none")


def warnings(monitor, series, caplog):
    with caplog.at_level(logging.WARNING):
        for step, information in enumerate(series):
            monitor.update(information, step, step / len(series))
    return [record.message for record in caplog.records]


def test_a_target_that_decays_is_warned_of_once(caplog):
    messages = warnings(TargetMonitor(), [1.0, 0.8, 0.3, 0.02, 0.01, 0.3, 0.001], caplog)
    assert len(messages) == 1 and messages[0].startswith("step 3: the target has decayed to a constant")


def test_a_target_may_start_low_and_rise(caplog):
    assert warnings(TargetMonitor(patience=0.2), [0.001, 0.03, 0.4, 0.8, 1.2, 1.3, 1.2, 1.2, 1.1], caplog) == []


def test_a_target_that_never_rises_is_warned_of(caplog):
    assert len(warnings(TargetMonitor(), [0.001] * 20, caplog)) == 1


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BurnError, match=r"--compile needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    check_compiler(torch.device("cpu"))


@pytest.mark.parametrize(("lam", "warned"), [(0.9, True), (1.0, False)])
def test_no_warning_of_a_target_that_nobody_follows(lam, warned):
    monitor, log = TargetMonitor(), SimpleNamespace(main=True, write=lambda line: None)
    train_burn.write_line(log, monitor, 0.5, {"step": 1}, ["target_information", "lambda"], {}, [0.0, lam])
    assert monitor.warned == warned
