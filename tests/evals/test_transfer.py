"""Transfer: presets of datasets, logistic regression against scikit-learn, and augmented views."""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import eval_downstream
from burn_timm.data import epoch_order, make_view, open_dataset, seed_for
from burn_timm.evals import linear, transfer
from burn_timm.evals.augmented import augmented_probe
from burn_timm.evals.heads import LinearHeads
from burn_timm.evals.inputs import hold_out
from burn_timm.evals.logistic import PENALTIES, logistic_regression

PLACES = {"epochs": 14, "lrs": (0.01,), "weight_decay": 5e-4, "milestones": (4 / 14, 8 / 14, 12 / 14)}


@pytest.mark.parametrize(("dataset", "argv", "expected"), [
    ("places205", [], {**PLACES, "augment": True}),
    ("places205", ["--epochs", "3", "--lrs", "0.1", "1", "--no-augment", "--milestones"],
     {"epochs": 3, "lrs": (0.1, 1.0), "weight_decay": 5e-4, "milestones": ()}),
    ("places205", ["--classifier", "lbfgs"], {"classifier": "lbfgs", **PLACES}),
    ("torch/cifar10", [], {}),
    ("digits", [], {"mirror_probability": 0}),
])
def test_published_settings_of_a_dataset_and_options_win(dataset, argv, expected):
    parser = argparse.ArgumentParser()
    transfer.add_options(parser)
    args = parser.parse_args(argv, argparse.Namespace(dataset=dataset, seed=0, pixels=False, engine="torch"))
    assert transfer.settings(args, SimpleNamespace(streaming=False)) == linear.Settings(**expected)


def test_logistic_regression_chooses_as_a_plain_script_does():
    torch.manual_seed(0)
    x, w = torch.randn(400, 12), torch.randn(12, 3)
    y = (x @ w + 2 * torch.randn(400, 3)).argmax(1)
    penalties = (1e-3, 1.0, 1e2, 1e4)
    result = logistic_regression(x[:300], y[:300], x[300:], y[300:], penalties=penalties, seed=4)

    train, label, test, truth = x[:300].numpy(), y[:300].numpy(), x[300:].numpy(), y[300:].numpy()
    order = np.random.default_rng(4).permutation(300)
    held, rest = order[:30], order[30:]
    scores = {}
    for penalty in penalties:
        scaler = StandardScaler().fit(train[rest])
        model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaler.transform(train[rest]), label[rest])
        scores[penalty] = model.score(scaler.transform(train[held]), label[held])
    best = max(penalties, key=lambda penalty: (scores[penalty], penalty))
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=1 / best, max_iter=1000).fit(scaler.transform(train), label)
    assert result["penalty"] == best
    assert {row["penalty"]: row["accuracy"] for row in result["sweep"]} == pytest.approx(scores, abs=0.04)
    assert result["value"] == pytest.approx(model.score(scaler.transform(test), truth), abs=0.011)
    assert result["top5"] == 1.0
    assert len(PENALTIES) == 45 and np.diff(np.log10(PENALTIES)) == pytest.approx(11 / 44)  # as published
    assert (PENALTIES[0], PENALTIES[-1]) == pytest.approx((1e-6, 1e5))


def test_augmented_views_train_the_probe_and_leave_the_backbone(monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = open_dataset("digits", None, "train").subset(list(range(140)))
    settings = linear.Settings(epochs=3, lrs=(0.05,), sgd_batch_size=64, augment=True, mirror_probability=0, seed=3)
    test = torch.randn(20, model.num_features), torch.arange(20) % 10
    steps, step = [], LinearHeads.step
    monkeypatch.setattr(LinearHeads, "step", lambda self, *args: steps.append((self, *args)) or step(self, *args))
    result = augmented_probe(
        model, source, test, settings, features_of=None, img_size=32, device=torch.device("cpu"), workers=0,
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    # By hand: the same images in the same order, each view seeded by its epoch and image.
    view, seed = make_view("supervised", 32, 0.0, "bilinear"), seed_for(3, len(source))
    for number, (_, features, labels, lrs) in enumerate(steps):
        epoch, place = divmod(number, 3)  # 64, 64 and 12 images
        chosen = epoch_order(seed, epoch, len(source))[64 * place : 64 * (place + 1)].tolist()
        views = []
        for index in chosen:
            torch.manual_seed(seed_for(seed, epoch, index))
            views.append(view(source.load(index)[0]))
        with torch.no_grad():
            torch.testing.assert_close(features, model((torch.stack(views) / 255 - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
        assert labels.tolist() == [source.load(index)[1] for index in chosen]
        assert lrs == pytest.approx([0.05 * (1, 1, 0.1)[epoch]])
    assert len(steps) == 9 and result["sweep"] == []
    logits = steps[0][0].logits(test[0])[0]
    assert torch.equal(result["predicted"], logits.argmax(1))
    assert result["value"] == pytest.approx((logits.argmax(1) == test[1]).double().mean().item())


def test_an_unreadable_held_out_image_is_left_out(tmp_path):
    for number in range(1002):  # one in a hundred may be unreadable, of the hundred that are held out too
        path = tmp_path / ("train" if number < 1000 else "val") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (255 * (number % 2), number % 256, 0)).save(path)
    source = open_dataset("folder", str(tmp_path))
    held, _ = hold_out(source, 0)
    (tmp_path / "train" / held.file_name(0)).write_bytes(b"no image")
    eval_downstream.main([
        "linear", "--model", "test_resnet", "--dataset", "folder", "--data-dir", str(tmp_path), "--img-size", "32",
        "--workers", "0", "--augment", "--epochs", "1", "--lrs", "0.01", "0.1", "--output", str(tmp_path / "r.json")])
    assert len(json.loads((tmp_path / "r.json").read_text())["extra"]["sweep"]) == 2
