"""`ImageSource`: labels that are missing or out of range, subsets, and classes matched by name."""

import logging

import pytest
from PIL import Image

from burn_timm.data import align, eval_loader, make_view, random_subset
from burn_timm.data.sources import ImageSource, Store

from .pictures import refused, targets


class Grey(Store):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (index, index, index))


def source(classes, names=None, title="a [train]") -> ImageSource:
    return ImageSource(Grey(len(classes)), title, classes, names)


def test_a_partly_labelled_split_is_unlabelled_where_labels_are_needed():
    part = source([0, -1, 2, -1], list("abc"))
    assert not part.labelled and part.num_classes == 3 and targets(part) == [0, -1, 2, -1]
    assert part.description == "a [train], 4 images, 3 classes, 2 images without a label"
    with refused("--method supervised: needs labels, and 2 of 4 images of a .train. have none$"):
        part.require_labels("--method supervised")
    with refused("2 of 2 images of a .train. have none .a folder of images has labels where"):
        source([-1, -1]).require_labels("knn")
    with refused("2 of 4 images"):
        part.labels()
    assert part.subset([0, 2]).labelled and part.subset([0, 2]).labels().tolist() == [0, 2]
    assert len(next(iter(eval_loader(part, make_view("none", 4))))[0]) == 4  # without labels it goes on


def test_no_label_at_all_means_unlabelled():
    for none in (source([-1, -1], ["a", "b"]), ImageSource(Grey(2), "a", None)):
        assert not none.labelled and none.num_classes is None and none.class_names is None
        assert none.description.endswith("2 images, unlabelled")
        with refused("2 of 2 images"):
            none.require_labels("knn")


@pytest.mark.parametrize(("classes", "names", "told"), [
    ([0, 99, 1, 4], list("abcd"), r"row 1 \(image 1 of a .train.\): class 99, expected 0 to 3.* 2 of 4 images"),
    ([0, 1, -5], None, r"row 2 .*class -5, expected 0 to 1"),
])
def test_classes_out_of_range_are_refused(classes, names, told):
    with refused(told):
        source(classes, names)


def test_subsets_keep_classes_and_names():
    whole = source([0, 1, 2, 0, 1, 2], list("abc"))
    part = random_subset(whole, 4, seed=1)
    assert part.num_classes == 3 and part.description.startswith("4 of a [train], 6 images, 3 classes")
    kept = [int(name.split()[1]) for name in map(part.file_name, range(4))]
    assert kept == sorted(kept) and targets(part) == part.labels().tolist() == [index % 3 for index in kept]
    assert [part.load(i)[0].getpixel((0, 0))[0] for i in range(4)] == kept


def test_classes_are_matched_by_name(caplog):
    train = source([0, 1, 2, 2], ["ant", "bee", "cow"])
    test = source([1, 0, -1], ["bee", "cow"], "b [val]")
    with caplog.at_level(logging.WARNING):
        aligned = align(test, train)
    assert targets(aligned) == [2, 1, -1] and targets(test) == [1, 0, -1]
    assert aligned.class_names == train.class_names and aligned.num_classes == 3
    (told,) = caplog.messages
    assert "no image of class ant" in told
    assert align(train, train) is train and len(caplog.messages) == 1


def test_a_class_that_training_lacks_is_refused_by_its_name():
    train = source([0, 1], ["ant", "bee"])
    with refused("2 classes: cow, dog not among the 2 classes"):
        align(source([0, 1, 2], ["cow", "bee", "dog"], "b"), train)
    assert targets(align(source([1], ["cow", "bee"], "b"), train)) == [1]  # a name without an image is no harm
    with refused("same name"):
        align(source([0], ["ant"]), source([0, 1], ["ant", "ant"]))
    train, test = source([0, 1, 2]), source([1, 1], title="b")  # plain integers stay as they are
    assert align(test, train) is test and align(source([0], ["x"]), train).class_names == ["x"]
