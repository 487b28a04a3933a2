"""benchmarks/train_step.py: the reference style is the same function as ours, and what is written can be trusted."""

import json
import sys

import pytest
import timm
import torch
from reference_style import ReferenceReActNet, counterparts
from steps import ROWS, Setting, Step, saved_bytes
from train_step import main

from burn_timm.errors import BurnError

TINY = ["--model", "test_reactnet", "--img-size", "32", "--batch-size", "2", "--rounds", "1", "--runs", "1"]
TINY += ["--threads", "1", "--ceiling-size", "64"]


@pytest.mark.parametrize(("name", "img_size"), [("reactnet_a_025", 64), ("test_reactnet", 96)])
def test_the_reference_style_is_the_same_function_with_the_same_gradients(name, img_size):
    ours = timm.create_model(name, num_classes=0).double().train()
    with torch.no_grad():
        for parameter in ours.parameters():  # no two values alike, and some latent weights outside of [-1, 1]
            parameter.add_(0.3 * torch.randn_like(parameter))
    reference = ReferenceReActNet(ours).double().train()
    images = torch.randn(4, 3, img_size, img_size, dtype=torch.float64)
    expected, features = ours(images), reference(images)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)

    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (features * weights).sum().backward()
    clipped = 0
    for parameter, theirs in counterparts(ours, reference):
        grad = torch.cat([other.grad.flatten() for other in theirs])
        torch.testing.assert_close(grad, parameter.grad.flatten(), atol=1e-4, rtol=1e-4)
        clipped += ((parameter.abs() > 1) & (parameter.grad == 0)).sum().item()
    assert clipped > 0
    counted = [id(other) for _, theirs in counterparts(ours, reference) for other in theirs]
    assert sorted(counted) == sorted(id(p) for p in reference.parameters())


@pytest.mark.parametrize(("name", "options"), [
    ("reactnet_18", {"num_classes": 0}), ("test_reactnet", {"num_classes": 3}), ("test_resnet", {"num_classes": 0}),
    ("test_reactnet", {"num_classes": 0, "weight_bits": 32}),
])
def test_other_networks_have_no_reference_style(name, options):
    with pytest.raises(BurnError, match="ReActNet-A in one bit"):
        ReferenceReActNet(timm.create_model(name, **options))


def test_saved_bytes_are_counted_once_and_without_parameters():
    class Tiny:
        trained = torch.nn.Linear(10, 10, bias=False)

        def loss(self):
            y = self.trained(torch.ones(5, 10))  # keeps its input, and the weight, which does not count
            return (y.exp() * y).sum()  # exp keeps its result, which the product keeps too; the product keeps y

    assert saved_bytes(Tiny()) == 3 * 5 * 10 * 4


def test_a_step_of_ours_keeps_less():
    setting = Setting("test_reactnet", 64, 3, "cpu", whole=False, teacher="test_resnet")
    reference, floats, half = (saved_bytes(Step(ROWS[name], setting)) for name in (
        "reference", "eager-fp32", "eager-bf16-cl",
    ))
    assert half < 0.6 * floats < 0.3 * reference


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_benchmark(tmp_path, whole):
    threads, out = torch.get_num_threads(), tmp_path / "results" / "step.json"
    flags = ["--whole", "--teacher", "test_resnet", "--no-memory"] if whole else []
    names = ["reference", "eager-bf16-cl"]
    rows = main([*TINY, *flags, "--rows", *names, "--output", str(out), "--options", "--head-dim", "16"])
    assert torch.get_num_threads() == threads
    result = json.loads(out.read_text())
    assert result["command"].startswith("benchmarks/train_step.py --model test_reactnet")
    assert result["protocol"]["whole"] is whole and result["protocol"]["batch_size"] == 2
    assert result["extra"]["rows"] == rows and [row["row"] for row in rows] == names
    for row in rows:
        assert row["images_per_second"] == pytest.approx(2000 / row["ms"]) and row["utilisation"] > 0
    assert rows[0]["ratio"] == 1 and rows[1]["ratio"] == pytest.approx(rows[0]["ms"] / rows[1]["ms"])
    assert result["value"] == max(row["ratio"] for row in rows)
    if not whole:  # at the least, of test_reactnet's forward pass at 32 px
        assert result["extra"]["flops_per_image"] > 2 * 3 * 2.5e5
        assert rows[1]["memory"]["saved_bytes"] < rows[0]["memory"]["saved_bytes"]
        assert sys.platform != "linux" or rows[0]["memory"]["peak_bytes"] > 0


@pytest.mark.parametrize(("options", "message"), [
    (["--model", "reactnet_18", "--rows", "reference"], "ReActNet-A in one bit"),
    (["--options", "--opt", "no_such"], "no_such"),
    pytest.param(["--device", "cuda"], "there is none", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="")),
])
def test_bad_input_is_one_line(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*TINY, "--no-memory", *options])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and error.startswith("train_step.py: error: ") and message in error
