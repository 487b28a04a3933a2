"""`python -m burn_timm SCRIPT.py ARGS`: any script sees the models; so do timm's, in the folder TIMM_SCRIPTS."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from burn_timm.__main__ import main

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
import timm
import neighbour  # beside this script

if __name__ == "__main__":
    assert timm.is_model(sys.argv[1])
    sys.exit(f"{neighbour.NAME} {sys.argv}")
"""


def test_a_script_sees_models_neighbours_and_its_own_words_and_ends_as_it_would(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m burn_timm"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour.py").write_text("NAME = 'here'")
    words = [str(tmp_path / "script.py"), "reactnet_a", "--help"]
    for wrong in ([], words):
        assert main(wrong) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "python -m burn_timm SCRIPT.py" in line and line.startswith("".join(wrong[:1]))
    (tmp_path / "script.py").write_text(SCRIPT)
    with pytest.raises(SystemExit, match=re.escape(f"here {words}")):
        main(words)


def run(*words, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", "burn_timm", *map(str, words)], capture_output=True, text=True, env=env, cwd=cwd)


@pytest.mark.slow
def test_timms_own_train_and_validate(tmp_path, digits):
    scripts = os.environ.get("TIMM_SCRIPTS")
    if not scripts:
        pytest.skip("TIMM_SCRIPTS is not set: the folder with timm's train.py and validate.py, from its repository")
    images, labels = digits
    for split in ("train", "validation"):
        for number in range(0 if split == "train" else 64, 64 if split == "train" else 96):
            folder = tmp_path / "data" / split / f"class_{labels[number]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    common = ["--model", "test_reactnet", "--num-classes", 10, "--img-size", 32, "-b", 16, "--workers", 0]
    data = tmp_path / "data"
    train = run(
        Path(scripts) / "train.py", "--data-dir", data, *common, "--epochs", 2, "--warmup-epochs", 0, "--lr", 1e-3,
        "--opt", "adam", "--output", tmp_path, "--experiment", "run", "--device", "cpu", cwd=tmp_path)
    assert train.returncode == 0, train.stderr[-3000:]
    with open(tmp_path / "run" / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    last = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=False)
    assert last["arch"] == "test_reactnet"
    validate = run(
        Path(scripts) / "validate.py", "--data-dir", data, *common, "--checkpoint", tmp_path / "run" / "last.pth.tar",
        "--device", "cpu", "--results-file", tmp_path / "results.csv", cwd=tmp_path)
    assert validate.returncode == 0, validate.stderr[-3000:]
    with open(tmp_path / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["top1"]) == pytest.approx(float(rows[-1]["eval_top1"]), abs=0.01)
