"""burn-timm card: what it says, where it gets it from, and which results it refuses."""

import hashlib
import json

import pytest
import timm
import torch
import yaml
from timm.models._hub import save_config_for_hf

from burn_timm.cli import main
from burn_timm.counting import count
from burn_timm.hub.metadata import card_errors
from burn_timm.nn import binary_weight_names
from burn_timm.packing import pack_state_dict, save_packed

DETAILS = {
    "model": "test_reactnet", "img_size": 32, "method": "burn", "teacher": "resnet50.a1_in1k",
    "stages": ["w32a1", "w1a1"],
    "dataset": "hfds/$BURN_DATA/tiny-imagenet-80 [train], 40,000 images, 80 classes", "epochs": 3, "seed": 7,
    "val_dataset": "hfds/$BURN_DATA/tiny-imagenet-80 [validation], 4,000 images, 80 classes",
    "command": "train_burn.py --model test_reactnet --seed 7", "commit": "abc", "versions": {"torch": "2.6"},
    "settings": {"dataset": "hfds/$BURN_DATA/tiny-imagenet-80"}, "teacher_pretrained": True, "teacher_checkpoint": None,
}
KNN = {"knn_pixels": 0.1, "knn_untrained": 0.125, "knn_teacher": 0.75, "knn_student": 0.5,
       "knn_images": [40_000, 4_000]}


def make_folder(path, details=DETAILS, num_classes=0):
    torch.manual_seed(0)
    model = timm.create_model("test_reactnet", num_classes=num_classes).eval()
    path.mkdir()
    save_config_for_hf(model, path / "config.json", model_args={"num_classes": num_classes, "weight_bits": 1})
    save_packed(path / "model.safetensors", pack_state_dict(model.state_dict(), binary_weight_names(model)))
    if details is not None:
        (path / "training.json").write_text(json.dumps(details))
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
        digest = own if checkpoint == "own" else checkpoint
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({
            "task": task, "value": value, "model": model, "command": f"python -m eval_downstream knn --name {name}",
            "checkpoint": checkpoint and {"path": "a/file.safetensors", "sha256": digest},
            "protocol": {"method": "weighted kNN", "k": k, "metric": "top-1 accuracy, fraction", "weights": weights,
                         "transform": {"input_size": [3, 32, 32], "crop_pct": 1.0}, **protocol},
            "dataset": {"name": "hfds/x/cifar10", "train": {"split": "train", "images": 500, "of": 50_000},
                        "test": {"split": "test", "images": 10_000, "of": 10_000}},
        }))
        return path
    return write


def card(folder, *options):
    assert main(["card", str(folder), *map(str, options)]) == 0
    text = (folder / "README.md").read_text()
    assert card_errors(text) == []
    return yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]


