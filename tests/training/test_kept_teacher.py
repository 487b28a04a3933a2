"""A run with --cache-teacher is the run whose teacher is asked about the same views in every step."""

import pytest
import torch
from safetensors.torch import load_file

import train_burn
from burn_timm.methods.base import Method

from .runs import SHORT

LENGTH = ["--workers", "0", "--stages", "w32a1", "w1a1", "--max-steps", "12", "--val-split", "none", "--lambda-0", "1"]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def run(folder, *options: str) -> dict[str, torch.Tensor]:
    train_burn.main([*SHORT, *LENGTH, "--cache-dir", str(folder.parent / "cache"), *options, "--output", str(folder)])
    return load_file(folder / "latent.safetensors")


@pytest.mark.parametrize("count", ["1", "3"])
def test_equal_to_the_teacher_asked_live(tmp_path, monkeypatch, count):
    kept = run(tmp_path / "kept", "--cache-teacher", count)
    asked = []

    def live(self, batch, images):
        asked.append(batch["teacher"])
        return self.teacher(images).half().float()  # rounded as in the file

    monkeypatch.setattr(Method, "taught", live)
    expected = run(tmp_path / "live", "--cache-teacher", count)
    assert len(asked) == 24
    for name, tensor in expected.items():
        assert torch.equal(tensor, kept[name]), name


def test_resumed_equals_unbroken(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "--cache-teacher", "2")
    save, saved = train_burn.Checkpoint.save, []

    def save_and_stop(self, path):
        save(self, path)
        saved.append(self.step)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_burn.Checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", "--cache-teacher", "2", "--checkpoint-steps", "5")
    assert saved == [5, 10, 0]
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    resumed = run(tmp_path / "broken", "--cache-teacher", "2", "--checkpoint-steps", "5", "--resume", "auto")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.parametrize(("options", "said"), [
    (["--views", "cross"], "several views"), (["--views-on", "device"], "--views-on workers"),
])
def test_refused(tmp_path, options, said, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "run", "--cache-teacher", "2", *options)
    assert said in capsys.readouterr().err
