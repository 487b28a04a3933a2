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
from torch import nn

import eval_downstream
from burn_timm.data import epoch_order, make_view, open_dataset, seed_for
from burn_timm.evals import linear, transfer
from burn_timm.evals.augmented import augmented_probe
from burn_timm.evals.inputs import hold_out
from burn_timm.evals.logistic import PENALTIES, logistic_regression

PLACES = {"epochs": 14, "lrs": (0.01,), "weight_decay": 5e-4, "milestones": (4 / 14, 8 / 14, 12 / 14)}


@pytest.mark.parametrize(("dataset", "argv", "expected"), [
    ("places205", [], {**PLACES, "augment": True}),
    ("places205", ["--epochs", "3", "--lrs", "0.1", "1", "--no-augment", "--milestones"],
     {"epochs": 3, "lrs": (0.1, 1.0), "weight_decay": 5e-4, "milestones": ()}),
    ("places205", ["--classifier", "lbfgs"], {"classifier": "lbfgs", **PLACES}),
    ("torch/cifar10", [], {}),
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


def test_augmented_views_train_the_probe_and_leave_the_backbone():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = open_dataset("digits", None, "train").subset(list(range(420)))
    settings = linear.Settings(epochs=2, lrs=(0.5,), sgd_batch_size=64, augment=True, seed=3,
                               weight_decay=1e-3)
    test = open_dataset("digits", None, "validation")
    images = torch.stack([make_view("none", 32)(test.load(index)[0]) for index in range(100)])
    labels = torch.tensor([test.load(index)[1] for index in range(100)])
    with torch.no_grad():
        features = model((images / 255 - 0.5) / 0.5)
    result = augmented_probe(
        model, source, (features, labels), settings, features_of=None, img_size=32, device=torch.device("cpu"),
        workers=0, hflip=0.0,
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    # By hand: the same images in the same order, each view seeded by its epoch and image, plain torch SGD.
    head = nn.Linear(features.shape[1], 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-3)
    view, seed = make_view("supervised", 32, 0.0, "bilinear"), seed_for(3, len(source))
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 0.5 * (1.0, 0.1)[epoch >= 1.2]
        order = epoch_order(seed, epoch, len(source)).tolist()
        for start in range(0, len(source) - 63, 64):
            views, classes = [], []
            for index in order[start : start + 64]:
                image, label = source.load(index)
                torch.manual_seed(seed_for(seed, epoch, index))
                views.append(view(image))
                classes.append(label)
            with torch.no_grad():
                x = model((torch.stack(views) / 255 - 0.5) / 0.5)
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(x), torch.tensor(classes)).backward()
            optimizer.step()
    logits = head(features)
    assert (result["predicted"] != logits.argmax(1)).sum() <= 1
    assert result["value"] == pytest.approx(logits.argmax(1).eq(labels).double().mean().item(), abs=0.011)
    top5 = logits.topk(5, dim=1).indices.eq(labels[:, None]).any(1).double().mean().item()
    assert result["top5"] == pytest.approx(top5, abs=0.011) and result["sweep"] == []


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
