"""What stops a run or warns of it: loss and gradient that are not finite, a target that has collapsed."""

import logging

import pytest
from matplotlib.figure import Figure

from burn_timm.errors import BurnError
from burn_timm.runs import LineLog
from burn_timm.training.logs import draw_curves
from burn_timm.training.monitor import CollapseMonitor, check_finite


@pytest.mark.parametrize(("values", "told"), [
    ({"loss": float("nan"), "loss_kl": float("inf"), "loss_fs": 0.5}, "loss_kl inf, loss_fs 0.5"),
    ({"loss": 1.0, "grad_norm": float("inf")}, "grad_norm inf"),
    ({"loss": 1.0, "grad_norm": 3.0}, None),
    ({"loss": 1.0, "loss_kl": float("nan")}, None),  # of no weight in the loss
])
def test_numbers_that_are_not_finite_name_step_terms_and_checkpoint(values, told):
    if told is None:
        check_finite(values, 17, "run/checkpoint.pt")
        return
    with pytest.raises(BurnError, match=f"step 17: .*{told}.*good checkpoint: run/checkpoint.pt"):
        check_finite(values, 17, "run/checkpoint.pt")


@pytest.mark.parametrize(("series", "lam", "message"), [
    ([1.0, 0.8, 0.3, 0.02, 0.01, 0.3, 0.001], 0.9, "step 3: the target has decayed to a constant: it tells 0.0200"),
    ([0.001, 0.03, 0.4, 0.8, 1.2, 1.3, 1.2, 1.2, 1.1], 0.9, None),  # a target may start low and rise
    ([0.0331, 0.0331, 0.03, 0.02], 0.9, None),  # it never was higher, and two steps are no time to rise
    ([0.03] * 200, 0.9, "step 100: the target is a constant and never was anything else"),
    ([0.0] * 200, 1.0, None),  # nobody follows it: the KL has no weight
])
def test_a_collapsed_target_is_warned_of_once(series, lam, message, caplog):
    monitor = CollapseMonitor()
    with caplog.at_level(logging.WARNING):
        for step, information in enumerate(series):
            line = {"step": step, "target_information": information, "lambda": lam}
            monitor.update(line, step / len(series))
    assert len(caplog.messages) == (message is not None)
    assert message is None or caplog.messages[0].startswith(message)


def test_other_methods_have_no_target():
    monitor = CollapseMonitor()
    monitor.update({"step": 1000, "loss": 1.0}, 0.5)
    assert not monitor.warned


@pytest.mark.parametrize(("information", "title"), [
    (0.01, "what the target tells, nats (COLLAPSED)"), (1.0, "what the target tells, nats"),
])
def test_the_curves_say_in_words_what_the_target_tells(information, title, tmp_path, monkeypatch):
    log = LineLog(tmp_path / "log.jsonl", 0)
    for step in (1, 2):
        log.write({"step": step, "stage": "w1a1", "loss": 1.0, "loss_kl": 0.5, "lambda": 0.9, "lr": 0.1,
                   "entropy_of_mean": 2.0, "mean_entropy": 2.0 - information, "target_information": information})
    log.close()
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    (panel,) = (axis for axis in drawn[0].axes if axis.get_title() == title)
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert labels[-1] == "information, their difference; 0: collapsed" and len(labels) == 3
    drawn[0].draw_without_rendering()
    for axis in drawn[0].axes:  # a legend on the curves would hide them
        assert axis.get_legend().get_window_extent().ymax <= axis.get_window_extent().ymin
