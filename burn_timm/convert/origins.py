"""Where each layout comes from, and on which terms its published weights are (facts of those repositories)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Title, repository and paper of a layout; `license` is the Hub's identifier, `terms` says why it is that one."""

    title: str
    url: str
    paper: str
    license: str
    terms: str
    interpolation: str = "bilinear"  # torchvision's default, which most evaluate with


_NONE = "Its repository publishes no licence, so nobody but its authors can grant one: ask them before you pass it on."
_NC = "Its repository is under CC BY-NC 4.0: non-commercial use only, whatever this project's code licence."
_OWN = "The file does not tell who trained it: these are the terms of whoever did. Say them by --license."

ORIGINS = {
    "reactnet": Origin("ReActNet", "https://github.com/liuzechun/ReActNet", "2003.03488", "other", _NONE),
    "s2bnn": Origin("S2-BNN", "https://github.com/szq0214/S2-BNN", "2102.08946", "other", _NONE),
    "burn": Origin("BURN", "https://github.com/naver-ai/burn", "2110.08851", "cc-by-nc-4.0", _NC),
    "moco": Origin("MoCo", "https://github.com/facebookresearch/moco", "2003.04297", "cc-by-nc-4.0", _NC),
    "simsiam": Origin("SimSiam", "https://github.com/facebookresearch/simsiam", "2011.10566", "cc-by-nc-4.0", _NC),
    "swav": Origin("SwAV", "https://github.com/facebookresearch/swav", "2006.09882", "cc-by-nc-4.0", _NC),
    "byol": Origin("BYOL", "https://arxiv.org/abs/2006.07733", "2006.07733", "other", _OWN, "bicubic"),
    "barlow": Origin(
        "Barlow Twins", "https://github.com/facebookresearch/barlowtwins", "2103.03230", "mit",
        "Its repository is under the MIT licence.",
    ),
    "vicreg": Origin(
        "VICReg", "https://github.com/facebookresearch/vicreg", "2105.04906", "mit",
        "Its repository is under the MIT licence.",
    ),
    "dino": Origin(
        "DINO", "https://github.com/facebookresearch/dino", "2104.14294", "apache-2.0",
        "Its repository is under the Apache licence 2.0.", "bicubic",
    ),
    "vissl": Origin(
        "VISSL", "https://github.com/facebookresearch/vissl", "", "mit",
        "VISSL and its model zoo are under the MIT licence; weights converted from elsewhere keep their own.",
    ),
    "solo": Origin("solo-learn", "https://github.com/vturrisi/solo-learn", "", "other", _OWN),
    "lightly": Origin("lightly", "https://github.com/lightly-ai/lightly", "", "other", _OWN),
    "torchvision": Origin("torchvision's ResNet", "https://github.com/pytorch/vision", "1512.03385", "other", _OWN),
}
