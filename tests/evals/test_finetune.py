"""Fine-tuning with few labels: which labels, which starts, and the figures of a grid."""

import argparse
import gzip
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

import eval_downstream
from burn_timm.checkpoints import save_latent
from burn_timm.data import open_dataset
from burn_timm.errors import BurnError
from burn_timm.evals import augmented, finetune

PICTURE = str(Path(__file__).parents[2] / "model_cards" / "reactnet_a_burn.distill_tiny_imagenet_80_64.png")
SHORT = ["--dataset", "digits", "--img-size", "32", "--workers", "0", "--threads", "1", "--limit-test", "100",
         "--fraction", "0.1", "--sgd-batch-size", "64", "--view", "light"]


def options(**values):
    return argparse.Namespace(**{"subset_list": None, "fraction": 0.1, "limit_train": None, "seed": 0, **values})


def test_a_fraction_is_seeded_and_takes_each_class_alike():
    source = open_dataset("digits", None, "train")
    subset, words = finetune.labelled_subset(source, options())
    labels = [subset.load(index)[1] for index in range(len(subset))]
    whole = np.bincount(source.labels())
    assert np.array_equal(np.bincount(labels), [round(0.1 * count) for count in whole])
    assert f"{len(subset)} images" in words and "10.000%" in words
    again, other = (finetune.labelled_subset(source, options(seed=seed))[0] for seed in (0, 1))
    names = [[part.file_name(index) for index in range(len(part))] for part in (subset, again, other)]
    assert names[0] == names[1] != names[2] and len(set(names[0])) == len(names[0])
    least, _ = finetune.labelled_subset(source, options(fraction=1e-6))
    assert len(least) == 10  # one image of each class


@pytest.fixture
def source(tmp_path):
    """Two classes of six images."""
    for kind in ("n01", "n02"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / kind / f"{kind}_{number}.png")
    return open_dataset("folder", str(tmp_path), "train")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_list_of_file_names(source, tmp_path, zipped):
    text = "n02_3.png\nn01_0.png\n\n"
    file = tmp_path / "list.txt.gz"
    file.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    subset, words = finetune.labelled_subset(source, options(subset_list=str(file)))
    assert [subset.load(index)[1] for index in range(len(subset))] == [0, 1]
    assert "2 images of the list list.txt.gz" == words
    file.write_text("n02_3.png\nn09_9.png\n")
    with pytest.raises(BurnError, match="1 of 2 images are not in .* the first is n09_9.png"):
        finetune.labelled_subset(source, options(subset_list=str(file)))
    twin = tmp_path / "train" / "n02" / "n01_0.png"
    twin.write_bytes((tmp_path / "train" / "n01" / "n01_0.png").read_bytes())
    file.write_text("n01_0.png\n")
    with pytest.raises(BurnError, match="1 of 1 images have a name that several have in"):  # else the last one is taken
        finetune.labelled_subset(open_dataset("folder", str(tmp_path), "train"), options(subset_list=str(file)))


