"""Front matter of cards against rules of the Hub that its specification and its refusals state."""

import pytest
from huggingface_hub import ModelCardData

from burn_timm.hub.measured import Row
from burn_timm.hub.metadata import LICENSES, front_matter_errors


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
    # huggingface/hub-docs at 242f4a1, docs/hub/repositories-licenses.md
    assert {"openmdw-1.0", "openmdw-1.1", "cc-by-nc-4.0", "unknown", "other"} <= LICENSES and len(LICENSES) == 83
    assert not {"open-mdw", "cc-by-nc", "apache2.0"} & LICENSES