def refused(capsys, folder, *options):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    capsys.readouterr()
    assert main(["card", str(folder), *map(str, options)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("burn-timm card: ")
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return err.removeprefix("burn-timm card: ").rstrip("\n")


def lines_of_usage(body):
    return body.split("```python\n")[1].split("```")[0].splitlines()


def test_front_matter_of_a_run_on_non_commercial_images(folder):
    front, body = card(folder)
    assert front["library_name"] == "timm" and front["pipeline_tag"] == "image-feature-extraction"
    assert (front["license"], front["license_name"]) == ("other", "imagenet-terms-of-access")
    assert front["license_link"] == "https://www.image-net.org/download.php"
    assert front["datasets"] == ["zh-plus/tiny-imagenet"] and front["base_model"] == "timm/resnet50.a1_in1k"
    assert {"timm", "burn-timm", "binary-neural-network", "self-supervised-learning", "burn"} == set(front["tags"])
    assert "model-index" not in front and "None were measured" in body
    assert "non-commercial too" in body and "`timm/resnet50.a1_in1k`, are under apache-2.0" in body


def test_usage_is_three_lines_that_run(folder, tmp_path):
    images = torch.randn(2, 3, 64, 64)
    lines = lines_of_usage(card(folder)[1])
    assert len(lines) == 3 and lines[0].startswith("import burn_timm") and "local-dir:" in lines[1]
    names = {"images": images}
    exec("\n".join(lines).replace("PATH_OF_THIS_FOLDER", str(folder)), names)
    assert names["output"].shape == (2, names["model"].num_features)
    assert '("hf-hub:me/small", pretrained=True)' in lines_of_usage(card(folder, "--repo", "me/small")[1])[1]
    front, body = card(folder, "--tag", "reactnet_a_burn.photos_32")
    assert '("reactnet_a_burn.photos_32", pretrained=True)' in lines_of_usage(body)[1]
    front, body = card(make_folder(tmp_path / "classifier", num_classes=5))
    assert front["pipeline_tag"] == "image-classification" and "5 logits" in body


def test_usage_by_a_registered_name_has_the_size_that_timm_gives(folder):
    registered = timm.get_pretrained_cfg("reactnet_a_burn")
    side = registered.input_size[-1]
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 32, 32]
    (folder / "config.json").write_text(json.dumps(config))
    assert "[B, 3, 32, 32]" in card(folder)[1] and "one image of 32 px" in card(folder)[1]
    assert side != 32 and "* used at" not in card(folder)[1]
    _, body = card(folder, "--tag", f"reactnet_a_burn.{registered.tag}")
    assert f"[B, 3, {side}, {side}]" in body and f"one image of {side} px" in body
    assert f"* images: 32 px\n* used at: {side} px" in body


def test_figures_of_the_run_itself(tmp_path):
    front, body = card(make_folder(tmp_path / "run", {**DETAILS, **KNN}))
    assert "| **50.00** | 10.00 | +40.00 | 12.50 | +37.50 |" in body and "kNN in the same run: 75.00" in body
    (entry,) = front["model-index"][0]["results"]
    assert entry["dataset"]["type"] == "zh-plus/tiny-imagenet" and entry["metrics"][0]["value"] == 50
    assert "40,000 training and 4,000 test images" in body


def test_results_with_margins_and_protocol(folder, result):
    files = [
        result("own", 0.5), result("pixels", 0.25, model="pixels", checkpoint=None, weights=None),
        *(result(f"untrained{seed}", value, model="test_reactnet", checkpoint=None, weights=f"random, seed {seed}",
                 calibrated_batchnorm={"images": 4096}) for seed, value in enumerate((0.1, 0.2))),
        folder / "training.json",  # a glob catches it too
    ]
    front, body = card(folder, "--repo", "me/small", "--results", *files)
    row = "| kNN, top-1 | CIFAR-10, 500 of 50,000 training and 10,000 test images | **50.00** | 25.00 | +25.00 | "
    assert row + "15.00 ± 7.07 | +35.00 |" in body
    assert "weighted kNN; k 20; metric top-1 accuracy, fraction; 32 px, crop 1.0" in body and "--name own" in body
    (index,) = front["model-index"]
    (entry,) = index["results"]
    assert index["name"] == "small" and entry["task"]["type"] == "image-classification"
    assert entry["dataset"] == {"name": "CIFAR-10", "type": "uoft-cs/cifar10", "split": "test"}
    assert entry["metrics"] == [{"type": "accuracy", "value": 50.0, "name": "kNN, top-1 (%)"}]
    assert "| raw pixels |" not in card(folder, "--results", files[0])[1]  # what was not measured has no column


def test_results_that_do_not_belong_are_refused(folder, result, capsys):
    own = result("own", 0.5)
    other = result("other", 0.9, checkpoint="0" * 64)
    said = refused(capsys, folder, "--results", own, other)
    assert said == f"{other}: measured on a/file.safetensors, which is not {folder}/model.safetensors; leave it out"
    unnamed = result("hub", 0.9, checkpoint=None, weights="pretrained, x")
    assert "measured on pretrained, x, which is not" in refused(capsys, folder, "--results", unnamed)
    pixels = {"model": "pixels", "checkpoint": None, "weights": None}
    assert "same task, data and protocol" in refused(capsys, folder, "--results", own, result("k", 0.9, k=1, **pixels))
    untrained = {"checkpoint": None, "weights": "random, seed 0"}
    said = refused(capsys, folder, "--results", own, result("raw", 0.1, model="test_reactnet", **untrained))
    assert "--calibrate-bn" in said
    foreign = result("foreign", 0.1, model="reactnet_a", calibrated_batchnorm={"images": 9}, **untrained)
    assert "not of test_reactnet" in refused(capsys, folder, "--results", own, foreign)


def test_fine_tuning_has_its_margin_over_the_untrained_network_or_the_card_says_that_it_has_none(folder, result):
    tuned = {"task": "finetune", "fraction": 0.01, "method": "fine-tuning of the whole network"}
    files = [result("knn", 0.5), result("tuned", 0.25, starts=["packed"], **tuned)]
    _, body = card(folder, "--results", *files)
    assert "no margin, for: kNN, top-1, on CIFAR-10; fine-tuning with 1% of the labels, top-1, on CIFAR-10." in body
    untrained = {"model": "test_reactnet", "checkpoint": None, "weights": "random, seed 0"}
    files += [result("u", 0.2, starts=["random"], **untrained, **tuned)]
    _, body = card(folder, "--results", *files)
    assert "| **25.00** | 20.00 | +5.00 |" in body and "so there is no margin, for: kNN, top-1, on CIFAR-10." in body
    assert "| untrained, BatchNorm calibrated (by fine-tuning: trained) | margin |" in body
    _, body = card(folder, "--results", *files, result("uk", 0.1, calibrated_batchnorm={"images": 9}, **untrained))
    assert "| **50.00** | 10.00 | +40.00 |" in body and "no margin" not in body


def test_size_and_operations_are_counted(folder):
    body = card(folder)[1]
    counts = count(timm.create_model("test_reactnet", num_classes=0, device="meta"))
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes" in body
    row = [f"{counts[key]:,.0f}" for key in ("params", "binary_params", "flops", "bops", "ops")]
    assert f"| {' | '.join(row)} |" in body


def test_training_curves_terms_and_citations(folder, tmp_path):
    (folder / "curves.png").write_bytes(b"picture")
    body = card(folder)[1]
    assert "![Curves of the training](curves.png)" in body and "train_burn.py --model test_reactnet --seed 7" in body
    assert "kim2022burn" in body and "liu2020reactnet" in body and "watch whole populations" in body
    assert "trained by burn-timm with `--method burn`" in body and "without labels" in body
    elsewhere = tmp_path / "cards" / "card.md"
    before = (folder / "README.md").read_bytes()
    card(folder, "--output", elsewhere)
    assert "](../network/curves.png)" in elsewhere.read_text() and (folder / "README.md").read_bytes() == before
    card(folder, "--output", elsewhere, "--repo", "me/small")
    assert "](https://huggingface.co/me/small/resolve/main/curves.png)" in elsewhere.read_text()


@pytest.mark.parametrize("method, words", [
    ("burn", "without labels"), ("supervised_kl", "without labels"), ("supervised", "with its labels"),
])
def test_the_card_says_whether_labels_were_used(tmp_path, method, words):
    front, body = card(make_folder(tmp_path / "run", {**DETAILS, "method": method}))
    assert f"classes, {words}." in body and ("self-supervised-learning" in front["tags"]) == (words == "without labels")


@pytest.mark.parametrize("changes, license_id, base", [
    ({"dataset": "digits [train], 1,437 images", "teacher": None}, "apache-2.0", None),
    ({"dataset": "hfds/x/cifar10 [train], 50,000 images"}, "unknown", "timm/resnet50.a1_in1k"),
    ({"dataset": "folder mine [train], 9 images", "teacher": "hf-hub:a/b@v1"}, "unknown", "a/b"),
    ({"dataset": "folder mine [train], 9 images", "teacher": "convnextv2_atto.fcmae"}, "cc-by-nc-4.0",
     "timm/convnextv2_atto.fcmae"),
    ({"dataset": "digits [train], 9 images", "teacher_pretrained": False}, "apache-2.0", None),
    ({"dataset": "digits [train], 9 images", "teacher_checkpoint": ".../file.pth"}, "apache-2.0", None),
], ids=str)
def test_licence_and_base_model(tmp_path, changes, license_id, base):
    front, _ = card(make_folder(tmp_path / "run", {**DETAILS, **changes}))
    assert (front["license"], front.get("base_model")) == (license_id, base)


def test_a_chosen_licence(folder, tmp_path, capsys):
    assert card(folder, "--license", "cc-by-nc-4.0")[0]["license"] == "cc-by-nc-4.0"
    assert "whose terms are non-commercial" in refused(capsys, folder, "--license", "apache-2.0")
    assert "no licence id of the Hub" in refused(capsys, folder, "--license", "mine")
    free = make_folder(tmp_path / "free", {**DETAILS, "dataset": "folder mine [train], 9 images"})
    assert card(free, "--license", "mit")[0]["license"] == "mit"
    assert "--license-name and --license-link" in refused(capsys, free, "--license", "other")
    own = ("--license-name", "my-terms-1.0", "--license-link", "https://example.org/terms")
    assert "go together" in refused(capsys, free, *own) and "go together" in refused(capsys, free, *own[:2])
    assert "license_name must be" in refused(capsys, free, "--license", "other", own[0], "My Terms", *own[2:])
    for network in (free, folder):  # whoever names terms of their own answers for them, on non-commercial images too
        front, _ = card(network, "--license", "other", *own)
        assert [front[name] for name in ("license", "license_name", "license_link")] == ["other", own[1], own[3]]
    front, _ = card(free, "--license", "mit")  # and so the other one's name is gone
    assert front["license"] == "mit" and "license_name" not in front


def test_data_sets_by_their_ids_on_the_hub(folder, tmp_path, capsys):
    assert card(folder, "--dataset-id", "me/photos", "me/more")[0]["datasets"] == ["me/photos", "me/more"]
    assert "datasets must be the ids" in refused(capsys, folder, "--dataset-id", "my photos")
    free = make_folder(tmp_path / "free", {**DETAILS, "dataset": "folder mine [train], 9 images"})
    assert "datasets" not in card(free)[0] and not (free / "card.json").exists()
    front, body = card(free, "--dataset-id", "ILSVRC/imagenet-1k")  # which tells the terms too
    assert front["datasets"] == ["ILSVRC/imagenet-1k"] and front["license_name"] == "imagenet-terms-of-access"
    assert "Trained on ImageNet-1k" in body


def test_a_card_rendered_again_keeps_figures_licence_and_data_sets(folder, result, tmp_path, capsys):
    files = [result("own", 0.5), result("pixels", 0.25, model="pixels", checkpoint=None, weights=None)]
    given = ("--license", "cc-by-nc-4.0", "--dataset-id", "me/photos")
    first = card(folder, *given, "--results", *files)
    assert str(tmp_path) not in (folder / "card.json").read_text()
    for file in files:
        file.unlink()
    assert card(folder) == first
    front, body = card(folder, "--repo", "me/small")
    assert front["license"] == "cc-by-nc-4.0" and front["datasets"] == ["me/photos"]
    assert "**50.00** | 25.00 | +25.00 |" in body and "hf-hub:me/small" in body
    kept = (folder / "card.json").read_bytes()
    assert main(["card", str(folder), "--output", str(tmp_path / "x.md"), "--results", str(result("best", 0.75))]) == 0
    assert "**75.00**" in (tmp_path / "x.md").read_text() and (folder / "card.json").read_bytes() == kept
    _, body = card(folder, "--results", result("better", 0.625))  # instead of the earlier ones
    assert "**62.50**" in body and "50.00" not in body
    (folder / "card.json").write_bytes(kept)
    torch.manual_seed(1)
    model = timm.create_model("test_reactnet", num_classes=0)
    save_packed(folder / "model.safetensors", pack_state_dict(model.state_dict(), binary_weight_names(model)))
    said = refused(capsys, folder)
    assert said.startswith(f"{folder}/card.json, from an earlier card: own.json: measured on a/file.safetensors, ")
    assert said.endswith("; delete it to begin anew")
    for content in ('{"results": 3}', '{"results": [3]}', '{"dataset_id": "me/photos"}', '{"author": "me"}', "[]", "{"):
        (folder / "card.json").write_text(content)
        assert "card.json: " in refused(capsys, folder)


def test_a_folder_without_its_training(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    folder = make_folder(run / "export", None)
    assert "Nothing in the folder tells how" in card(folder)[1]
    (run / "summary.json").write_text(json.dumps(DETAILS))
    assert "train_burn.py --model test_reactnet --seed 7" in card(folder)[1]


def test_what_is_no_export_folder(folder, tmp_path, capsys):
    assert "no model.safetensors" in refused(capsys, tmp_path)
    assert "expected OWNER/NAME" in refused(capsys, folder, "--repo", "small")
    (folder / "training.json").write_text("{")
    assert "training.json: cannot be read" in refused(capsys, folder)


def test_a_converted_folder_keeps_its_card(folder, capsys):
    """It names whose weights they are, which a card made of training.json would not."""
    (folder / "LICENSE").write_text("Weights converted from ReActNet (Liu et al.).\n")
    (folder / "README.md").write_text("origin and licence")
    assert main(["card", str(folder)]) == 2
    assert "written by burn-timm convert" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "origin and licence"
