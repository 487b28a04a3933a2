"""benchmarks/train_step.py: the reference style is the same function as ours, and what is written can be trusted."""

import json
import sys

import pytest
import timm
import torch
from reference_style import ReferenceReActNet, counterparts
from rows import ROWS, Setting, Step
from saved_count import counted_blocks
from saved_tensors import block_table, reactnet_blocks, saved_tensors
from torch.utils.checkpoint import checkpoint
from train_step import main

from burn_timm.evals.results import write_result

TINY = ["--model", "test_reactnet", "--img-size", "32", "--batch-size", "2", "--rounds", "1", "--runs", "1"]
TINY += ["--threads", "1", "--ceiling-size", "64"]


@pytest.mark.parametrize(("name", "img_size"), [("reactnet_a_025", 64), ("test_reactnet", 96)])
def test_the_reference_style_is_the_same_function_with_the_same_gradients(name, img_size):
    ours = timm.create_model(name, num_classes=0).double().train()
    with torch.no_grad():
        for parameter in ours.parameters():  # no two values alike, and some latent weights outside of [-1, 1]
            parameter.add_(0.3 * torch.randn_like(parameter))
    reference = ReferenceReActNet(ours).double().train()
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in ours.parameters())
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


def test_other_networks_have_no_reference_style():
    for model in (timm.create_model("reactnet_18", num_classes=0), timm.create_model("test_reactnet", num_classes=3),
                  timm.create_model("test_reactnet", num_classes=0, weight_bits=32)):
        with pytest.raises(ValueError, match="ReActNet-A in one bit"):
            ReferenceReActNet(model)


def test_saved_bytes_are_counted_once_and_without_parameters():
    linear = torch.nn.Linear(10, 10, bias=False)
    x = torch.ones(5, 10)
    with saved_tensors(linear, {"linear": linear}) as saved:
        y = linear(x)  # keeps x
        y = y.exp() * y  # exp keeps its result, which the product keeps too; the product keeps y
    assert saved.blocks == {"linear": 200, "other": 400} and saved.bytes == 600
    assert saved.tensors[0] == (200, "linear", "float32", (5, 10))
    y.sum().backward()  # the graph still works
    assert linear.weight.grad is not None
    with saved_tensors(linear) as saved:
        checkpoint(lambda x: linear(x).exp().exp(), x.clone().requires_grad_(), use_reentrant=False)
    assert saved.bytes <= 200  # what is computed again is not kept


def test_saved_bytes_by_block():
    model = timm.create_model("test_reactnet", num_classes=0)
    columns = {}
    for name, network in (("reference", ReferenceReActNet(model)), ("ours", model)):
        with saved_tensors(network, reactnet_blocks(network)) as saved:
            network(torch.randn(2, 3, 32, 32))
        columns[name] = saved.blocks
        assert set(saved.blocks) <= set(reactnet_blocks(network))
    for block, size in columns["ours"].items():
        assert size <= columns["reference"][block]
    lines = block_table(columns).splitlines()
    assert lines[0] == "| block | reference | ours |" and lines[-1].startswith("| all | ")


@pytest.mark.parametrize(("model", "side"), [("test_reactnet", 64), ("test_reactnet", 90), ("reactnet_a_025", 96)])
@pytest.mark.parametrize(("row", "value"), [("eager-fp32", 4), ("eager-bf16-cl", 2)])
def test_saved_bytes_by_count_are_those_by_measurement(model, side, row, value):
    """Of blocks that count bits and of the first one, which has too few channels; to the byte."""
    pytest.importorskip("numba")
    step = Step(ROWS[row], Setting(model, side, 3, "cpu", whole=False, teacher="test_resnet"))
    with saved_tensors(step.trained, reactnet_blocks(step.backbone.model)) as saved:
        step.loss()
    assert counted_blocks(step.backbone.model, 3, side, value) == saved.blocks


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_benchmark(tmp_path, capsys, whole):
    threads = torch.get_num_threads()
    out = tmp_path / "results" / "step.json"
    flags = ["--whole", "--teacher", "test_resnet", "--no-memory"] if whole else []
    names = ["reference", "eager-bf16-cl"]
    rows = main([*TINY, *flags, "--rows", *names, "--output", str(out), "--options", "--head-dim", "16"])
    assert torch.get_num_threads() == threads
    result = json.loads(out.read_text())
    usual = write_result(tmp_path / "a.json", task="", value=0, protocol={}, dataset={}, model="", checkpoint=None)
    assert usual.keys() < result.keys()
    assert result["command"].startswith("benchmarks/train_step.py --model test_reactnet")
    assert result["protocol"]["whole"] is whole and result["protocol"]["batch_size"] == 2
    assert result["extra"]["rows"] == rows and [row["row"] for row in rows] == names
    for row in rows:
        assert row["images_per_second"] == pytest.approx(2000 / row["ms"])
        assert len(row["ms_all"]) == 1 and 0 < row["utilisation"]
    assert rows[0]["ratio"] == 1 and rows[1]["ratio"] == pytest.approx(rows[0]["ms"] / rows[1]["ms"])
    multiplications = 2.5e5 if not whole else 0  # of test_reactnet's forward pass at 32 px, at the least
    assert result["extra"]["flops_per_image"] > 2 * 3 * multiplications
    assert result["value"] == max(row["ratio"] for row in rows)
    printed = capsys.readouterr().out
    assert "| reference style, fp32 |" in printed and ("| stages.3.0 |" in printed) is not whole
    if not whole:
        ours, theirs = rows[1]["memory"], rows[0]["memory"]
        assert ours["saved_bytes"] < theirs["saved_bytes"] == sum(theirs["saved_blocks"].values())
        if sys.platform == "linux":
            assert ours["peak_bytes"] >= ours["held_bytes"] and theirs["peak_bytes"] > 0


def test_bad_input_is_one_line(capsys):
    for bad, message in (
        (["--model", "reactnet_18", "--rows", "reference"], "ReActNet-A in one bit"),
        (["--options", "--opt", "no_such"], "no_such"),
        ([] if torch.cuda.is_available() else ["--device", "cuda"], "there is none"),
    ):
        if bad:
            with pytest.raises(SystemExit) as stopped:
                main([*TINY, "--no-memory", *bad])
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert stopped.value.code == 2 and error.startswith("train_step.py: error: ") and message in error
