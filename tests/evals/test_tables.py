"""The paper's tables: what stands in which cell, and beside which results the paper's figures may stand."""

import argparse
import json

import pytest

import eval_downstream
from burn_timm.evals import finetune, knn, linear, svm, tables, transfer
from burn_timm.evals.detection import task as detection
from burn_timm.evals.paper import same_protocol

BURN = "BURN (reactnet_a, 224 px, 200 epochs a stage)"


PLACES = {"dataset": "places205", "of": (2_448_873, 20_500)}
VOC07 = {"dataset": "voc07", "of": (5_011, 4_952)}
IMAGENET = {"dataset": "folder imagenet", "of": (1_281_167, 50_000)}


def protocol(task, **settings):
    """What a task on frozen features states with these settings."""
    return {"knn": knn, "linear": linear, "svm": svm, "transfer": linear}[task].Settings(**settings).protocol()


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
        stated = detection._protocol(argparse.Namespace(seed=0, **vars(parser.parse_args([]))))
    elif task == "linear":
        stated = protocol("linear", augment=True, standardize=False)
    elif task == "transfer":
        settings = transfer.preset(dataset)
        stated = protocol("transfer", **settings, standardize=not settings.get("augment", False))
    else:
        stated = protocol(task)
    size = {"squash_to": [224, 224], "resize_shorter_side": 256} if task == "svm" else {"input_size": [3, 224, 224]}
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
    cells = found[BURN]
    assert cells == ["51.50 ± 2.12", "30.00", "60.00", "35.00", "70.00"]
    assert found["BYOL (reactnet_a, 224 px, 200 epochs a stage)"] == ["40.00", "", "", "", ""]
    assert len(found) == 4  # heading and rule, no row of the paper's: CIFAR-10 is not its data


@pytest.mark.parametrize("changes", [
    {"training": {"model": "reactnet_a_025"}}, {"training": {"dataset": "digits, 1,437 images"}},
    {"training": {"img_size": 64}}, {"protocol": {"views": "centre crop"}},
    {"dataset": {"train": {"images": 100_000, "of": 100_000}}}, {"dataset": {"test": {"images": 100, "of": 50_000}}},
], ids=str)
def test_the_papers_figures_stand_beside_ours_where_the_protocol_is_the_same(changes):
    same = result("linear", 0.6, **IMAGENET)
    found = rows(tables.paper_table(2, [same]))
    assert found["BURN, the paper's figures"] == ["62.29", "39.75", "67.13", "49.96", "75.52"]
    assert found[BURN][0] == "60.00"
    other = {**same, **{name: {**same[name], **changed} for name, changed in changes.items()}}
    assert not any("paper" in name for name in rows(tables.paper_table(2, [other])))


def test_svm_has_a_figure_for_each_number_of_shots():
    low = {"1": {"mean": 0.2, "std": 0.04}, "2": {"mean": 0.3, "std": 0.01}, "4": "n/a"}
    found = rows(tables.paper_table(3, [result("svm", 0.7, extra={"full": 0.7, "low_shot": low}, **VOC07)]))
    assert found[BURN] == ["20.00 ± 4.00", "30.00 ± 1.00", "n/a", "", "", "", "", "", "70.00"]
    assert found["BURN, the paper's figures"][0] == "29.20 ± 1.51"


def test_probes_of_one_network_are_no_seeds_of_each_other():
    several = [result("linear", 0.5), result("linear", 0.55, protocol=protocol("linear", probe="mlp")),
               {**result("linear", 0.6), "protocol": {**protocol("linear", classifier="lbfgs"), "seed": 0}}]
    for found in (rows(tables.paper_table(2, several)), rows(tables.comparison_table(several))):
        column = 1 if found[""][0] == "kNN" else 0
        assert [found[BURN + head][column] for head in ("", ", MLP probe", ", L-BFGS")] == ["50.00", "55.00", "60.00"]
    voc = {"name": "VOC", "train": [{"split": "x", "images": 1}], "test": {"split": "x", "images": 1}}
    figures = {"test": {"voc": {"map": 0.4, "ap50": 0.7, "ap75": 0.3}}}
    found = rows(tables.paper_table(1, [
        result("detection", 0.4, protocol={"neck": neck}, extra=figures) | {"dataset": voc} for neck in ("c4", "fpn")]))
    assert found[BURN] == found[f"{BURN}, FPN"] == ["40.00", "70.00", "30.00"]


