"""Tables and figures: what stands in which cell, and the moving average of Eq. 5 in slow loops."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

import eval_downstream
from burn_timm.errors import BurnError
from burn_timm.evals import figures, tables
from burn_timm.evals.paper import TABLES, row_name

SHARED = Path(__file__).parents[2] / "results"


def result(task, value, method="burn", seed=0, dataset="hfds/x/cifar10", of=(50_000, 10_000), extra=None, protocol=None,
           trained_on="folder imagenet [train], 1,281,167 images, 1000 classes", model="reactnet_a", **settings):
    return {
        "task": task, "value": value, "model": "local-dir:export", "checkpoint": None,
        "protocol": {"weights": "checkpoint x", "seed": 0, "probe": "linear classifier",
                     "views": "random resized crop", **(protocol or {})},
        "dataset": {"name": dataset, "description": dataset,
                    "train": {"images": of[0], "of": of[0]}, "test": {"images": of[1], "of": of[1]}},
        "extra": extra or {},
        "training": {"method": method, "model": model, "stages": ["w32a1", "w1a1"], "img_size": 224, "epochs": 200,
                     "seed": seed, "dataset": trained_on, "train_seconds": 600, "peak_memory_bytes": 2e9,
                     "settings": settings},
    }


def rows(text):
    """Cells of a Markdown table by the first one."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_seeds_become_mean_and_deviation():
    found = rows(tables.paper_table(2, [
        result("linear", 0.50, seed=0), result("linear", 0.53, seed=1), result("linear", 0.40, method="byol"),
        result("finetune", 0.30, protocol={"fraction": 0.01}, extra={"top5": 0.6}),
        result("finetune", 0.35, protocol={"fraction": 0.1}, extra={"top5": 0.7}),
        result("knn", 0.99),
    ]))
    cells = found["BURN (reactnet_a, 224 px, 200 epochs a stage)"]
    assert cells == ["51.50 ± 2.12", "30.00", "60.00", "35.00", "70.00"]
    assert found["BYOL (reactnet_a, 224 px, 200 epochs a stage)"] == ["40.00", "", "", "", ""]
    assert len(found) == 4  # heading and rule, no row of the paper's: CIFAR-10 is not its data


def test_the_papers_figures_stand_beside_ours_where_the_protocol_is_the_same():
    same = result("linear", 0.6, dataset="folder imagenet", of=(1_281_167, 50_000))
    found = rows(tables.paper_table(2, [same]))
    assert found["BURN, the paper's figures"] == ["62.29", "39.75", "67.13", "49.96", "75.52"]
    assert found["BURN (reactnet_a, 224 px, 200 epochs a stage)"][0] == "60.00"
    for other in (
        {**same, "training": {**same["training"], "model": "reactnet_a_025"}},
        {**same, "training": {**same["training"], "dataset": "digits, 1,437 images"}},
        result("linear", 0.6, dataset="folder imagenet", of=(100_000, 50_000)),
        {**same, "protocol": {**same["protocol"], "views": "centre crop"}},  # cached features
        {**same, "training": {**same["training"], "img_size": 64}},
        {**same, "protocol": {**same["protocol"], "probe": "MLP"}},
        {**same, "dataset": {**same["dataset"], "test": {"images": 100, "of": 50_000}}},
    ):
        assert not any("paper" in name for name in rows(tables.paper_table(2, [other])))
    assert "BURN, the paper's figures" in rows(tables.paper_table(2, [result("linear", 0.5)], always=True))
    assert tables.paper_table(1, [result("linear", 0.5)]) == ""


def test_transfer_puts_each_set_in_its_column():
    found = rows(tables.paper_table(4, [
        result("transfer", 0.8, dataset="torch/cifar10"), result("transfer", 0.6, dataset="hfds//data/cifar100"),
        result("transfer", 0.5, dataset="cub", of=(5_994, 5_794)), result("transfer", 0.4, dataset="places205"),
    ]))
    assert found["BURN (reactnet_a, 224 px, 200 epochs a stage)"] == ["80.00", "60.00", "50.00", "", "40.00"]
    assert found["BURN, the paper's figures"][3] == "34.48"


def test_svm_and_ablations():
    low = {"1": {"mean": 0.2, "std": 0.01}, "2": {"mean": 0.3, "std": 0.025}, "4": "n/a"}
    (name, cells), = [row for row in rows(tables.paper_table(3, [
        result("svm", 0.7, extra={"full": 0.7, "low_shot": low})])).items() if row[0].startswith("BURN")]
    assert cells[:4] == ["20.00 ± 1.00", "30.00 ± 2.50", "n/a", ""] and cells[-1] == "70.00"
    two = [result("svm", 0.7, seed=seed, extra={"low_shot": {"1": {"mean": 0.2 + 0.1 * seed, "std": 0.01}}})
           for seed in (0, 1)]
    assert "25.00 ± 7.07" in tables.paper_table(3, two)  # of the networks, not of their draws
    found = rows(tables.paper_table(6, [
        result("linear", 0.5, fs_loss="l2"), result("linear", 0.6), result("linear", 0.9, method="byol")]))
    assert {name.split(" (")[0] for name in found if name.startswith("BURN")} == {"BURN", "BURN, L_FS l2"}