def test_weight_decay_is_that_of_the_share_of_labels_of_any_set():
    parser = argparse.ArgumentParser()
    finetune.add_options(parser)
    listed = parser.parse_args(["--subset-list", "list.txt"], argparse.Namespace(dataset="digits", limit_train=None))
    drawn = parser.parse_args(["--fraction", "1"], argparse.Namespace(dataset="digits", limit_train=500))
    for args, total in ((listed, 50_000), (listed, 1_281_167), (drawn, 50_000)):
        found = [finetune.protocol(args, "", total // share, total) for share in (100, 10)]
        assert [one["weight_decay"] for one in found] == [5e-4, 1e-4]
        assert [one["fraction"] for one in found] == [0.01, 0.1]


def test_unreadable_test_images_are_not_counted(source, tmp_path):
    for number in range(101):
        path = tmp_path / "val" / ("n01", "n02")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    path.write_bytes(b"no image")
    result = tune(tmp_path / "r.json", *GRID, "--dataset", "folder", "--data-dir", str(tmp_path), "--limit-test", "101",
                  "--head-multipliers", "1")
    assert result["dataset"]["test"]["images"] == 100


@pytest.fixture
def run_folder(exports, tmp_path):
    """What train_burn.py leaves: export/ with packed weights, latent.safetensors beside it."""
    source = Path(exports["folder"][1].removeprefix("local-dir:"))
    shutil.copytree(source, tmp_path / "run" / "export")
    shutil.copy(source.parent / "latent.safetensors", tmp_path / "run")
    return tmp_path / "run" / "export"


def tune(path, *more):
    eval_downstream.main(["finetune", *SHORT, *more, "--output", str(path)])
    return json.loads(path.read_text())


def test_packed_and_latent_starts_are_both_reported(run_folder, tmp_path):
    common = ["--model", f"local-dir:{run_folder}", "--epochs", "2"]
    result = tune(tmp_path / "r.json", *common, "--lrs", "0.1", "0.001", "--head-multipliers", "10")
    starts = result["extra"]["starts"]
    assert list(starts) == ["packed", "latent"] == result["protocol"]["starts"]
    for start in starts.values():
        assert [row["lr"] for row in start["grid"]] == [0.1, 0.001]
        assert start["top1"] == max(row["top1"] for row in start["grid"]) and start["top5"] >= start["top1"]
    # Real-valued weights with a small rate may keep what signs lose: the two are trained apart.
    assert starts["packed"]["grid"] != starts["latent"]["grid"]
    assert result["value"] == starts["packed"]["top1"] and max(s["top1"] for s in starts.values()) > 0.1
    assert result["protocol"].items() >= {
        "fraction": 0.1, "weight_decay": 1e-4, "epochs": 2, "view_interpolation": "bicubic", "mirror_probability": 0,
        "classifier": "fresh"}.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "run"]  # the grid's file is gone
    alone = tune(tmp_path / "a.json", *common, "--latent", "none", "--lrs", "0.1", "--head-multipliers", "10")
    assert alone["extra"]["starts"]["weights"]["grid"] == starts["packed"]["grid"][:1]


@pytest.fixture
def trained(monkeypatch):
    """(learning rate, factor) of every network that was trained; the process is "killed" where `limit` are."""
    original, points = finetune._trained, SimpleNamespace(done=[], limit=99)

    def counted(*args):
        if len(points.done) == points.limit:
            raise KeyboardInterrupt
        points.done.append(args[4:6])
        return original(*args)

    monkeypatch.setattr(finetune, "_trained", counted)
    return points


GRID = ["--model", "test_resnet", "--fraction", "0.03", "--limit-test", "20", "--epochs", "1", "--lrs", "0.1",
        "--head-multipliers", "1", "10"]


def test_a_killed_grid_goes_on_where_it_was_unless_the_settings_differ(tmp_path, trained):
    whole = tune(tmp_path / "whole.json", *GRID)["extra"]["starts"]
    for more in ([], ["--crop-pct", "0.9"], ["--train-split", "validation", "--val-split", "train"]):
        trained.limit = len(trained.done) + 1
        with pytest.raises(SystemExit):
            tune(tmp_path / "r.json", *GRID, *more)
        assert trained.done[-1] == (0.1, 1)  # each began anew
    trained.limit, trained.done = 99, []
    tune(tmp_path / "r.json", *GRID, *more)
    assert trained.done == [(0.1, 10)]  # the first one is kept
    trained.done = []
    assert tune(tmp_path / "r.json", *GRID)["extra"]["starts"] == whole and len(trained.done) == 2


def test_a_killed_grid_begins_anew_where_test_images_or_our_version_differ(source, tmp_path, trained, monkeypatch):
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    changed = tmp_path / "val" / "n01" / "n01_0.png"
    folder = [*GRID, "--dataset", "folder", "--data-dir", str(tmp_path), "--limit-test", "12"]
    for change in (lambda: None, lambda: changed.write_bytes(changed.read_bytes() + b"more"),
                   lambda: monkeypatch.setattr(finetune, "__version__", "0.0.0")):
        change()
        trained.limit = len(trained.done) + 1
        with pytest.raises(SystemExit):
            tune(tmp_path / "r.json", *folder)
    assert trained.done == [(0.1, 1)] * 3


def test_the_classifier_starts_fresh_though_the_weights_have_one_of_as_many_classes(tmp_path, monkeypatch):
    models, load = [], finetune.load_model
    monkeypatch.setattr(finetune, "load_model", lambda *a, **k: models.append(load(*a, **k)) or models[-1])
    supervised = timm.create_model("test_resnet", num_classes=10)
    torch.save(supervised.state_dict(), tmp_path / "supervised.pth")
    tune(tmp_path / "r.json", "--model", "test_resnet", "--checkpoint", str(tmp_path / "supervised.pth"),
         "--epochs", "1", "--lrs", "1e-9", "--head-multipliers", "1")  # nothing moves
    torch.testing.assert_close(models[-1].conv1[0].weight, supervised.conv1[0].weight)
    assert (models[-1].fc.weight - supervised.fc.weight).norm() > supervised.fc.weight.norm()


def test_no_batch_is_a_single_image():
    for asked, count, size in ((256, 1, 1), (256, 255, 255), (256, 257, 257), (256, 500, 256), (256, 513, 257),
                               (2, 3, 3)):
        assert finetune.batch_size(argparse.Namespace(sgd_batch_size=asked), count) == size


def test_a_result_that_cannot_be_written_costs_no_grid(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(eval_downstream, "write_result", Mock(side_effect=OSError("disk full")))
    with pytest.raises(SystemExit):
        tune(tmp_path / "r.json", *GRID)
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "_trained", None)  # nothing is trained again
        assert len(tune(tmp_path / "r.json", *GRID)["extra"]["starts"]["random"]["grid"]) == 2


def test_a_network_that_has_diverged_is_wrong_about_every_image(tmp_path):
    result = tune(tmp_path / "r.json", "--model", "test_resnet", "--epochs", "1", "--lrs", "1e38",
                  "--head-multipliers", "1")
    assert result["value"] == result["extra"]["top5"] == 0


def test_an_export_with_real_valued_weights_is_one_start(run_folder, monkeypatch):
    args = options(model=f"local-dir:{run_folder}", checkpoint=None, pretrained=False, latent=None)
    assert list(finetune.starts(args, run_folder / "model.safetensors")) == ["packed", "latent"]
    monkeypatch.chdir(run_folder)
    assert list(finetune.starts(args, Path("model.safetensors"))) == ["packed", "latent"]
    (run_folder.parent / "latent.safetensors").replace(run_folder / "model.safetensors")
    (run_folder.parent / "latent.safetensors").write_bytes((run_folder / "model.safetensors").read_bytes())
    assert list(finetune.starts(args, run_folder / "model.safetensors")) == ["weights"]
    args.latent = str(run_folder.parent / "latent.safetensors")
    with pytest.raises(BurnError, match="--latent goes beside packed weights: .*model.safetensors is not packed"):
        finetune.starts(args, run_folder / "model.safetensors")


def test_latent_weights_of_another_run_are_refused(run_folder):
    latent = run_folder.parent / "latent.safetensors"
    torch.manual_seed(12)
    save_latent(latent, timm.create_model("test_reactnet", num_classes=0).state_dict(), "test_reactnet", 1)
    for given in (None, str(latent)):
        with pytest.raises(BurnError, match=r"latent.safetensors: stages.* has not the signs that it has in .*none"):
            finetune.starts(options(latent=given), run_folder / "model.safetensors")


def test_learning_rates_decay_and_momentum_equal_plain_torch(monkeypatch, tmp_path):
    """One run again with torch's own pieces on the same batches: weights, not only figures, are equal."""
    seen, models = [], []
    loader = augmented.make_train_loader

    def recording(*args, **kwargs):
        for batch in loader(*args, **kwargs):
            seen.append(batch)
            yield batch

    load = finetune.load_model
    monkeypatch.setattr(augmented, "make_train_loader", recording)
    monkeypatch.setattr(finetune, "load_model", lambda *a, **k: models.append(load(*a, **k)) or models[-1])
    tune(tmp_path / "r.json", "--model", "test_resnet", "--epochs", "5", "--lrs", "0.005", "--head-multipliers", "10",
         "--weight-decay", "0.01", "--limit-test", "20")
    torch.manual_seed(finetune.seed_for(0, 0xF17E))
    model = load("test_resnet", None, num_classes=0).train()
    model.reset_classifier(10)
    assert [len(batch["target"]) for batch in seen[: len(seen) // 5]] == [64, 64, 15]  # the whole of the labels
    velocity = {name: 0 for name, _ in model.named_parameters()}
    begun = [parameter.detach().clone() for parameter in model.parameters()]
    for number, batch in enumerate(seen):
        epoch = number // (len(seen) // 5)
        drop = 0.2 ** ((epoch >= 3) + (epoch >= 4))
        images = (batch["views"][:, 0] / 255 - 0.5) / 0.5
        loss = F.cross_entropy(model(images), batch["target"])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
                velocity[name] = 0.9 * velocity[name] + gradient + 0.01 * parameter
                parameter -= 0.005 * (10 if name.startswith("fc") else 1) * drop * velocity[name]
    # Sums in another order differ, and the network amplifies that; a rate or a decay left out would differ far more.
    for ours, theirs, start in zip(models[-1].parameters(), model.parameters(), begun, strict=True):
        assert (ours - theirs).norm() < 0.03 * (theirs - start).norm() + 1e-6


def test_the_factor_is_for_both_classifiers_of_a_network_that_has_two(tmp_path, monkeypatch):
    models, groups = [], []
    load, sgd = finetune.load_model, torch.optim.SGD
    monkeypatch.setattr(finetune, "load_model", lambda *a, **k: models.append(load(*a, **k)) or models[-1])
    monkeypatch.setattr(torch.optim, "SGD", lambda given, **k: groups.extend(map(dict, given)) or sgd(given, **k))
    tune(tmp_path / "r.json", "--model", "deit_tiny_distilled_patch16_224", "--fraction", "0.05", "--limit-test", "10",
         "--epochs", "1", "--lrs", "0.01", "--head-multipliers", "10")
    backbone, head = groups
    both = [*models[-1].head.parameters(), *models[-1].head_dist.parameters()]
    assert list(map(id, head["params"])) == list(map(id, both)) and len(both) == 4
    others = {id(parameter) for parameter in models[-1].parameters()} - set(map(id, both))
    assert {id(parameter) for parameter in backbone["params"]} == others
    assert (backbone["lr"], head["lr"]) == (0.01, 0.1)


@pytest.mark.parametrize(("argv", "message"), [
    (["--latent", "missing.safetensors"], "--latent missing.safetensors: no such file"),
    (["--latent", __file__], "--latent goes beside packed weights"),
    (["--subset-list", "missing.txt"], "--subset-list missing.txt: cannot be read"),
    (["--subset-list", os.devnull], "no file names"),
    (["--subset-list", PICTURE], "cannot be read"),
    (["--calibrate-bn", "8"], "unrecognized arguments"),
    (["--subset-list", "a.txt"], "argument --subset-list: not allowed with argument --fraction"),
    (["--limit-train", "100"], "--limit-train 100: --fraction 0.01 is of all labels"),
])
def test_bad_input_is_one_line(argv, message, tmp_path, eval_fails):
    short = SHORT if message.startswith("argument") else [word for word in SHORT if word not in ("--fraction", "0.1")]
    words = ["finetune", *short, "--model", "test_resnet", *argv, "--output", tmp_path / "r.json"]
    assert message in eval_fails(*words)
