"""The paper's tables: what stands in which cell, and beside which results the paper's figures may stand."""

import argparse
import json
from pathlib import Path

import pytest

import eval_downstream
from burn_timm.evals import finetune, knn, linear, svm, tables, transfer
from burn_timm.evals.detection import task as detection
from burn_timm.evals.network import training_of
from burn_timm.evals.results import measured_how, read_results, row_of
from burn_timm.methods import METHODS

PLACES = {"dataset": "places205", "of": (2_448_873, 20_500)}
VOC07 = {"dataset": "voc07", "of": (5_011, 4_952)}
IMAGENET = {"dataset": "folder imagenet", "of": (1_281_167, 50_000)}
CIFAR = {"dataset": "torch/cifar10"}
CALIBRATED = {"calibrated_batchnorm": {"layers": 9, "images": 4096, "batch_size": 128}}


def protocol(task, **settings):
    """What a task on frozen features states with these settings."""
    return {"knn": knn, "linear": linear, "svm": svm, "transfer": linear}[task].Settings(**settings).protocol()


def as_published(task, dataset=""):
    """The protocol that a task states when it is run as published."""
    if task == "finetune":
        parser = argparse.ArgumentParser()
        finetune.add_options(parser)
        known = argparse.Namespace(dataset=dataset, limit_train=None)
        args = parser.parse_args(["--subset-list", "1percent.txt"], known)
        stated = finetune.protocol(args, "12811 images of the list 1percent.txt", 12_811, 1_281_167)
    elif task == "detection":
        parser = argparse.ArgumentParser()
        detection.add_options(parser)
        return detection._protocol(argparse.Namespace(seed=0, **vars(parser.parse_args([]))))
    elif task == "linear":
        stated = protocol("linear", augment=True)
    elif task == "transfer":
        settings = transfer.preset(dataset)
        stated = protocol("transfer", **settings)
    else:
        stated = protocol(task)
    images = {"interpolation": "bilinear"}
    images |= {"squash_to": [224, 224], "resize_shorter_side": 256} if task == "svm" else {"input_size": [3, 224, 224]}
    return {**stated, "transform": images}


def result(task, value, name="burn_s0", dataset="hfds/x/cifar10", of=(50_000, 10_000), extra=None, protocol=None,
           method="burn"):
    return {
        "name": f"{name}_{task}", "task": task, "value": value, "model": "local-dir:export", "checkpoint": None,
        "protocol": {**as_published(task, dataset), "weights": "checkpoint x", "seed": 0, **(protocol or {})},
        "dataset": {"name": dataset, "description": dataset,
                    "train": {"images": of[0], "of": of[0]}, "test": {"images": of[1], "of": of[1]}},
        "extra": extra or {},
        "training": {"method": method, "model": "reactnet_a", "stages": ["w32a1", "w1a1"], "img_size": 224,
                     "epochs": 200, "dataset": "folder imagenet [train], 1,281,167 images", "train_seconds": 600},
    }


