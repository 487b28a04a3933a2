"""Tables and figures: what stands in which cell, and the moving average of Eq. 5 in slow loops."""

import argparse
import copy
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval_downstream
from burn_timm.errors import BurnError
from burn_timm.evals import figures, finetune, knn, linear, published, svm, tables, transfer
from burn_timm.evals.detection import options as detection
from burn_timm.evals.paper import TABLES, row_name

SHARED = Path(__file__).parents[2] / "results"


BURN = "BURN (reactnet_a, 224 px, 200 epochs a stage)"


def as_published(task, dataset=""):
    """The protocol that a task states when it is run as published."""
    if task == "finetune":
        parser = argparse.ArgumentParser()
        finetune.add_options(parser)
        args = parser.parse_args(["--subset-list", "1percent.txt"])
        stated = finetune.protocol(args, "12811 images of the list 1percent.txt", 12_811, 1_281_167)
    elif task == "detection":
        parser = argparse.ArgumentParser()
        detection.add_options(parser)
        stated = detection.protocol(argparse.Namespace(seed=0, **vars(parser.parse_args([]))))
    elif task == "linear":
        stated = linear.Settings(augment=True, standardize=False).protocol()
    elif task == "transfer":
        settings = transfer.preset(dataset)
        stated = linear.Settings(**settings, standardize=not settings.get("augment", False)).protocol()
    else:
        stated = {"knn": knn, "svm": svm}[task].Settings().protocol()
    size = {"squash_to": [224, 224]} if task == "svm" else {"input_size": [3, 224, 224]}
    return stated if task == "detection" else {**stated, "transform": size}


def result(task, value, method="burn", seed=0, dataset="hfds/x/cifar10", of=(50_000, 10_000), extra=None, protocol=None,
           trained_on="folder imagenet [train], 1,281,167 images, 1000 classes", model="reactnet_a", **settings):
    return {
        "task": task, "value": value, "model": "local-dir:export", "checkpoint": None,
        "protocol": {**as_published(task, dataset), "weights": "checkpoint x", "seed": 0, **(protocol or {})},
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
        {**same, "dataset": {**same["dataset"], "test": {"images": 100, "of": 50_000}}},
    ):
        assert not any("paper" in name for name in rows(tables.paper_table(2, [other])))
    assert "BURN, the paper's figures" in rows(tables.paper_table(2, [result("linear", 0.5)], always=True))
    assert tables.paper_table(1, [result("linear", 0.5)]) == ""


def test_transfer_puts_each_set_in_its_column():
    found = rows(tables.paper_table(4, [
        result("transfer", 0.8, dataset="torch/cifar10"), result("transfer", 0.6, dataset="hfds//data/cifar100"),
        result("transfer", 0.5, dataset="cub", of=(5_994, 5_794)),
        result("transfer", 0.4, dataset="places205", of=(2_448_873, 20_500)),
    ]))
    assert found["BURN (reactnet_a, 224 px, 200 epochs a stage)"] == ["80.00", "60.00", "50.00", "", "40.00"]
    assert found["BURN, the paper's figures"][3] == "34.48"


def test_svm_and_ablations():
    low = {"1": {"mean": 0.2, "std": 0.04}, "2": {"mean": 0.3, "std": 0.01}, "4": "n/a"}
    (name, cells), = [row for row in rows(tables.paper_table(3, [
        result("svm", 0.7, extra={"full": 0.7, "low_shot": low})])).items() if row[0].startswith("BURN")]
    assert cells == ["20.00 ± 4.00", "30.00 ± 1.00", "n/a", "", "", "", "", "", "70.00"]
    other = {"1": {"mean": 0.3, "std": 0.04}, "4": "n/a"}
    cells = rows(tables.paper_table(3, [
        result("svm", 0.3, extra={"full": "n/a", "low_shot": low}),
        result("svm", 0.3, extra={"full": "n/a", "low_shot": other}, seed=1)]))[BURN]
    assert cells == ["25.00 ± 7.07", "30.00 ± 1.00", "n/a", "", "", "", "", "", "n/a"]
    found = rows(tables.paper_table(6, [
        result("linear", 0.5, fs_loss="l2"), result("linear", 0.6), result("linear", 0.9, method="byol")]))
    assert {name.split(" (")[0] for name in found if name.startswith("BURN")} == {"BURN", "BURN, L_FS l2"}


