"""burn-timm card: what it says, where it gets it from, and which results it refuses."""

import hashlib
import json
import shutil
from pathlib import Path

import hub_rules
import pytest
import timm
import torch
import yaml
from exported import write_export

import burn_timm
from burn_timm.cli import main
from burn_timm.compat import save_model_config
from burn_timm.hub.figures import Row

ROOT = Path(__file__).parents[1]
TINY = "hfds/$BURN_DATA/tiny-imagenet-80"
DETAILS = {
    "model": "test_reactnet", "img_size": 32, "method": "burn", "teacher": "resnet50.a1_in1k", "epochs": 3, "seed": 7,
    "stages": ["w32a1", "w1a1"], "dataset": f"{TINY} [train], 40,000 images, 80 classes", "settings": {"dataset": TINY},
    "val_dataset": f"{TINY} [validation], 4,000 images, 80 classes", "commit": "abc", "versions": {"torch": "2.6"},
    "command": "train_burn.py --model test_reactnet --seed 7", "teacher_pretrained": True, "teacher_checkpoint": None,
}
MINE, DIGITS = "folder mine [train], 9 images", "digits [train], 1,437 images"
PIXELS = {"model": "pixels", "checkpoint": None, "weights": None}
UNTRAINED = {"model": "test_reactnet", "checkpoint": None, "weights": "random, seed 0"}
CALIBRATED = {**UNTRAINED, "calibrated_batchnorm": {"images": 4096}}


def make_folder(path, num_classes=0, **changes):
    torch.manual_seed(0)
    model = timm.create_model("test_reactnet", num_classes=num_classes).eval()
    write_export(path, model, {"input_size": (3, 64, 64)}, num_classes=num_classes, weight_bits=1)
    (path / "training.json").write_text(json.dumps({**DETAILS, **changes}))
    return path


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "network")


@pytest.fixture
def result(folder, tmp_path):
    """Writes a result file as eval_downstream.py does, and returns its path."""
    def write(name, value, model="local-dir:export", checkpoint="own", weights="checkpoint x", k=20, task="knn",
              **protocol):
        own = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({
            "task": task, "value": value, "model": model, "command": f"knn --dataset hfds/$BURN_DATA/cifar10 # {name}",
            "checkpoint": checkpoint and {"path": "a/b.bin", "sha256": own if checkpoint == "own" else checkpoint},
            "protocol": {"method": "weighted kNN", "k": k, "metric": "top-1 accuracy, fraction", "weights": weights,
                         "transform": {"input_size": [3, 32, 32], "crop_pct": 1.0}, **protocol},
            "dataset": {"name": "hfds/x/cifar10", "train": {"split": "train", "images": 500, "of": 50_000},
                        "test": {"split": "test", "images": 10_000, "of": 10_000}},
        }))
        return path
    return write


def card(folder, *options):
    """Front matter and body, which the Hub takes."""
    assert main(["card", str(folder), *map(str, options)]) == 0
    text = (folder / "README.md").read_text()
    assert hub_rules.refusals(text) == []
    return yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]


@pytest.fixture
def refused(fails):
    def refused(folder, *options):
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        line = fails("card", folder, *options)
        assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return line
    return refused


LITE0 = ("--teacher-labels", "--dataset-id", "zh-plus/tiny-imagenet", "timm/mini-imagenet")


