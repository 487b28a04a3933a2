"""The paper's figures: the moving average of Eq. 5 in slow loops, and that every picture is drawn."""

import json
import math
import random

import numpy as np
import pytest
from matplotlib.figure import Figure

import eval_downstream
from burn_timm.errors import BurnError
from burn_timm.evals import figures

LINEAR = {
    "name": "burn_s0_linear",
    "task": "linear", "value": 0.5, "model": "local-dir:export", "protocol": {}, "dataset": {"name": "digits"},
    "training": {"method": "burn", "model": "reactnet_a", "epochs": 200, "seed": 0, "train_seconds": 600},
}


@pytest.mark.parametrize("binary", [False, True])
def test_moving_average_is_equation_5(binary):
    rng = np.random.default_rng(3)
    backbone = rng.standard_normal((2, 100)).tolist()
    target = [row[:] for row in backbone]
    expected = []
    for _ in range(4):
        noise = rng.standard_normal((2, 100))
        for run in range(2):
            for index in range(100):
                backbone[run][index] += 4.8 * noise[run][index]
                target[run][index] = 0.99 * target[run][index] + 0.01 * backbone[run][index]

        def used(vector):
            scale = sum(abs(value) for value in vector) / len(vector)
            return [scale if value >= 0 else -scale for value in vector] if binary else vector

        expected.append([math.dist(used(backbone[run]), used(target[run])) for run in range(2)])
    assert figures.ema_distances(binary, runs=2, iterations=4, seed=3).T == pytest.approx(np.array(expected))


def run_folder(folder, fs_loss, **watched):
    folder.mkdir()
    draw = random.Random(0)
    lines = [{"step": step, "grad_norm_student": draw.random() + 0.1, "grad_norm_student_head": draw.random() + 0.1,
              **watched} for step in range(1, 20)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({
        "method": "burn", "model": "reactnet_a", "stages": ["w32a1", "w1a1"], "settings": {"fs_loss": fs_loss}}))
    return str(folder)


def test_pictures(tmp_path, capsys):
    (tmp_path / "b").mkdir()
    runs = [run_folder(tmp_path / "a", "cosine"), run_folder(tmp_path / "b/a", "cosine"),
            run_folder(tmp_path / "c", "cosine", target_information=1.0, knn=0.3, linear=0.4)]
    (tmp_path / "r.json").write_text(json.dumps(LINEAR))
    out = tmp_path / "f"
    eval_downstream.main(["figures", "--output", str(out), "--results", str(tmp_path / "r.json"), "--runs", *runs])
    pictures = ["fig3_6_gradient_norms.png", "fig4_training_time.png", "fig5_moving_average.png", "targets.png"]
    assert sorted(path.name for path in out.iterdir()) == pictures
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in out.iterdir())
    assert capsys.readouterr().out.count("wrote") == 4
    assert len(figures._logs(runs)) == 3  # two of one method and one name
    unwatched = {"a": [{"step": 1, "grad_norm_student": 0.5}]}
    assert not figures.draw_runs(out / "none.png", unwatched, figures.TARGETS) and not (out / "none.png").exists()


def test_a_point_is_the_mean_over_seeds_of_one_data_set(tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
    other = {**LINEAR, "name": "burn_s0_linear_cifar10", "value": 0.9, "dataset": {"name": "torch/cifar10"}}
    seeds = [LINEAR, {**LINEAR, "name": "burn_s1_linear", "value": 0.7}, other]
    figures.draw_times(tmp_path / "x.png", seeds)
    points = [collection.get_offsets().tolist()[0] for collection in drawn[0].axes[0].collections]
    assert sorted(points) == [pytest.approx([1 / 6, 60]), pytest.approx([1 / 6, 90])]


def test_figures_without_material_are_one_clear_line(tmp_path):
    with pytest.raises(BurnError, match="no log.jsonl"):
        figures.draw_all(tmp_path, [str(tmp_path)], [])
    with pytest.raises(BurnError, match="no Fig. 4"):
        figures.draw_times(tmp_path / "x.png", [{**LINEAR, "task": "knn"}])