def rows(text):
    """Cells of a Markdown table by the row's name, without the words for its network."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {f"{name}: {network}" if "paper" in name else name: cells for name, network, *cells in lines[2:]}


def test_a_row_has_the_figures_of_its_seeds_under_their_headings():
    few = [result("finetune", 0.3, protocol={"fraction": 0.01}, extra={
               "top5": 0.6, "starts": {"packed": {"top1": 0.3, "top5": 0.6}, "latent": {"top1": 0.4, "top5": 0.7}}}),
           result("finetune", 0.35, protocol={"fraction": 0.1}, extra={"top5": 0.7})]
    both = [result("linear", 0.50), result("linear", 0.53, "burn_s1", protocol={"seed": 1})]
    others = [result("linear", 0.40, "a/s2bnn", method="s2bnn"), result("knn", 0.99)]
    assert rows(tables.paper_table(2, both + few + others)) == {
        "burn": ["51.50 ± 2.12", "30.00", "60.00", "35.00", "70.00"],
        "burn, from latent weights": ["", "40.00", "70.00", "", ""], "a/s2bnn": ["40.00", "", "", "", ""],
    }  # no row of the paper's: CIFAR-10 is not its data
    low = {"1": {"mean": 0.2, "std": 0.04}, "2": {"mean": 0.3, "std": 0.01}, "4": "n/a"}
    found = rows(tables.paper_table(3, [result("svm", 0.7, extra={"full": 0.7, "low_shot": low}, **VOC07)]))
    assert found["burn"] == ["20.00 ± 4.00", "30.00 ± 1.00", "n/a", "", "", "", "", "", "70.00"]
    assert found["the paper's figures: BURN"][0] == "29.20 ± 1.51"
    assert rows(tables.comparison_table(others + both)) == {  # best first
        "burn": ["99.00", "51.50 ± 2.12", "2", "10.0", ""], "a/s2bnn": ["", "40.00", "1", "10.0", ""]}
    assert list(rows(tables.comparison_table(others + both))) == ["burn", "a/s2bnn"]
    assert rows(tables.paper_table(6, others + both)) == {"burn": ["51.50 ± 2.12"]}  # of BURN alone
    assert "1% labels, top-1, from latent weights: 40.00" in tables.summary(few[0])


@pytest.mark.parametrize("changes", [
    {"protocol": {"epochs": 20}}, {"protocol": protocol("linear", probe="mlp")}, {"of": (50_000, 2_000)},
    {"protocol": {"labels": "500 images"}}, {"method": "byol"}, {"protocol": CALIBRATED},
    {"protocol": {"transform": {"input_size": [3, 224, 224], "crop_pct": 0.5}}},
    {"protocol": {"transform": {"input_size": [3, 224, 224], "interpolation": "nearest"}}},
])
def test_one_row_holds_one_protocol_and_one_network(changes):
    several = [result("linear", 0.5), result("linear", 0.6, "burn_s1"), result("linear", 0.3, "burn_s2", **changes)]
    for text in (tables.paper_table(2, several), tables.comparison_table(several)):
        assert " 55.00 ± 7.07 |" in text and " 30.00 |" in text


@pytest.mark.parametrize("changes", [
    {"training": {"model": "reactnet_a_025"}}, {"training": {"dataset": "digits, 1,437 images"}},
    {"training": {"img_size": 64}}, {"training": {"stages": ["w32a1"]}}, {"training": {"stages": ["w1a1", "w32a32"]}},
    {"protocol": {"views": "centre crop"}}, {"protocol": CALIBRATED},
    {"dataset": {"train": {"images": 100_000, "of": 100_000}}},
    {"dataset": {"test": {"images": 100, "of": 50_000}}},
], ids=str)
def test_the_papers_figures_stand_beside_ours_where_the_protocol_is_the_same(changes):
    same = result("linear", 0.6, **IMAGENET)
    found = rows(tables.paper_table(2, [same]))
    assert found["the paper's figures: BURN"] == ["62.29", "39.75", "67.13", "49.96", "75.52"]
    assert found["burn"][0] == "60.00"
    other = {**same, **{name: {**same[name], **changed} for name, changed in changes.items()}}
    assert not any("paper" in name for name in rows(tables.paper_table(2, [other])))


@pytest.mark.parametrize(("number", "task", "data", "unlike"), [
    (2, "linear", IMAGENET, protocol("linear", augment=True, probe="mlp")),
    (2, "linear", IMAGENET, {"epochs": 90}),
    (2, "linear", IMAGENET, {"lr_schedule": "constant"}),
    (2, "linear", IMAGENET, {"transform": {"input_size": [3, 64, 64], "interpolation": "bilinear"}}),
    (2, "linear", IMAGENET, {"transform": {"input_size": [3, 224, 224], "interpolation": "bicubic"}}),
    (2, "finetune", IMAGENET, {"labels": "12811 images, 1.000% of each class, seed 0"}),
    (2, "finetune", IMAGENET, {"lrs": [0.1]}),
    (2, "finetune", IMAGENET, {"classifier": None}),
    (2, "finetune", IMAGENET, {"weight_decay": 1e-4}),
    (2, "finetune", IMAGENET, {"batch_size": 16}),
    (2, "finetune", IMAGENET, {"fraction": 0.1}),
    (2, "finetune", IMAGENET, {"fraction": 0.5}),
    (3, "svm", VOC07, {"pool": "1x1"}),
    (3, "svm", VOC07, {"transform": {"input_size": [3, 224, 224]}}),
    (3, "svm", VOC07, protocol("svm", draws=1)),
    (3, "svm", VOC07, protocol("svm", costs=(1.0,))),
    (4, "transfer", CIFAR, {"method": "L-BFGS", "optimizer": None, "probe": None}),
    (4, "transfer", CIFAR, protocol("transfer", probe="mlp")),
    (4, "transfer", PLACES, {"views": "centre crop"}),
    (4, "transfer", PLACES, {"lrs": [0.1]}),
    (4, "transfer", {"dataset": "birdsnap", "of": (40_000, 2_000)}, None),
    (4, "transfer", {"dataset": "cub", "of": (5_000, 5_794)}, None),
    (1, "detection", {}, {"neck": "fpn"}),
    (1, "detection", {}, {"iterations": 12_000}),
    (1, "detection", {}, {"difficult": "skip"}),
    (1, "detection", {}, {"test": {"min_size": 600}}),
    (1, "detection", {}, {"anchor_sizes": [4, 8]}),
    (1, "detection", {}, {"train_sets": ["2007:trainval"]}),
])
def test_what_is_not_the_published_protocol_does_not_stand_beside_it(number, task, data, unlike):
    found = result(task, 0.5, **data)
    if task == "detection":
        found["dataset"] = {"train": [{"images": 5_011}, {"images": 11_540}], "test": {"images": 4_952}}
    assert tables.same_protocol(number, found) == (unlike is not None)
    found["protocol"] |= unlike or {}
    assert not tables.same_protocol(number, found)


@pytest.mark.parametrize("weight_decay", [5e-4, 1e-4])
def test_ten_percent_of_the_labels_have_a_decay_of_their_own(weight_decay):
    found = result("finetune", 0.5, protocol={"fraction": 0.1, "weight_decay": weight_decay}, **IMAGENET)
    assert tables.same_protocol(2, found) == (weight_decay == 1e-4)


@pytest.mark.parametrize(("changes", "name"), [
    ({}, "BURN"), ({"settings": {"temperature": 0.2, "fs_on": None}}, "BURN"), ({"stages": None}, "BURN"),
    ({"settings": {"temperature": 0.5}}, "BURN, temperature 0.5"),
    ({"settings": {"temperature": 0.5, "lambda_0": 1, "lambda_T": 1}}, "BURN, L_FS alone"),
    ({"settings": {"lambda_0": 0.5}}, "BURN, lambda 0.5 to 0.7"),
    ({"settings": {"lambda_0": 0.7, "lambda_schedule": "constant"}}, "BURN, constant lambda"),  # the paper's is 0.7
    ({"settings": {"lambda_schedule": "constant"}}, "BURN, lambda 0.9, constant lambda"),
    ({"settings": {"lambda_schedule": "step"}}, "BURN, step lambda"),
    ({"settings": {"views": "cross"}}, "BURN, cross views"),
    ({"settings": {"fs_on": "projection"}}, "BURN, L_FS on projection"),
    ({"settings": {"teacher_norm": "batch"}}, "BURN, teacher's BatchNorm by batch"),
    ({"stages": ["w32a1"]}, "BURN, stages w32a1"), ({"stages": ["w1a1"]}, "BURN, one stage"),
    ({"stages": ["w32a1", "w32a32"]}, "BURN, stages w32a1 w32a32"),
], ids=str)
def test_what_differs_from_the_papers_burn_is_in_the_name(changes, name, tmp_path):
    """By what a result keeps of the run's summary."""
    settings = {**METHODS["burn"].options(), "temperature": 0.2, **changes.get("settings", {})}
    summary = {"method": "burn", "model": "reactnet_a", "stages": ["w32a1", "w1a1"], **changes, "settings": settings}
    (tmp_path / "training.json").write_text(json.dumps(summary))
    assert tables.row_name(training_of(tmp_path / "model.safetensors")) == name


