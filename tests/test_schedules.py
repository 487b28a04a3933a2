import math

import pytest

from burn_timm.schedules import lambda_at, lr_at, step_lr


def test_lambda_is_equation_3_at_its_ends_and_middle():
    # Eq. 3 by hand: cos(0) = 1 gives lambda_0, cos(pi) = -1 gives lambda_T, cos(pi/2) = 0 their mean.
    assert lambda_at(0.0, 0.9, 0.7) == pytest.approx(0.9)
    assert lambda_at(1.0, 0.9, 0.7) == pytest.approx(0.7)
    assert lambda_at(0.5, 0.9, 0.7) == pytest.approx(0.8)
    assert lambda_at(1 / 3, 0.9, 0.7) == pytest.approx(0.7 + 0.2 * 0.75)


def test_lambda_constant_and_step_of_table_7():
    assert {lambda_at(t / 10, 0.7, 0.1, "constant") for t in range(11)} == {0.7}
    assert [lambda_at(t / 10, 0.9, 0.7, "step") for t in range(11)] == [1.0] * 5 + [0.0] * 6


def test_unknown_schedules_are_refused():
    with pytest.raises(ValueError, match="cosine, constant, step"):
        lambda_at(0.1, 0.9, 0.7, "exp")
    with pytest.raises(ValueError, match="cosine, linear, constant"):
        lr_at(5, 10, 1.0, schedule="exp")


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_lr_warms_up_linearly_then_falls_to_zero(schedule):
    lrs = [lr_at(step, 100, 0.4, 10, schedule) for step in range(100)]
    assert lrs[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert lrs[10] == pytest.approx(0.4)
    assert all(a > b for a, b in zip(lrs[10:], lrs[11:], strict=False))
    assert lr_at(100, 100, 0.4, 10, schedule) == pytest.approx(0, abs=1e-12)
    half = 0.5 if schedule == "linear" else (1 + math.cos(math.pi / 2)) / 2
    assert lrs[55] == pytest.approx(0.4 * half)


def test_step_lr_is_the_published_schedule_of_detection():
    rates = [step_lr(i, 0.02, 100, (18000, 22000)) for i in (0, 50, 100, 17999, 18000, 21999, 22000)]
    assert rates == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 0.002, 0.002, 0.0002])
    assert step_lr(0, 0.02, 0, ()) == 0.02