@pytest.mark.parametrize(("settings", "name"), [
    ({}, "BURN"), ({"lambda_0": 1, "lambda_T": 1}, "BURN, L_FS alone"),
    ({"lambda_0": 0, "lambda_T": 0}, "BURN, KL alone"),
    ({"lambda_schedule": "step"}, "BURN, step lambda"), ({"fs_loss": "l1"}, "BURN, L_FS l1"),
    ({"information_weight": 0.5}, "BURN, information term 0.5"),
    ({"target_head": "frozen"}, "BURN, frozen target head"),
])
def test_rows_of_burn_are_named_by_what_differs(settings, name):
    assert row_name({"method": "burn", "stages": ["w32a1", "w1a1"], "settings": settings}) == name
    one = row_name({"method": "burn", "stages": ["w1a1"], "settings": settings})
    assert one == f"{name}, one stage"


def test_the_papers_numbers_are_whole():
    for number, table in TABLES.items():
        assert all(len(figures) == len(table.columns) for figures in table.rows.values()), number
        values = [float(str(figure).split()[0]) for figures in table.rows.values() for figure in figures]
        assert all(20 < value < 90 for value in values)
    # Its abstract and text: +13.04 over BYOL, +3.67 and +3.98 over S2-BNN at 1 and 10 %.
    linear = {name: figures for name, figures in TABLES[2].rows.items()}
    assert linear["BURN"][0] - linear["BYOL"][0] == pytest.approx(13.04)
    assert linear["BURN"][1] - linear["S2-BNN"][1] == pytest.approx(3.67)
    assert linear["BURN"][3] - linear["S2-BNN"][3] == pytest.approx(3.98)


def test_the_comparison_is_ordered_and_says_what_training_cost():
    text = tables.comparison_table([
        result("knn", 0.4), result("linear", 0.5), result("knn", 0.6, method="byol"),
        result("linear", 0.7, method="byol"), result("linear", 0.9, method="byol", seed=1),
    ])
    names = [name.split(" (")[0] for name in rows(text)][2:]
    assert names == ["BYOL", "BURN"]
    assert rows(text)["BYOL (reactnet_a, 224 px, 200 epochs a stage)"] == ["60.00", "80.00 ± 14.14", "2", "10.0", "2.0"]


def test_table_from_files(tmp_path, capsys):
    files = []
    for number, content in enumerate((result("linear", 0.5), {"model": "a training summary"})):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    eval_downstream.main(["table", *map(str, files)])
    printed = capsys.readouterr().out
    assert "Table 2" in printed and "Table 5" in printed and "50.00" in printed and "Table 1" not in printed
    eval_downstream.main(["table", *map(str, files), "--number", "2", "--output", str(tmp_path / "t.md")])
    assert (tmp_path / "t.md").read_text().startswith("## Table 2")
    (tmp_path / "broken.json").write_text("{")
    for argv, message in (
        ([str(files[1])], "no results among the files"), ([str(tmp_path / "broken.json")], "broken.json: not a JSON"),
        ([str(files[0]), "--number", "1"], "no figure for these tables"),
    ):
        with pytest.raises(SystemExit) as stopped:
            eval_downstream.main(["table", *argv])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1


def test_the_repositorys_own_results_make_a_table(capsys):
    eval_downstream.main(["table", *map(str, sorted(SHARED.glob("*.json")))])
    assert "raw pixels" in capsys.readouterr().out


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
            if not binary:
                return vector
            scale = sum(abs(value) for value in vector) / len(vector)
            return [scale if value >= 0 else -scale for value in vector]

        expected.append([math.dist(used(backbone[run]), used(target[run])) for run in range(2)])
    assert figures.ema_distances(binary, runs=2, iterations=4, seed=3).T == pytest.approx(np.array(expected))