@pytest.mark.parametrize(("settings", "name"), [
    ({}, "BURN"), ({"lambda_0": 1, "lambda_T": 1}, "BURN, L_FS alone"),
    ({"lambda_0": 0, "lambda_T": 0}, "BURN, KL alone"),
    ({"lambda_schedule": "step"}, "BURN, step lambda"), ({"fs_loss": "l1"}, "BURN, L_FS l1"),
    ({"information_weight": 0.5}, "BURN, information term 0.5"),
    ({"target_head": "frozen"}, "BURN, frozen target head"), ({"fs_center": True}, "BURN, L_FS centred"),
    ({"fs_loss": "relations", "fs_temperature": 0.2}, "BURN, L_FS relations 0.2"),
    ({"fs_loss": "cosine+relations", "fs_temperature": 0.2}, "BURN, L_FS cosine+relations 0.2"),
    ({"fs_loss": "assignment", "fs_temperature": 0.2, "adapter": "mlp"}, "BURN, L_FS assignment 0.2, MLP adapter"),
    ({"kl_direction": "target-student"}, "BURN, KL(target || student)"),
    ({"temperature": 1.0, "target_temperature": 0.4, "center_momentum": 0.9},
     "BURN, centred target 0.9, target temperature 0.4"),
    ({"temperature": 0.2, "target_temperature": 0.2, "center_momentum": 1.0, "fs_center": False}, "BURN"),
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


def test_probes_of_one_network_are_no_seeds_of_each_other():
    several = [result("linear", 0.5), result("linear", 0.55, protocol=linear.Settings(probe="mlp").protocol()),
               {**result("linear", 0.6), "protocol": {**linear.Settings(classifier="lbfgs").protocol(), "seed": 0}}]
    for found in (rows(tables.paper_table(2, several)), rows(tables.comparison_table(several))):
        column = 1 if found[""][0] == "kNN" else 0
        assert [found[BURN + head][column] for head in ("", ", MLP probe", ", L-BFGS")] == ["50.00", "55.00", "60.00"]
    found = rows(tables.paper_table(1, [
        result("detection", 0.4, protocol={"neck": neck}, extra={"test": {"voc": {"map": 0.4}}}) | {
            "dataset": {"name": "VOC", "train": [{"split": "x", "images": 1}], "test": {"split": "x", "images": 1}}}
        for neck in ("c4", "fpn")]))
    assert found[BURN][0] == found[f"{BURN}, FPN"][0] == "40.00"


@pytest.mark.parametrize(("changes", "names"), [
    ({"protocol": {"epochs": 20}}, ["epochs 100", "epochs 20"]),
    ({"protocol": {"engine": {"name": "openvino, 1-bit kernels", "version": "2026.4"}}},
     ["engine none", "engine openvino, 1-bit kernels"]),
    ({"protocol": {"transform": {"input_size": [3, 224, 224], "crop_pct": 0.9}}},
     ["crop pct none", "crop pct 0.9"]),
    ({"of": (50_000, 2_000)}, ["test images 10000", "test images 2000"]),
    ({"protocol": {"calibrated_batchnorm": {"images": 64}}},
     ["calibrated batchnorm images none", "calibrated batchnorm images 64"]),
])
def test_one_row_holds_one_protocol(changes, names):
    several = [result("linear", 0.5), result("linear", 0.6, seed=1), result("linear", 0.3, **changes)]
    for found in (rows(tables.paper_table(2, several)), rows(tables.comparison_table(several))):
        column = 1 if found[""][0] == "kNN" else 0
        ours = {name: row[column] for name, row in found.items() if name.startswith("BURN (")}
        assert ours == {f"{BURN} [{names[0]}]": "55.00 ± 7.07", f"{BURN} [{names[1]}]": "30.00"}


def test_what_older_results_leave_unsaid_or_spell_otherwise_makes_no_row():
    new = result("linear", 0.5, protocol=linear.Settings().protocol())
    old = copy.deepcopy(result("linear", 0.6, seed=1, protocol=linear.Settings().protocol()))
    old["protocol"]["lr_schedule"] = "x0.1 at 60 % and 80 % of the epochs"
    del old["protocol"]["views"], old["protocol"]["probe"]
    assert rows(tables.paper_table(2, [new, old]))[BURN][0] == "55.00 ± 7.07"
    old = copy.deepcopy(result("linear", 0.6, seed=1))
    old["protocol"]["views"] = "random resized crop (0.08 to 1), mirror image"
    assert rows(tables.paper_table(2, [result("linear", 0.5), old]))[BURN][0] == "55.00 ± 7.07"
    skipped, trained = (
        result("detection", value, protocol={"difficult": word}, extra={"test": {"voc": {"map": value}}}) | {
            "dataset": {"name": "VOC", "train": [{"split": "x", "images": 1}], "test": {"split": "x", "images": 1}}}
        for value, word in ((0.4, "skip"), (0.5, "train")))
    found = rows(tables.paper_table(1, [skipped, trained]))
    assert found[f"{BURN} [difficult skip]"][0] == "40.00" and found[f"{BURN} [difficult train]"][0] == "50.00"


def test_every_start_of_fine_tuning_has_a_row():
    starts = {"packed": {"top1": 0.3, "top5": 0.6}, "latent": {"top1": 0.4, "top5": 0.7}}
    found = rows(tables.paper_table(2, [
        result("finetune", value, seed=seed, protocol={"fraction": 0.01},
               extra={"top5": 0.6, "starts": {**starts, "latent": {"top1": value + 0.1, "top5": 0.7}}})
        for seed, value in enumerate((0.3, 0.32))]))
    assert found[BURN][1:3] == ["31.00 ± 1.41", "60.00 ± 0.00"]
    assert found[f"{BURN}, from latent weights"][1:3] == ["41.00 ± 1.41", "70.00 ± 0.00"]


def test_one_seed_counts_once_and_other_weights_of_a_seed_are_another_row():
    again = [result("linear", 0.5), result("linear", 0.52), result("linear", 0.6, seed=1)]
    found = rows(tables.comparison_table(again))
    assert found[BURN][1:3] == ["55.50 ± 6.36", "2"]
    assert rows(tables.paper_table(2, again))[BURN][0] == "55.50 ± 6.36"
    for number, digest in enumerate(("a" * 64, "b" * 64)):
        again[number]["checkpoint"] = {"path": "x", "sha256": digest}
    found = rows(tables.comparison_table(again[:2]))
    assert found[f"{BURN} [weights aaaaaaaa]"][1] == "50.00" and found[f"{BURN} [weights bbbbbbbb]"][1] == "52.00"


PLACES = {"dataset": "places205", "of": (2_448_873, 20_500)}
IMAGENET = {"dataset": "folder imagenet", "of": (1_281_167, 50_000)}


@pytest.mark.parametrize(("number", "task", "data", "unlike"), [
    (2, "linear", IMAGENET, linear.Settings(augment=True, standardize=False, probe="mlp").protocol()),
    (2, "linear", IMAGENET, {"epochs": 90}),
    (2, "linear", IMAGENET, {"lr_schedule": "constant"}),
    (2, "linear", IMAGENET, {"transform": {"input_size": [3, 64, 64]}}),
    (2, "finetune", IMAGENET, {"labels": "12811 images, 1.000% of each class, seed 0"}),
    (2, "finetune", IMAGENET, {"lrs": [0.1]}),
    (3, "svm", {"dataset": "voc07", "of": (5_011, 4_952)}, {"transform": {"input_size": [3, 224, 224]}}),
    (3, "svm", {"dataset": "voc07", "of": (5_011, 4_952)}, {"costs": [1.0]}),
    (4, "transfer", {"dataset": "torch/cifar10"}, {"method": "L-BFGS", "optimizer": None, "probe": None}),
    (4, "transfer", {"dataset": "torch/cifar10"}, linear.Settings(probe="mlp").protocol()),
    (4, "transfer", PLACES, {"views": "centre crop"}),
    (4, "transfer", PLACES, {"lrs": [0.1]}),
    (4, "transfer", {"dataset": "birdsnap", "of": (40_000, 2_000)}, None),
    (4, "transfer", {"dataset": "cub", "of": (5_000, 5_794)}, None),
    (1, "detection", None, {"neck": "fpn"}),
    (1, "detection", None, {"iterations": 12_000}),
    (1, "detection", None, {"difficult": "skip"}),
    (1, "detection", None, {"test": {"min_size": 600}}),
])
def test_what_is_not_the_published_protocol_does_not_stand_beside_it(number, task, data, unlike):
    found = result(task, 0.5, **(data or {}))
    if task == "detection":
        found["dataset"] = {"train": [{"images": 5_011}, {"images": 11_540}], "test": {"images": 4_952}}
    assert published.same_protocol(number, found) == (unlike is not None)
    found["protocol"] |= unlike or {}
    assert not published.same_protocol(number, found)


def test_a_column_of_other_measurements_has_no_figures_of_the_paper():
    found = rows(tables.paper_table(4, [
        result("transfer", 0.8, dataset="torch/cifar10"),
        result("transfer", 0.7, dataset="torch/cifar100", protocol=linear.Settings(probe="mlp").protocol())]))
    assert found["BURN, the paper's figures"] == ["84.60", "", "49.62", "34.48", "47.22"]


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


def test_pictures(tmp_path, capsys, monkeypatch):
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
    log = Path(runs[0]) / "log.jsonl"  # one run of the two may know its target and its student's accuracy
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    watched = {"target_information": 1.0, "knn": 0.3, "linear": 0.4}
    log.write_text("".join(json.dumps({**line, **watched}) + "\n" for line in lines))
    assert figures.draw_targets(runs, tmp_path / "f" / "targets.png") is True
    assert figures.draw_targets(runs[1:], tmp_path / "f" / "none.png") is False
    assert (tmp_path / "f" / "targets.png").stat().st_size > 10_000 and not (tmp_path / "f" / "none.png").exists()
    assert "targets.png" in figures.draw_all(tmp_path / "g", runs, [])
    log.write_text("".join(json.dumps({**line, "target_information": 1.0}) + "\n" for line in lines))
    monkeypatch.setattr(figures, "run_names", lambda runs: {run: f"{'a long name ' * 12}{run[-1]}" for run in runs})
    figures.draw_targets(runs, tmp_path / "f" / "wide.png")
    assert Image.open(tmp_path / "f" / "wide.png").width > 700  # one panel has 572 pixels; the legend is not cut
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
    found = result("detection", 0.4, extra=figures_of)
    found["dataset"] = {"name": "Pascal VOC layout", **sets}
    text = tables.paper_table(1, [found])
    assert "2007:trainval, 5,011 images + 2012:trainval, 11,540 images; test 2007:test, 4,952 images" in text
    assert rows(text)["BURN (reactnet_a, 224 px, 200 epochs a stage)"] == ["40.00", "70.00", "30.00"]
    assert rows(text)["BURN, the paper's figures"] == ["41.00", "70.91", "41.45"]
    sets["train"].pop()
    assert not any("paper" in name for name in rows(tables.paper_table(1, [found])))
