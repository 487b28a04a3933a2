"""What is known of the data sets that networks are trained and measured on: their name on the Hub, and their terms."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import BurnError


@dataclass(frozen=True)
class Terms:
    """A data set.

    Attributes:
        pattern: Its name in ours, a regular expression.
        hub_id: Where it lies on the Hub.
        text: Its terms.
        commercial: Whether they allow commercial use; None where the authors state no licence.
        license_name, link: Name of the terms for a card, and where they stand; of non-commercial ones.
    """

    pattern: str
    name: str
    hub_id: str | None
    text: str
    commercial: bool | None = None
    license_name: str | None = None
    link: str | None = None


_IMAGENET = {
    "text": "its images are ImageNet's, which may be used for non-commercial research and education only, by those who "
            "accept its terms",
    "commercial": False, "license_name": "imagenet-terms-of-access", "link": "https://www.image-net.org/download.php",
}
_CIFAR = ("its authors state no licence, and ask for a citation of Krizhevsky, Learning Multiple Layers of Features "
          "from Tiny Images, 2009")
# That the photos are from Flickr: CUB-200's report (CNS-TR-2010-001); VOC2007: Everingham et al., IJCV 2010.
_FLICKR = ("photos from Flickr, each under its photographer's own terms; burn-timm knows no licence of the data "
           "set's authors: check their page before you publish weights")
_DIGITS = "CC BY 4.0 (UCI Machine Learning Repository)"
KNOWN = (
    Terms("tiny-?imagenet(-?200)?", "Tiny ImageNet", "zh-plus/tiny-imagenet", **_IMAGENET),
    Terms("tiny-?imagenet-?[0-9]+", "a subset of Tiny ImageNet", "zh-plus/tiny-imagenet", **_IMAGENET),
    Terms("mini-?imagenet", "mini-ImageNet", "timm/mini-imagenet", **_IMAGENET),
    Terms("imagenette.*", "Imagenette", "frgfm/imagenette", **_IMAGENET),
    Terms("imagewoof.*", "Imagewoof", "frgfm/imagewoof", **_IMAGENET),
    Terms("imagenet(-?1k|-?2012)?|ilsvrc-?2012|in1k", "ImageNet-1k", "ILSVRC/imagenet-1k", **_IMAGENET),
    Terms("imagenet-?[0-9a-z-]+", "a subset of ImageNet", None, **_IMAGENET),
    Terms("stl-?10", "STL-10", None, **_IMAGENET),
    Terms("cifar-?10", "CIFAR-10", "uoft-cs/cifar10", _CIFAR),
    Terms("cifar-?100", "CIFAR-100", "uoft-cs/cifar100", _CIFAR),
    Terms("digits", "Optical Recognition of Handwritten Digits", None,
          f"the test part, as it is in scikit-learn; {_DIGITS}", True),
    Terms("digits-in-photos", "handwritten digits on photos, both as they are in scikit-learn", None,
          f"digits {_DIGITS}; photos CC BY 2.0, by danielbuechele and vultilion on Flickr", True),
    # "for non-commercial use only", as that page says beside the downloads.
    Terms("svhn.*", "SVHN", "ufldl-stanford/svhn", "non-commercial use only", False, "svhn-non-commercial",
          "http://ufldl.stanford.edu/housenumbers/"),
    # The owners: README of github.com/CSAILVision/places365. What the download page asks for, we could not look up.
    Terms("places-?205", "Places205", None, "the copyright of the images belongs to their owners, as the authors say; "
          "whether the terms of the download allow your use, check there before you publish weights",
          link="http://places.csail.mit.edu/downloadData.html"),
    Terms("cub(-?200)?(-?2011)?", "CUB-200-2011", None, _FLICKR),
    Terms("birdsnap", "Birdsnap", None, _FLICKR),
    Terms("voc-?(20)?(07|12).*|vocdevkit", "PASCAL VOC", None, _FLICKR),
)


def terms_of(dataset: str) -> Terms | None:
    """The data set behind the name or description of one, such as `hfds/$BURN_DATA/cifar10 [train], 50,000 images`."""
    name = re.split(r"[\[,:]", dataset, maxsplit=1)[0].strip().rstrip("/").lower().replace("_", "-")
    last = re.split(r"[/\s]", name)[-1]
    # Free are the digits inside scikit-learn, not what lies in any folder `digits`.
    return next((terms for terms in KNOWN if re.fullmatch(terms.pattern, name if terms.commercial else last)), None)


def strictest(names: Iterable[str]) -> Terms | None:
    """The terms that bind whoever uses all of these data sets: non-commercial ones first, free ones last."""
    order = {False: 0, None: 1, True: 3}
    return min(map(terms_of, names), key=lambda terms: order[terms.commercial] if terms else 2, default=None)


def public(text: str) -> str:
    """`text` with names of the Hub where the path of a copy of ours stood: `$BURN_DATA/cifar10` is `uoft-cs/cifar10`.

    A part of a data set has no name there, and stays the name of a folder.
    """
    def name(match: re.Match) -> str:
        terms = terms_of(match[1])
        return terms.hub_id if terms and terms.hub_id and "subset" not in terms.name else f"PATH_OF/{match[1]}"

    return re.sub(r"\$BURN_DATA/([\w.-]+)", name, text)


@dataclass(frozen=True)
class License:
    """Of weights: the Hub's id, and with `other` a name and an address."""

    id: str | None = None
    name: str | None = None
    link: str | None = None

    def within(self, data: Terms | None, teacher: str | None) -> "License":
        """This licence, or where it is empty the one that the terms ask for.

        Args:
            data: Terms of the training images. teacher: Licence of the teacher's weights.

        Raises:
            BurnError: The terms forbid it, or it is none for the Hub.
        """
        own = License("other", data.license_name, data.link) if data and data.commercial is False else None
        strict = own or (License(teacher) if "-nc" in str(teacher) else None)
        if self == License():
            return strict or License("apache-2.0" if data and data.commercial else "unknown")
        if self == License("other") and own:
            return own
        complete = self.name and self.link if self.id == "other" else not self.name and not self.link
        if self.id is None or not complete:
            raise BurnError("--license other, --license-name and --license-link go together; or give another --license")
        for option, text in (("--license", self.id), ("--license-name", self.name or "x")):
            if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
                raise BurnError(f"{option} {text}: expected lower-case letters, digits, dots and hyphens")
        if strict and not re.search("^other$|-nc|research", self.id):
            cause = f"on {data.name}, whose terms are" if own else f"with a teacher under {teacher}, which is"
            raise BurnError(f"--license {self.id}: the weights were trained {cause} non-commercial, as cc-by-nc-4.0 is")
        return self