@pytest.mark.parametrize("tag, studies, said", [
    ("reactnet_a_burn.distill_tiny_imagenet_80_64", ("reactnet_a_burn_label_free", "reactnet_a_burn_baselines"),
     ("--no-teacher-labels",)),
    ("reactnet_a_burn.distill_lite0_tiny_mini_imagenet_64", ("reactnet_a_burn", "reactnet_a_burn_baselines"), LITE0),
    ("reactnet_a_025_burn.distill_lite0_tiny_mini_imagenet_64", ("reactnet_a_025_burn",), LITE0),
])
def test_the_released_card_is_what_the_command_writes(tag, studies, said, tmp_path):
    """After a change of the template, write the card anew: the command stands in docs/experiments/whole_network.md."""
    released, weights = ROOT / "model_cards", Path(burn_timm.__file__).parent / "weights"
    for source, name in ((weights / f"{tag}.safetensors", "model.safetensors"), (released / f"{tag}.png", "curves.png"),
                         (weights / f"{tag}.json", "training.json")):
        shutil.copyfile(source, tmp_path / name)
    arguments = {"weight_bits": 1, "act_bits": 1}
    save_model_config(timm.create_model(tag), tmp_path / "config.json", arguments, {"input_size": (3, 64, 64)})
    results = [ROOT / "results" / f"{name}.jsonl" for name in ("pixels", *studies)]
    card(tmp_path, "--tag", tag, *said, "--results", *results)
    assert (tmp_path / "README.md").read_text().replace("](curves.png)", f"]({tag}.png)") == (
        released / f"{tag}.md").read_text()


def usage(body):
    return body.split("```python\n")[1].split("```")[0].splitlines()


def test_the_load_lines_run_and_name_folder_or_repository(folder, tmp_path):
    """All else of a card's text is that of the released ones, above."""
    front, body = card(folder)
    assert front["license_link"] == "https://www.image-net.org/download.php" and "model-index" not in front
    assert f" {(folder / 'model.safetensors').stat().st_size:,} |" in body and "curves.png" not in body
    names = {"images": torch.randn(2, 3, 64, 64)}
    exec("\n".join(usage(body)).replace("PATH_OF_THIS_FOLDER", str(folder)), names)
    assert names["output"].shape == (2, names["model"].num_features)
    (folder / "curves.png").write_bytes(b"picture")
    front, body = card(folder, "--repo", "me/small")
    assert '("hf-hub:me/small", pretrained=True)' in usage(body)[1] and "# small\n" in body and "](curves.png)" in body
    assert card(make_folder(tmp_path / "classifier", num_classes=5))[0]["pipeline_tag"] == "image-classification"


def cells(body):
    """The table of figures: a tuple of cells a line."""
    lines = [line for line in body.splitlines() if line.startswith("| ") and "top-1" in line]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_figures_with_margins_first(folder, result, tmp_path):
    knn = {"knn_pixels": 0.1, "knn_untrained": 0.125, "knn_teacher": 0.75, "knn_student": 0.5,
           "knn_images": [40_000, 4_000]}
    front, body = card(make_folder(tmp_path / "run", **knn))  # those of the run itself
    data = "a subset of Tiny ImageNet, 40,000 training and 4,000 test images"
    assert cells(body) == [("kNN, top-1", data, "**+40.00**", "**+37.50**", "50.00", "10.00", "12.50")]
    (entry,) = front["model-index"][0]["results"]
    assert entry["dataset"]["type"] == "zh-plus/tiny-imagenet" and entry["metrics"][0]["value"] == 50

    tuned = {"task": "finetune", "fraction": 0.01}
    files = [
        result("own", 0.5), result("pixels", 0.25, **PIXELS), result("tuned", 0.25, starts=["packed"], **tuned),
        *(result(f"untrained{seed}", value, **CALIBRATED) for seed, value in enumerate((0.1, 0.2))),
        result("u", 0.2, starts=["random"], **UNTRAINED, **tuned),  # which trains its BatchNorm
        folder / "training.json",  # a glob catches it too
    ]
    front, body = card(folder, "--repo", "me/small", "--results", *files)
    data = "CIFAR-10, 500 of 50,000 training and 10,000 test images"
    assert cells(body) == [
        ("kNN, top-1", data, "**+25.00**", "**+35.00**", "50.00", "25.00", "15.00 ± 7.07"),
        ("fine-tuning with 1% of the labels, top-1", data, "", "**+5.00**", "25.00", "", "20.00"),
    ]
    assert "`knn --dataset hfds/uoft-cs/cifar10 # own`" in body and "BURN_DATA" not in body  # a path to follow
    (index,) = front["model-index"]
    entry = index["results"][0]["dataset"], index["results"][0]["metrics"][0]
    assert index["name"] == "small" and entry == (
        {"name": "CIFAR-10", "type": "uoft-cs/cifar10", "split": "test"},
        {"type": "accuracy", "value": 50.0, "name": "kNN, top-1 (%)"},
    )
    assert "raw pixels" not in card(folder, "--results", files[0])[1]  # what was not measured has no column


