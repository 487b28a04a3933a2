"""The Hub's rules of front matter, and what we know of data sets."""

import pytest

from burn_timm.hub.metadata import card_errors
from burn_timm.hub.terms import KNOWN, terms_of

GOOD = """license: other
license_name: imagenet-terms-of-access
license_link: https://www.image-net.org/download.php
library_name: timm
tags: [timm]
datasets: [zh-plus/tiny-imagenet]
base_model: timm/resnet50.a1_in1k
model-index:
- name: small
  results:
  - task: {type: image-classification}
    dataset: {type: uoft-cs/cifar10, name: CIFAR-10}
    metrics: [{type: accuracy, value: 50.0}]
"""


def errors(front):
    return card_errors(f"---\n{front}---\n# A model\n")


def test_a_good_card():
    assert errors(GOOD) == [] and errors("license: mit\n") == [] and errors("license: [mit, apache-2.0]\n") == []


@pytest.mark.parametrize("old, new, said", [
    ("license: other", "license: my-own", "license must be one of"),
    ("license_name: imagenet-terms-of-access\n", "", "license other needs license_name"),
    ("license_link: https", "license_link: 3 #", "license_link must be text"),
    ("license_name: imagenet-terms-of-access", "license_name: My Terms", "license_name must be lower-case"),
    ("tags: [timm]", "tags: timm", "tags must be a list"),
    ("tags: [timm]", "tags: [1.0]", "tags must be a list of texts"),
    ("library_name: timm", "library_name: 3", "library_name must be text"),
    ("[zh-plus/tiny-imagenet]", "['tiny imagenet']", "datasets must be the ids"),
    ("timm/resnet50.a1_in1k", "local-dir:output/x/y", "base_model must be the ids"),
    ("- name: small", "- title: small", "model-index: KeyError 'name'"),
    ("- name: small", "- name: 3", "name must be text"),
    ("    metrics: [{type: accuracy, value: 50.0}]\n", "", "model-index: KeyError 'metrics'"),
    ("value: 50.0", "worth: 50.0", "model-index: KeyError 'value'"),
    ("value: 50.0", "value: .nan", "metric.value must be a number"),
    ("value: 50.0", "value: true", "metric.value must be a number"),
    ("type: uoft-cs/cifar10, name", "name", "model-index: KeyError 'type'"),
    ("{type: image-classification}", "{type: 3}", "task.type must be text"),
    ("{type: image-classification}", "image-classification", "model-index: TypeError"),
    ("tags: [timm]", "tags: [timm", "not YAML"),
])
def test_each_rule(old, new, said):
    assert old in GOOD
    found = errors(GOOD.replace(old, new))
    assert len(found) == 1 and said in found[0], found


def test_cards_without_front_matter():
    for text in ("", "# A model\n", "---\nlicense: mit\n", "---\n- a\n- b\n---\n"):
        assert len(card_errors(text)) == 1, text


@pytest.mark.parametrize("dataset, name", [
    ("hfds/$BURN_DATA/tiny-imagenet-80 [train], 40,000 images, 80 classes", "a subset of Tiny ImageNet"),
    ("hfds/zh-plus/tiny-imagenet [train], 100,000 images", "Tiny ImageNet"),
    ("hfds/ILSVRC/imagenet-1k [train]", "ImageNet-1k"), ("folder imagenet [train], 1,281,167 images", "ImageNet-1k"),
    ("imagenet-100", "a subset of ImageNet"), ("torch/cifar10", "CIFAR-10"), ("hfds/x/cifar100 [test]", "CIFAR-100"),
    ("digits [train], 1,437 images, 10 classes", "Optical Recognition of Handwritten Digits"),
    ("cub CUB_200_2011 [train], 5,994 images", "CUB-200-2011"), ("voc07 VOCdevkit [trainval]", "PASCAL VOC"),
    ("torch/stl10 [unlabeled]", "STL-10"), ("folder my-photos [train], 10 images", None),
    ("hfds/$BURN_DATA/imagenet_like/mine [train]", None), ("", None),
])
def test_data_sets_are_known_by_their_names(dataset, name):
    found = terms_of(dataset)
    assert (found and found.name) == name


def test_non_commercial_terms_have_a_name_and_a_place():
    restricted = [terms for terms in KNOWN if terms.commercial is False]
    assert restricted
    for terms in restricted:
        front = f"license: other\nlicense_name: {terms.license_name}\nlicense_link: {terms.link}\n"
        assert errors(front) == [], terms.name
    assert all(errors(f"datasets: [{terms.hub_id}]\n") == [] for terms in KNOWN if terms.hub_id)


@pytest.mark.parametrize("name", ["places205", "cub", "birdsnap", "voc07"])
def test_terms_that_nobody_could_look_up_tell_the_user_to_check(name):
    terms = terms_of(name)
    assert terms.commercial is None and "check" in terms.text and "publish weights" in terms.text
    assert "non-commercial" not in terms.text and "grant no" not in terms.text
