"""Front matter of cards against rules of the Hub that its specification and its refusals state."""

import copy

import hub_rules
import pytest
import yaml
from huggingface_hub import ModelCardData

from burn_timm.hub.measured import Row
from burn_timm.hub.metadata import LICENSES, card_errors, front_matter_errors


def result(name, description=""):
    return Row({
        "task": "knn", "value": 0.5, "protocol": {"metric": "top-1 accuracy, fraction"},
        "dataset": {"name": name, "description": description, "test": {"split": "test"}},
    }).eval_result()


@pytest.mark.parametrize("name, kind", [
    ("hfds/$BURN_DATA/cifar10", "uoft-cs/cifar10"),
    ("$BURN_DATA/My photos (2020)", "my-photos-2020"),
    ("wds/.../shard-{000..010}.tar", "shard-000..010-.tar"),
    ("hfds/.../\u9e1f", "images"),
])
def test_any_data_set_has_a_type_that_the_hub_takes(name, kind):
    data = ModelCardData(model_name="network", eval_results=[result(name)]).to_dict()
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == kind
    assert front_matter_errors(data) == []


def test_a_folder_is_known_by_what_it_is_called():
    known = result("folder", "folder tiny-imagenet-200 [train], 100,000 images, 200 classes")
    assert (known.dataset_type, known.dataset_name) == ("zh-plus/tiny-imagenet", "Tiny ImageNet")
    assert result("folder", "folder holidays [train], 9 images").dataset_name == "folder"


@pytest.mark.parametrize("kind", ["my photos", "a/b/c", "photos (2020)", "x+y", "\u9e1f"])
def test_a_type_of_a_data_set_that_the_hub_refuses(kind):
    # "dataset.type" ... fails to match the required pattern: /^(?:[\\w-]+\\/)?[\\w-.]+$/
    data = ModelCardData(model_name="network", eval_results=[result("cifar10")]).to_dict()
    data["model-index"][0]["results"][0]["dataset"]["type"] = kind
    assert front_matter_errors(data) == [f"model-index: dataset.type must be like an id of the Hub, not {kind!r}"]


def test_licences_are_those_of_the_published_list():
    assert LICENSES == hub_rules.LICENCES and len(LICENSES) == 83


GOOD = {
    "library_name": "timm", "license": "other", "license_name": "imagenet-terms-of-access",
    "license_link": "https://www.image-net.org/download.php", "pipeline_tag": "image-feature-extraction",
    "tags": ["timm"], "datasets": ["zh-plus/tiny-imagenet"], "base_model": "timm/resnet50.a1_in1k",
    "metrics": ["accuracy"],
    "model-index": [{"name": "network", "results": [{
        "task": {"type": "image-classification"}, "dataset": {"type": "uoft-cs/cifar10", "name": "CIFAR-10"},
        "metrics": [{"type": "accuracy", "value": 51.92}],
    }]}],
}
RESULT = ("model-index", 0, "results", 0)
GONE = object()


def changed(path, value):
    """GOOD with one entry replaced, or gone."""
    data = copy.deepcopy(GOOD)
    inside = data
    for step in path[:-1]:
        inside = inside[step]
    if value is GONE:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return data


@pytest.mark.parametrize("path, value", [
    (("license",), "apache2.0"), (("license",), 3), (("license",), ["mit", "my-own"]), (("license_name",), GONE),
    (("license_link",), GONE), (("license_name",), "My terms"), (("datasets",), ["not an id"]), (("datasets",), [7]),
    (("base_model",), "a/b/c"), (("tags",), [1]), (("library_name",), ["timm"]), (("pipeline_tag",), 5),
    (("model-index",), 3), (("model-index",), {"name": "network"}), (("model-index", 0, "name"), GONE),
    (("model-index", 0, "results"), GONE), ((*RESULT, "task"), GONE), ((*RESULT, "task", "type"), ""),
    ((*RESULT, "dataset"), GONE), ((*RESULT, "dataset", "type"), GONE), ((*RESULT, "dataset", "type"), "my photos"),
    ((*RESULT, "dataset", "name"), GONE), ((*RESULT, "metrics"), GONE), ((*RESULT, "metrics", 0, "type"), GONE),
    ((*RESULT, "metrics", 0, "value"), GONE), ((*RESULT, "metrics", 0, "value"), float("nan")),
    ((*RESULT, "source"), {"name": "a list"}),
], ids=lambda value: "gone" if value is GONE else None)
def test_what_the_hub_refuses_our_check_refuses_first(path, value):
    card = f"---\n{yaml.safe_dump(changed(path, value))}---\n# A network\n"
    assert hub_rules.refusals(card) and card_errors(card)


def test_what_the_hub_takes_our_check_takes():
    for data in (GOOD, {"license": ["mit", "apache-2.0"]}, {"tags": ["timm"], "base_model": ["a/b", "gpt2"]}):
        card = f"---\n{yaml.safe_dump(data)}---\n# A network\n"
        assert hub_rules.refusals(card) == [] and card_errors(card) == []
