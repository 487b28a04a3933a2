"""Schedules, by hand: cos(0) = 1, cos(pi / 3) = 1/2, cos(pi / 2) = 0, cos(pi) = -1."""

import pytest

from burn_timm.schedules import lambda_at, lr_at, step_lr

close = pytest.approx


def test_lambda_is_equation_3_and_table_7():
    found = [lambda_at(progress, 0.9, 0.7) for progress in (0.0, 1 / 3, 0.5, 1.0)]
    assert found == close([0.9, 0.85, 0.8, 0.7])
    assert {lambda_at(t / 10, 0.7, 0.1, "constant") for t in range(11)} == {0.7}
    assert [lambda_at(t / 10, 0.9, 0.7, "step") for t in range(11)] == [1.0] * 5 + [0.0] * 6
    with pytest.raises(ValueError, match="cosine, constant, step"):
        lambda_at(0.1, 0.9, 0.7, "exp")


@pytest.mark.parametrize(("schedule", "at_a_third"), [("cosine", 0.75), ("linear", 2 / 3), ("constant", 1.0)])
def test_lr_warms_up_then_falls_to_its_end(schedule, at_a_third):
    last = 0.4 if schedule == "constant" else 0.1
    found = [lr_at(step, 100, 0.4, 10, schedule, 0.1) for step in (0, 4, 9, 10, 40, 100)]
    assert found == close([0.04, 0.2, 0.4, 0.4, last + (0.4 - last) * (at_a_third if last < 0.4 else 1), last])
    assert lr_at(100, 100, 0.4, 10, schedule) == close(0.4 if schedule == "constant" else 0, abs=1e-12)
    with pytest.raises(ValueError, match="cosine, linear, constant"):
        lr_at(5, 10, 1.0, schedule="exp")


def test_without_the_prefix_the_cosine_begins_with_the_warm_up_which_scales_it():
    found = [lr_at(step, 90, 0.4, 60, warmup_prefix=False) for step in (0, 29, 30, 59, 60, 90)]
    from_the_start = [lr_at(step, 90, 0.4) for step in (0, 29, 30, 59, 60, 90)]
    assert found == close([f * s for f, s in zip((1 / 60, 0.5, 31 / 60, 1, 1, 1), from_the_start, strict=True)])
    assert lr_at(60, 90, 0.4, 60, warmup_prefix=False) == close(0.1)


def test_a_decay_by_epochs_stays_within_each():
    found = [lr_at(step, 30, 0.3, schedule="linear", every=10) for step in (0, 9, 10, 19, 20, 29)]
    assert found == close([0.3, 0.3, 0.2, 0.2, 0.1, 0.1])


def test_step_lr_is_the_published_schedule_of_detection():
    rates = [step_lr(i, 0.02, 100, (18000, 22000)) for i in (0, 50, 100, 17999, 18000, 21999, 22000)]
    assert rates == close([2e-5, 0.01001, 0.02, 0.02, 0.002, 0.002, 0.0002])
    assert step_lr(0, 0.02, 0, ()) == 0.02