def test_results_that_do_not_belong_are_refused(folder, result, refused):
    own = result("own", 0.5)
    for other, message in (
        (result("other", 0.9, checkpoint="0" * 64), "measured on a/b.bin, which is not "),
        (result("hub", 0.9, checkpoint=None, weights="pretrained, x"), "measured on pretrained, x, which is not "),
        (result("k", 0.9, k=1, **PIXELS), "same task, data and protocol"),
        (result("raw", 0.1, **UNTRAINED), "--calibrate-bn"),
        (result("few", 0.1, **{**CALIBRATED, "calibrated_batchnorm": {"images": 2}}), "calibrated on 2 images"),
        (result("tiny", 0.1, transform={"input_size": [3, 8, 8]}, **CALIBRATED), "and the same input size"),
        (result("foreign", 0.1, **{**CALIBRATED, "model": "reactnet_a"}), "not of test_reactnet"),
    ):
        said = refused(folder, "--results", own, other)
        assert said.startswith(f"{other}: ") and message in said
    assert "no results among the files" in refused(folder, "--results", folder / "training.json")
    (folder / "LICENSE").write_text("Weights converted from BURN, https://github.com/naver-ai/burn.\n")
    assert "was written by burn-timm convert" in refused(folder)


def labels(front):
    """How labels entered the training, by the tags."""
    tags = {"self-supervised-learning": "without", "knowledge-distillation": "teacher"}
    return next((word for tag, word in tags.items() if tag in front["tags"]), "")


@pytest.mark.parametrize("changes, license_id, base", [
    ({"dataset": DIGITS, "teacher": None}, "apache-2.0", None),
    ({"dataset": "hfds/x/cifar10 [train], 50,000 images"}, "unknown", "timm/resnet50.a1_in1k"),
    ({"dataset": MINE, "teacher": "hf-hub:a/b@v1"}, "unknown", "a/b"),
    ({"dataset": MINE, "teacher": "hf_hub:a/b@v1"}, "unknown", "a/b"),
    ({"dataset": MINE, "teacher": "convnextv2_atto.fcmae"}, "cc-by-nc-4.0", "timm/convnextv2_atto.fcmae"),
    ({"dataset": DIGITS, "teacher_pretrained": False}, "apache-2.0", None),
    ({"dataset": DIGITS, "teacher_checkpoint": ".../file.pth"}, "apache-2.0", None),
    ({"dataset": DIGITS, "teacher": "hf-hub:timm/resnet50.a1_in1k"}, "apache-2.0", "timm/resnet50.a1_in1k"),
    ({"dataset": DIGITS, "teacher": "local-dir:a", "teacher_method": "supervised"}, "apache-2.0", None),
    ({"dataset": DIGITS, "teacher": "local-dir:a", "teacher_method": "simclr"}, "apache-2.0", None),
    ({"dataset": DIGITS, "teacher": "local-dir:a", "method": "supervised_kl"}, "apache-2.0", None),
    ({"dataset": DIGITS, "teacher": None, "method": "supervised"}, "apache-2.0", None),
    ({"dataset": "hfds/$BURN_DATA/imagenet_like/mine [train]", "teacher": None}, "unknown", None),
    ({"dataset": "folder digits [train], 9 images", "teacher": None}, "unknown", None),  # not scikit-learn's
], ids=str)
def test_licence_base_model_and_use_of_labels(tmp_path, changes, license_id, base):
    """Labels that entered through the teacher are told; where nothing tells, the card says nothing."""
    folder = make_folder(tmp_path / "run", **changes)
    front, body = card(folder)
    assert (front["license"], front.get("base_model")) == (license_id, base)
    taught = "resnet50" in str(base) or changes.get("teacher_method") == "supervised"
    unknown = "@" in str(changes.get("teacher")) or "teacher_checkpoint" in changes
    expected = {"supervised": "", "supervised_kl": "teacher"}.get(
        changes.get("method"), "teacher" if taught else "" if unknown else "without")
    assert labels(front) == expected and ("label" in body.split("## Use")[0]) != unknown
    if "@" in str(changes.get("teacher")):  # of teachers that are not timm's, whoever publishes knows
        assert labels(card(folder, "--teacher-labels")[0]) == "teacher"
        assert labels(card(folder, "--no-teacher-labels")[0]) == "without"


