"""Every shipped recipe: a dry run on images in ImageNet's layout, and the rows of the paper."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import load_file
from training.runs import TEACHER, checkpoint, on_the_cpu_without_pictures

import train_burn
from burn_timm.evals.tables import TABLES, row_name
from burn_timm.methods import METHODS
from burn_timm.packing import is_packed
from burn_timm.training.options import parse_options

FOLDER = Path(__file__).parents[1] / "burn_timm" / "recipes"
RECIPES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "small"]  # a base of others
SYNSETS = ("n01440764", "n01443537")


def settings_of(path: Path) -> dict:
    settings = yaml.safe_load(path.read_text())
    return settings_of(FOLDER / f"{settings.pop('base')}.yaml") | settings if "base" in settings else settings


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """train/ and val/ with a folder for each synset, as ImageNet lies on most disks."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for synset in SYNSETS:
            folder = root / split / synset
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{synset}_{number}.JPEG")
    return root


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_setting_of_a_recipe_is_that_of_the_run(path):
    settings = settings_of(path)
    teacher = ["--teacher", "test_resnet"] if METHODS[settings["method"]].teacher_output else []
    options = parse_options(["--recipe", path.stem, "--data-dir", "photos", *teacher])
    found = json.loads(json.dumps(vars(options)))
    for name in settings.keys() - {"teacher"}:
        value = settings[name]
        assert found[name] == ([value] if name == "weight_decay" and not isinstance(value, list) else value), name


def quick(path):
    """One recipe for each method, and the released code's, which has switches of its own."""
    return path.stem in ("burn_released_imagenet", "simclrv2_imagenet", *(f"{name}_imagenet" for name in METHODS))


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=() if quick(path) else pytest.mark.slow) for path in RECIPES
])
def test_dry_run(path, imagenet, tmp_path, monkeypatch):
    on_the_cpu_without_pictures(monkeypatch)
    settings = settings_of(path)
    binary = settings.get("stages") != ["fp"]
    options = [
        "--recipe", path.stem, "--dataset", "folder", "--data-dir", str(imagenet), "--val-split", "none",
        "--model", "test_reactnet" if binary else "test_resnet", "--img-size", "32", "--batch-size", "8",
        "--epochs", "1", "--max-steps", "1", "--warmup-epochs", "0", "--workers", "0", "--threads", "1",
        "--log-with", "none", "--no-compile", "--no-sync-bn", "--output", str(tmp_path / "run"),
    ]
    options += [] if binary else ["--model-kwargs"]  # the recipe's are another model's
    options += TEACHER.split() if METHODS[settings["method"]].teacher_output else []
    options += ["--queue-size", "64"] if settings.get("queue_size", 0) > 64 else []
    options += ["--small-img-size", "16"] if settings.get("small_views") else []
    summary = train_burn.main(options)
    assert summary["export_img_size"] == 32 and summary["method"] == settings["method"]
    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'export'}", pretrained=True)
    assert sum(p.numel() for p in model.parameters()) > 1000
    assert is_packed(load_file(tmp_path / "run" / "export" / "model.safetensors")) == binary
    if "logits" in (settings.get("teacher_output"), METHODS[settings["method"]].teacher_output):
        method = checkpoint(tmp_path / "run")["method"]
        outputs = [len(value) for name, value in method.items() if name.startswith("student_head.")][-1]
        assert outputs == timm.create_model("test_resnet").num_classes == 1000  # the teacher's, not its features


def test_every_figure_of_the_papers_ablations_has_its_recipe():
    """Tables 5, 6 and 7: the figure of the paper in the header, the row's name from the settings."""
    for number in (5, 6, 7):
        for name, (figure,) in TABLES[number]["rows"].items():
            found = []
            for path in RECIPES:
                text, settings = path.read_text(), settings_of(path)
                row = row_name({"method": settings["method"], "stages": settings.get("stages"), "settings": settings})
                if path.stem.endswith("_imagenet") and f"Expected (paper): {figure:.2f} %" in text and row == name:
                    found.append(path.stem)
            assert len(found) == 1, (name, found)


def test_each_method_has_a_published_and_a_small_recipe():
    methods = {suffix: {settings_of(path)["method"] for path in RECIPES if path.stem.endswith(suffix)}
               for suffix in ("_imagenet", "_small")}
    assert methods["_imagenet"] == methods["_small"] == set(METHODS)
