"""The benchmarks: the reference style is the same function as ours, and what is written can be trusted."""

import copy
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from reference_style import in_reference_style
from shard import main as pack_shard
from study import expanded
from train_step import main

import eval_downstream
from burn_timm.errors import BurnError
from burn_timm.training.options import parse_options

ROOT = Path(__file__).parents[1]
TINY = ["--model", "test_reactnet", "--img-size", "32", "--batch-size", "2", "--rounds", "1", "--runs", "1"]
TINY += ["--threads", "1", "--ceiling-size", "64"]


@pytest.mark.parametrize(("name", "img_size"), [("reactnet_a_025", 64), ("test_reactnet", 96)])
def test_the_reference_style_is_the_same_function_with_the_same_gradients(name, img_size):
    ours = timm.create_model(name, num_classes=0).double().train()
    with torch.no_grad():
        for parameter in ours.parameters():  # no two values alike, and some latent weights outside of [-1, 1]
            parameter.add_(0.3 * torch.randn_like(parameter))
    reference = in_reference_style(copy.deepcopy(ours))
    images = torch.randn(4, 3, img_size, img_size, dtype=torch.float64)
    expected, features = ours(images), reference(images)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (features * weights).sum().backward()
    clipped = 0
    for parameter, theirs in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, parameter.grad, atol=1e-4, rtol=1e-4)
        clipped += ((parameter.abs() > 1) & (parameter.grad == 0)).sum().item()
    assert clipped > 0
    for name, buffer in reference.named_buffers():
        if name.endswith(("mean", "var")):
            torch.testing.assert_close(buffer, ours.get_buffer(name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_benchmark(tmp_path, whole):
    threads = torch.get_num_threads()
    out = tmp_path / "results" / "step.json"
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
    if not whole:
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


@pytest.fixture
def photos(digits, tmp_path):
    """A folder of 20 photos of each of two classes."""
    for number, (image, label) in enumerate(zip(*digits, strict=True)):
        if label < 2 and number < 200:
            path = tmp_path / "photos" / str(int(label)) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "photos"


def test_a_shard_has_an_equal_share_of_each_class_and_fits(photos, tmp_path, capsys):
    shard = tmp_path / "new" / "photos.tar"
    count = pack_shard([str(photos), str(shard), "--megabytes", "0.02"])
    with tarfile.open(shard) as tar:
        classes = [Path(name).parent.name for name in tar.getnames()]
    assert len(classes) == count and classes.count("0") - classes.count("1") in (0, 1) and 6 < count < 30
    assert shard.stat().st_size < 20_000 + tarfile.RECORDSIZE
    with pytest.raises(SystemExit):
        pack_shard([str(tmp_path / "new"), str(shard)])
    assert "shard.py: error: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_gpu_script_dry(photos, tmp_path):
    """`benchmarks/gpu.sh --device cpu`: every part runs, and what should come back is there."""
    pack_shard([str(photos), str(tmp_path / "photos.tar")])
    own = {"OUT": str(tmp_path / "out"), "SHARD": str(tmp_path / "photos.tar"), "PYTHON": sys.executable}
    script = ROOT / "benchmarks" / "gpu.sh"
    done = subprocess.run(
        ["bash", str(script), "--device", "cpu"], env={**os.environ, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    waits = [json.loads(line) for line in (tmp_path / "out" / "data_wait.jsonl").read_text().splitlines()]
    assert [row["views_on"] for row in waits] == ["workers", "device"] and all(row["images_per_s"] > 0 for row in waits)
    with tarfile.open(tmp_path / "out" / "export.tar") as tar:
        assert {"export/model.safetensors", "export/config.json"} <= set(tar.getnames())
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"gpu.log", "step_32.json", "data_wait.jsonl", "log.jsonl", "summary.json", "export.tar"}


@pytest.mark.parametrize(("name", "steps"), [("moving_target", 3000), ("teacher_cache", 500)])
def test_the_rows_of_a_study_parse_and_have_equal_budgets(name, steps, monkeypatch):
    for variable in ("PHOTOS", "TEACHER", "BURN_DATA"):
        monkeypatch.setenv(variable, f"my_{variable}")
    study = yaml.safe_load((ROOT / "docs" / "experiments" / f"{name}.yaml").read_text())
    settings = {row: parse_options([*expanded(study, study["train"]), *expanded(study, words)])
                for row, words in study["rows"].items()}
    for row, options in settings.items():
        assert (len(options.stages) * options.max_steps, options.batch_size, options.img_size) == (steps, 128, 64), row
        assert options.data_dir == "my_PHOTOS" and options.teacher_checkpoint in ("my_TEACHER", ""), row
    if name == "moving_target":
        assert settings["fs_cosine"].lambda_T == 1 and settings["joint"].lambda_T == 0.7
    for words in study["evaluate"].values():
        eval_downstream._parser().parse_args([*expanded(study, words), "--model", "x", "--output", "y.json"])
    monkeypatch.delenv("TEACHER")
    with pytest.raises(BurnError, match="TEACHER is neither"):
        expanded(study, study["train"] + study["rows"].get("joint", ""))