@pytest.mark.parametrize(("changes", "names"), [
    ({"protocol": {"epochs": 20}}, ["epochs 100", "epochs 20"]),
    ({"protocol": {"engine": {"name": "openvino, 1-bit kernels", "version": "2026.4"}}},
     ["engine none", "engine openvino, 1-bit kernels"]),
    ({"protocol": {"transform": {"input_size": [3, 224, 224], "crop_pct": 0.9}}},
     ["crop pct none", "crop pct 0.9"]),
    ({"of": (50_000, 2_000)}, ["test images 10000", "test images 2000"]),
    ({"protocol": {"calibrated_batchnorm": {"images": 64}}},
     ["calibrated batchnorm images none", "calibrated batchnorm images 64"]),
    ({"protocol": {"labels": "500 images, seed 1"}}, ["labels none", "labels 500 images"]),
])
def test_one_row_holds_one_protocol(changes, names):
    several = [result("linear", 0.5), result("linear", 0.6, seed=1), result("linear", 0.3, **changes)]
    for found in (rows(tables.paper_table(2, several)), rows(tables.comparison_table(several))):
        column = 1 if found[""][0] == "kNN" else 0
        ours = {name: row[column] for name, row in found.items() if name.startswith("BURN (")}
        assert ours == {f"{BURN} [{names[0]}]": "55.00 ± 7.07", f"{BURN} [{names[1]}]": "30.00"}


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


@pytest.mark.parametrize(("number", "task", "data", "unlike"), [
    (2, "linear", IMAGENET, protocol("linear", augment=True, standardize=False, probe="mlp")),
    (2, "linear", IMAGENET, {"epochs": 90}),
    (2, "linear", IMAGENET, {"lr_schedule": "constant"}),
    (2, "linear", IMAGENET, {"transform": {"input_size": [3, 64, 64]}}),
    (2, "finetune", IMAGENET, {"labels": "12811 images, 1.000% of each class, seed 0"}),
    (2, "finetune", IMAGENET, {"lrs": [0.1]}),
    (3, "svm", VOC07, {"pool": "1x1"}),
    (3, "svm", VOC07, {"transform": {"input_size": [3, 224, 224]}}),
    (3, "svm", VOC07, protocol("svm", draws=1)),
    (3, "svm", VOC07, protocol("svm", costs=(1.0,))),
    (4, "transfer", {"dataset": "torch/cifar10"}, {"method": "L-BFGS", "optimizer": None, "probe": None}),
    (4, "transfer", {"dataset": "torch/cifar10"}, protocol("transfer", probe="mlp")),
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
    assert same_protocol(number, found) == (unlike is not None)
    found["protocol"] |= unlike or {}
    assert not same_protocol(number, found)


def test_table_from_files(tmp_path, capsys, eval_fails):
    one, summary, both = tmp_path / "1.json", tmp_path / "2.json", tmp_path / "3.jsonl"
    one.write_text(json.dumps(result("linear", 0.5)))
    summary.write_text(json.dumps({"model": "a training summary"}))
    both.write_text(json.dumps({"name": "x", **result("linear", 0.6, seed=1)}) + "\n" + summary.read_text() + "\n")
    eval_downstream.main(["table", str(one), str(summary), str(both)])
    printed = capsys.readouterr().out
    assert "Table 2" in printed and "Table 5" in printed and "55.00 ± 7.07" in printed and "Table 1" not in printed
    eval_downstream.main(["table", str(one), "--number", "2", "--output", str(tmp_path / "t.md")])
    assert (tmp_path / "t.md").read_text().startswith("## Table 2")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.jsonl").write_text("{\n" + both.read_text())
    for argv, message in (
        ([str(summary)], "no results among the files"), ([str(tmp_path / "none.jsonl")], "none.jsonl"),
        ([str(tmp_path / "broken.json")], "broken.json"), ([str(tmp_path / "broken.jsonl")], "broken.jsonl, line 1"),
        ([str(one), "--number", "1"], "no figure for these tables"),
    ):
        assert message in eval_fails("table", *argv)