def test_pictures(tmp_path, capsys):
    runs = []
    for name, fs_loss in (("a", "cosine"), ("b", "l1")):
        folder = tmp_path / name
        folder.mkdir()
        random.seed(0)
        lines = [{"step": step, "stage": "w1a1", "grad_norm_student": random.random() + 0.1,
                  "grad_norm_student_head": random.random() + 0.1} for step in range(1, 20)]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "summary.json").write_text(json.dumps({
            "method": "burn", "model": "reactnet_a", "stages": ["w32a1", "w1a1"], "settings": {"fs_loss": fs_loss}}))
        runs.append(str(folder))
    assert list(figures.run_names(runs).values()) == ["BURN", "BURN, L_FS l1"]
    file = tmp_path / "r.json"
    file.write_text(json.dumps(result("linear", 0.5)))
    eval_downstream.main(["figures", "--output", str(tmp_path / "f"), "--runs", *runs, "--results", str(file)])
    pictures = sorted(path.name for path in (tmp_path / "f").iterdir())
    assert pictures == ["fig3_6_gradient_norms.png", "fig4_training_time.png", "fig5_moving_average.png"]
    assert all((tmp_path / "f" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for name in pictures)
    assert capsys.readouterr().out.count("wrote") == 3
    with pytest.raises(BurnError, match="no log.jsonl"):
        figures.draw_gradients([str(tmp_path)], tmp_path / "x.png")
    with pytest.raises(BurnError, match="no Fig. 4"):
        figures.draw_times([result("knn", 0.5)], tmp_path / "x.png")


def test_detection_has_its_table():
    sets = {"train": [{"split": "2007:trainval", "images": 5011}, {"split": "2012:trainval", "images": 11_540}],
            "test": {"split": "2007:test", "images": 4952}}
    figures_of = {"test": {"voc": {"map": 0.4, "ap50": 0.7, "ap75": 0.3}}}
    published = {"neck": "c4", "iterations": 24_000, "milestones": [18_000, 22_000], "batch_size": 16, "lr": 0.02}
    found = result("detection", 0.4, extra=figures_of, protocol=published)
    found["dataset"] = {"name": "Pascal VOC layout", **sets}
    text = tables.paper_table(1, [found])
    assert "2007:trainval, 5,011 images + 2012:trainval, 11,540 images; test 2007:test, 4,952 images" in text
    assert rows(text)["BURN (reactnet_a, 224 px, 200 epochs a stage)"] == ["40.00", "70.00", "30.00"]
    assert rows(text)["BURN, the paper's figures"] == ["41.00", "70.91", "41.45"]
    for other in ({"neck": "fpn"}, {"iterations": 6_000}, {"batch_size": 4}):
        shorter = {**found, "protocol": {**found["protocol"], **other}}
        assert not any("paper" in name for name in rows(tables.paper_table(1, [shorter])))
        (key, value), = other.items()
        both = rows(tables.paper_table(1, [found, shorter]))
        assert f"BURN (reactnet_a, 224 px, 200 epochs a stage) [{key} {value}]" in both
    sets["train"].pop()
    assert not any("paper" in name for name in rows(tables.paper_table(1, [found])))


def test_other_protocols_are_other_rows():
    name = "BURN (reactnet_a, 224 px, 200 epochs a stage)"
    mlp = {"method": "MLP probe", "probe": "MLP"}
    lbfgs = {"method": "logistic regression", "probe": None}
    figures_by = (({"method": "linear probe"}, (0.5, 0.52)), (mlp, (0.6,)), (lbfgs, (0.55,)))
    results = [result("linear", value, seed=seed, protocol=protocol)
               for protocol, values in figures_by for seed, value in enumerate(values)]
    for text in (tables.paper_table(2, results), tables.comparison_table(results)):
        found = rows(text)
        assert found[f"{name} [method MLP probe; probe MLP]"][0 if "Table" in text else 1] == "60.00"
        assert "51.00 ± 1.41" in found[f"{name} [method linear probe; probe linear classifier]"]
        assert "55.00" in found[f"{name} [method logistic regression; probe null]"]
    limited = result("knn", 0.4)
    limited["dataset"]["test"]["images"] = 100
    assert len(rows(tables.comparison_table([result("knn", 0.5, seed=1), limited]))) == 4
    for other in ({"classifier": "lbfgs", "probe": None}, mlp):
        text = tables.paper_table(4, [result("transfer", 0.8, dataset="torch/cifar10", protocol=other)])
        assert "paper's figures" not in text
    partial = tables.paper_table(4, [result("transfer", 0.3, dataset="birdsnap", of=(40_000, 2_000))])
    assert "paper's figures" not in partial


def test_a_fine_tuning_from_latent_weights_has_its_own_row():
    starts = {"packed": {"top1": 0.3, "top5": 0.6}, "latent": {"top1": 0.4, "top5": 0.7}}
    grid = {"fraction": 0.01, "lrs": [0.1, 0.01, 0.001], "head_multipliers": [1, 10, 100]}
    tuned = result("finetune", 0.3, of=(1_281_167, 50_000), protocol=grid, extra={"top5": 0.6, "starts": starts})
    found = rows(tables.paper_table(2, [tuned]))
    assert found["BURN (reactnet_a, 224 px, 200 epochs a stage)"][1:3] == ["30.00", "60.00"]
    assert found["BURN (reactnet_a, 224 px, 200 epochs a stage), from latent weights"][1:3] == ["40.00", "70.00"]
    assert "BURN, the paper's figures" in found
    tuned["protocol"]["lrs"] = [0.1]
    assert "paper's figures" not in tables.paper_table(2, [tuned])