def test_a_chosen_licence_and_data_set(folder, tmp_path, refused):
    assert card(folder, "--license", "cc-by-nc-4.0")[0]["license"] == "cc-by-nc-4.0"
    free = make_folder(tmp_path / "free", dataset=MINE)
    assert "datasets" not in card(free)[0] and card(free, "--license", "mit")[0]["license"] == "mit"
    own = ("--license-name", "my-terms-1.0", "--license-link", "https://example.org/terms")
    for network, options, message in (
        (folder, ("--license", "apache-2.0"), "non-commercial"), (free, own, "together"), (free, own[:2], "together"),
        (free, ("--license", "mit", *own[:2]), "together"), (free, ("--license", "other"), "--license-link"),
        (free, ("--license", "My own"), "lower-case"),
        (free, ("--license", "other", own[0], "My Terms", *own[2:]), "--license-name My Terms"),
        (free, ("--dataset-id", "my photos"), "OWNER/NAME"), (free, ("--repo", "small"), "OWNER/NAME"),
    ):
        assert message in refused(network, *options)
    for network in (free, folder):  # whoever names terms of their own answers for them, on non-commercial images too
        front, _ = card(network, "--license", "other", *own)
        assert [front[name] for name in ("license", "license_name", "license_link")] == ["other", own[1], own[3]]
    front, body = card(free, "--license", "mit", "--dataset-id", "me/photos", "me/more")
    two = "[me/photos](https://huggingface.co/datasets/me/photos) and [me/more](https://huggingface.co/datasets/me/more)"
    assert body.count(two) == 2  # in the introduction and in the facts of the training
    assert front["license"] == "mit" and "license_name" not in front and front["datasets"] == ["me/photos", "me/more"]
    for ids in (["timm/mini-imagenet"], ["uoft-cs/cifar10", "timm/mini-imagenet"]):  # the strictest terms bind
        front, _ = card(make_folder(tmp_path / ids[0].replace("/", "-"), dataset=MINE), "--dataset-id", *ids)
        assert front["license_name"] == "imagenet-terms-of-access"


@pytest.mark.parametrize("name, description, kind, data", [
    ("hfds/$BURN_DATA/cifar10", "", "uoft-cs/cifar10", "CIFAR-10"),
    ("wds/.../shard-{000..010}.tar", "", "shard-000..010-.tar", "shard-{000..010}.tar"),
    ("hfds/.../\u9e1f", "", "images", "\u9e1f"),
    ("folder", "folder tiny-imagenet-200 [train], 100,000 images", "zh-plus/tiny-imagenet", "Tiny ImageNet"),
])
def test_any_data_set_has_a_type_that_the_hub_takes(name, description, kind, data):
    entry = Row({
        "task": "knn", "value": 0.5, "protocol": {"metric": "top-1 accuracy, fraction"},
        "dataset": {"name": name, "description": description, "test": {"split": "test"}},
    }).eval_result()
    assert (entry.dataset_type, entry.dataset_name) == (kind, data) and hub_rules.is_id(entry.dataset_type)