def test_table_from_files(tmp_path, capsys, eval_fails, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, summary, both = tmp_path / "x_s0_linear.json", tmp_path / "summary.json", tmp_path / "study.jsonl"
    first = result("linear", 0.5)
    del first["name"]  # it is the file's
    one.write_text(json.dumps(first))
    summary.write_text(json.dumps({"model": "a training summary"}))
    both.write_text(json.dumps(result("linear", 0.6, "y_s1")) + "\n" + summary.read_text() + "\n")
    eval_downstream.main(["table", one.name, str(summary), str(both)])
    printed = capsys.readouterr().out
    assert "Table 2" in printed and "Table 5" in printed and "Table 1" not in printed
    assert rows(printed.partition("## Table 2")[0]) == {
        "x": ["", "50.00", "1", "10.0", ""], "y": ["", "60.00", "1", "10.0", ""]}
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.jsonl").write_text("{\n" + both.read_text())
    (tmp_path / "other.json").write_text(json.dumps({**first, "task": "train_step"}))
    for argv, message in (
        ([str(summary)], "no results among the files"), (["none.jsonl"], "none.jsonl"),
        (["broken.json"], "broken.json"), (["broken.jsonl"], "broken.jsonl, line 1"),
        (["other.json"], "no figure for the paper's tables"),
    ):
        assert message in eval_fails("table", *argv)
    eval_downstream.main(["table", one.name, "other.json"])
    assert capsys.readouterr().out.rstrip().endswith("In no table: other.json (train_step on hfds/x/cifar10).")


def test_sizes_engines_and_nameless_lines_have_rows_of_their_own(tmp_path, monkeypatch):
    """Else two networks would become the seeds of one: a mean of what nobody measured."""
    monkeypatch.chdir(tmp_path)
    small = {"transform": {"input_size": [3, 64, 64]}}
    kernels = {"engine": {"name": "c"}}
    written = [result("knn", 0.1), result("knn", 0.7, protocol=small), result("knn", 0.3, protocol=kernels)]
    for place, one in enumerate(written):
        (tmp_path / f"m_s{place}_knn.json").write_text(json.dumps({**one, "name": f"m_s{place}_knn"}))
    text = tables.all_tables(read_results(sorted(tmp_path.glob("*.json"))))
    assert "±" not in text and all(figure in text for figure in ("10.00", "70.00", "30.00"))
    nameless = [{key: value for key, value in one.items() if key != "name"} for one in (written[0], result("knn", 0.5))]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(one) + "\n" for one in nameless))
    text = tables.all_tables(read_results(["all.jsonl"]))
    assert "±" not in text and "10.00" in text and "50.00" in text
    for one in ({**result("knn", 0.25)}, {**result("linear", 0.75)}):
        (tmp_path / f"{one['task']}.json").write_text(json.dumps({key: one[key] for key in one if key != "name"}))
    text = tables.all_tables(read_results(["knn.json", "linear.json"]))
    (row,) = [line for line in text.splitlines() if "25.00" in line]
    assert "In no table" not in text
    assert "75.00" in row  # files of one folder, called by their tasks


