"""The scripts of examples/ in a short form: what they report is what timm and the engine do with their files."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from exported import write_export
from PIL import Image
from sklearn.datasets import load_digits

import burn_timm.deploy
from burn_timm.cli import main
from burn_timm.data import eval_loader, open_dataset
from burn_timm.errors import BurnError
from burn_timm.evals.features import eval_transform, extract_features

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *argv):
    return runpy.run_path(str(EXAMPLES / name))["main"]([str(word) for word in argv])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of digits 0, 1 and 4: train/CLASS and val/CLASS."""
    root, digits = tmp_path_factory.mktemp("photos"), load_digits()
    for split, part in (("train", slice(0, 20)), ("val", slice(20, 40))):
        for kind in (0, 1, 4):
            folder = root / split / f"digit {kind}"
            folder.mkdir(parents=True)
            for number, image in enumerate(digits.images[digits.target == kind][part]):
                Image.fromarray((image * 15).astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
    return root


def top1(model, photos, side):
    """Top-1 accuracy of a timm model on the photos of val."""
    images = open_dataset("folder", str(photos), "val")
    logits, labels = extract_features(model, eval_loader(images, eval_transform(model.pretrained_cfg, side)))
    return (logits.argmax(1) == labels).double().mean().item()


def test_few_shot(photos, tmp_path, capsys):
    network = "reactnet_a_025_burn"
    accuracy = run("few_shot.py", photos / "val", "--model", network, "--img-size", "32", "--output", tmp_path)
    assert accuracy > 0.8 and "of 45 test photos of 3 classes are right, trained on 15" in capsys.readouterr().out
    model = timm.create_model(network, num_classes=3, checkpoint_path=str(tmp_path / "model.pth.tar")).eval()
    assert 20 * 3 * top1(model, photos, 32) >= 45 * accuracy  # of all photos, the five a class too
    engine = burn_timm.deploy.load(tmp_path / "one_bit", threads=1)
    assert engine.label_names == ["digit 0", "digit 1", "digit 4"]
    images = open_dataset("folder", str(photos), "val")
    with torch.no_grad():  # a value at a threshold may have another sign in another engine, and so move a few logits
        pairs = [(engine(image), model(image)) for image, _ in eval_loader(images, eval_transform(model, 32), 1)]
    assert sum(bool(ours.argmax() == theirs.argmax()) for ours, theirs in pairs) >= 58
    assert np.median([(ours - theirs).abs().max() for ours, theirs in pairs]) < 1e-3
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    with pytest.raises(BurnError, match="test_reactnet: its pretrained weights cannot be loaded"):
        run("few_shot.py", photos / "val", "--model", "test_reactnet")
    with pytest.raises(SystemExit, match="give more than 20 photos a class"):
        run("few_shot.py", photos / "val", "--model", network, "--shots", "20")
    with pytest.raises(SystemExit, match="give one split, such as .*/(train|val)$"):
        run("few_shot.py", photos, "--model", network)


def test_finetune(photos, tmp_path, capsys):
    export = write_export(tmp_path / "export", timm.create_model("test_reactnet", num_classes=0))
    best = run("finetune.py", photos, "--model", f"local-dir:{export}", "--img-size", "32", "--epochs", "12",
               "--batch-size", "16", "--lr", "3e-3", "--device", "cpu", "--output", tmp_path / "out")
    assert best > 50
    model = timm.create_model("test_reactnet", num_classes=3, checkpoint_path=str(tmp_path / "out/model_best.pth.tar"))
    assert 100 * top1(model, photos, 32) == pytest.approx(best)
    assert main(["pack", str(tmp_path / "out/model_best.pth.tar"), str(tmp_path / "packed")]) == 0
    packed = timm.create_model(f"local-dir:{tmp_path / 'packed'}", pretrained=True)
    assert packed.pretrained_cfg["input_size"] == (3, 32, 32) and "for images of 32 px\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--batch-size 64: .*/train has only 60 photos"):  # no step in any epoch
        run("finetune.py", photos)
    (photos / "val" / "digit 4").rename(photos / "val" / "digit 5")
    with pytest.raises(SystemExit, match="train/ and val/ hold different classes"):
        run("finetune.py", photos)
    with pytest.raises(SystemExit, match="has no folder train; expected train/CLASS/photo.jpg"):
        run("finetune.py", photos / "val")  # which timm took for both, so that learning by heart looked perfect


def test_segmentation(tmp_path, monkeypatch):
    smp = pytest.importorskip("segmentation_models_pytorch")
    rng = np.random.default_rng(0)
    for number in range(10):
        mask = np.zeros((64, 64), np.uint8)
        top, left = rng.integers(0, 32, 2)
        mask[top : top + 32, left : left + 32] = 1
        pixels = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8) + 150 * mask[:, :, None]
        for folder, image in (("images", Image.fromarray(pixels)), ("masks", Image.fromarray(mask, "P"))):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / f"{number}.png")
    network = "reactnet_a_025_burn"
    iou = run("segmentation.py", tmp_path, "--model", network, "--img-size", "64", "--steps", "12", "--batch-size", "4",
              "--lr", "3e-3", "--output", tmp_path / "out")
    assert iou > 0.5 and (tmp_path / "out" / "masks.png").is_file()
    model = smp.create_model("Unet", f"tu-{network}", encoder_weights=None, classes=2)
    model.load_state_dict(torch.load(tmp_path / "out" / "model.pt", weights_only=True))
    Image.new("RGB", (64, 64)).save(tmp_path / "masks" / "0.png")
    with pytest.raises(SystemExit, match="0.png: expected a mask with one class number a pixel"):
        run("segmentation.py", tmp_path)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(SystemExit, match="pip install segmentation-models-pytorch"):
        run("segmentation.py", tmp_path)
