"""Where each layout comes from, and on which terms its published weights are (facts of those repositories)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Who published the weights, where, and on which terms.

    Attributes:
        title, url: Of the code base; `url` is empty where a file tells of none.
        papers: Their numbers on arXiv.
        license: The Hub's identifier; `terms` says why it is that one, and what is not known.
        holder: The copyright line that a licence wants kept.
        interpolation: How the original resizes images; bilinear is torchvision's default, which most evaluate with.
    """

    title: str
    url: str
    papers: tuple[str, ...]
    license: str
    terms: str
    holder: str = ""
    interpolation: str = "bilinear"

    def __str__(self) -> str:
        papers = [f"paper https://arxiv.org/abs/{paper}" for paper in self.papers]
        return ", ".join([self.title, *([self.url] if self.url else []), *papers])


_NONE = "Its repository publishes no licence, so nobody but its authors can grant one: ask them before you pass it on."
_NC = "Its repository is under CC BY-NC 4.0: non-commercial use only, whatever this project's code licence."
_MIT = "Its repository is under the MIT licence."
_OWN = "The file does not tell who trained it: these are the terms of whoever did. Ask them, and say them by --license."
_FACEBOOK = "Copyright (c) Facebook, Inc. and its affiliates."
_GITHUB = "https://github.com"


def _moco(title: str, *papers: str) -> Origin:
    return Origin(
        title, f"{_GITHUB}/facebookresearch/moco", papers, "mit",
        "Its repository was put under the MIT licence in January 2023, but its README went on to say CC BY-NC 4.0: ask "
        "its authors before commercial use.",
        "Copyright (c) Meta Platforms, Inc. and affiliates.",
    )


ORIGINS = {
    "reactnet": Origin("ReActNet", f"{_GITHUB}/liuzechun/ReActNet", ("2003.03488",), "other", _NONE),
    "s2bnn": Origin("S2-BNN", f"{_GITHUB}/szq0214/S2-BNN", ("2102.08946",), "other", _NONE),
    "burn": Origin("BURN", f"{_GITHUB}/naver-ai/burn", ("2110.08851",), "cc-by-nc-4.0", _NC,
                   "Copyright (c) 2022-present NAVER Corp."),
    "moco": _moco("MoCo v1 or v2", "1911.05722", "2003.04297"),  # where the head that tells v1 from v2 is not there
    "moco_v1": _moco("MoCo v1", "1911.05722"),
    "moco_v2": _moco("MoCo v2", "2003.04297"),
    "simsiam": Origin("SimSiam", f"{_GITHUB}/facebookresearch/simsiam", ("2011.10566",), "cc-by-nc-4.0", _NC),
    "swav": Origin("SwAV", f"{_GITHUB}/facebookresearch/swav", ("2006.09882",), "cc-by-nc-4.0", _NC),
    "byol": Origin(
        "BYOL", f"{_GITHUB}/google-deepmind/deepmind-research/tree/master/byol", ("2006.07733",), "other",
        "DeepMind's code is under the Apache licence 2.0, but files for torch are from others: these are the terms of "
        "whoever trained or converted this one. Ask them, and say them by --license.", interpolation="bicubic",
    ),
    "barlow": Origin("Barlow Twins", f"{_GITHUB}/facebookresearch/barlowtwins", ("2103.03230",), "mit", _MIT,
                     _FACEBOOK),
    "vicreg": Origin("VICReg", f"{_GITHUB}/facebookresearch/vicreg", ("2105.04906",), "mit", _MIT, _FACEBOOK),
    "dino": Origin(
        "DINO", f"{_GITHUB}/facebookresearch/dino", ("2104.14294",), "apache-2.0",
        "Its repository is under the Apache licence 2.0.", interpolation="bicubic",
    ),
    "vissl": Origin(
        "VISSL", f"{_GITHUB}/facebookresearch/vissl", (), "mit",
        "VISSL is under the MIT licence, and its model zoo states no other; but some of the zoo's weights are from "
        "other projects, and keep their terms: if these are, say them by --license.", _FACEBOOK,
    ),
    "solo": Origin("solo-learn", f"{_GITHUB}/vturrisi/solo-learn", ("2108.01775",), "other",
                   f"The library is under the MIT licence. {_OWN}"),
    "lightly": Origin("lightly", f"{_GITHUB}/lightly-ai/lightly", (), "other",
                      f"The library is under the MIT licence. {_OWN}"),
    "encoder": Origin("an encoder whose file does not tell its origin", "", (), "other",
                      f"{_OWN} If it is one of the code bases that --from knows, --from does it."),
}