def test_figures_of_other_crops_do_not_stand_in_one_row():
    small = {"transform": {"input_size": [3, 64, 64]}}
    several = [result("knn", 0.1), result("knn", 0.2, protocol=small), result("linear", 0.3, protocol=small)]
    assert {tuple(cells[:2]) for cells in rows(tables.comparison_table(several)).values()} == {
        ("10.00", ""), ("20.00", "30.00")}


def test_folders_of_as_many_images_are_not_the_same_data():
    """The folder's name is in the description alone."""
    ours, theirs = result("knn", 0.5, dataset="folder"), result("knn", 0.5, dataset="folder")
    assert measured_how(ours) == measured_how(theirs)
    theirs["dataset"]["description"] = "folder cifar100 [train], 50,000 images"
    assert measured_how(ours) != measured_how(theirs)


def test_every_figure_of_the_repository_is_read(capsys):
    """As docs/evaluate.md says; what is no evaluation, such as a time, has no training images."""
    eval_downstream.main(["table", *map(str, sorted((Path(__file__).parents[2] / "results").glob("*.jsonl")))])
    assert capsys.readouterr().out.rstrip().endswith("train_step_64_whole (train_step on noise).")


def test_the_last_seed_of_a_path_is_cut_off(tmp_path, monkeypatch):
    """Else two networks of one experiment become the seeds of a third, which nobody trained."""
    names = {"exp_s1/a_s0_knn": "exp_s1/a", "exp_s1/b_s0_knn": "exp_s1/b", "a_s0/knn": "a", "exp_s1/a_knn": "exp/a",
            "a_s1_s0_knn": "a_s1", "a_knn": "a", "knn": "."}
    assert {name: row_of({"name": name, "task": "knn"}) for name in names} == names
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp_s1").mkdir()
    for name, value in (("a", 0.2), ("b", 0.8)):
        one = {key: entry for key, entry in result("knn", value).items() if key != "name"}
        (tmp_path / "exp_s1" / f"{name}_s0_knn.json").write_text(json.dumps(one))
    text = tables.all_tables(read_results(["exp_s1/a_s0_knn.json", "exp_s1/b_s0_knn.json", "exp_s1/a_s0_knn.json"]))
    assert {name: cells[0] for name, cells in rows(text).items()} == {"exp_s1/a": "20.00", "exp_s1/b": "80.00"}
    assert "±" not in text  # a file given twice counts once
