"""Private or version-dependent corners of timm, torch and accelerate still are as `burn_timm.compat` expects them.

When a test fails after an upgrade, its docstring says what to do.
"""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset

from burn_timm import compat

# timm: dataset readers ----------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    """timm's dataset of three shards with four samples each; sample 5 has no class."""
    pytest.importorskip("webdataset")
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    for shard in range(3):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                for ending, data in (("png", stream.getvalue()), ("cls", b"7"))[: 1 if number == 5 else 2]:
                    info = tarfile.TarInfo(f"{number:02d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return create_dataset("wds/x", root=str(tmp_path), split="s-{0..2}.tar|12", is_training=False)


def test_wds_split(shards):
    """If it fails: find where timm's ReaderWds keeps the parsed split now (it was `split_info`)."""
    info = compat.wds_split(shards)
    assert info.num_samples == 12 and list(info.filenames) == ["s-0.tar", "s-1.tar", "s-2.tar"] and not info.alt_label


def test_wds_decoder_replaces_timms_own(shards):
    """If it fails: timm's pipeline no longer ends in its decoder and a renaming, or is not built by `_lazy_init`. Look
    at ReaderWds and put our function where timm decodes a sample; without it samples without a class are lost."""
    compat.wds_decoder(shards, lambda sample: {"image": sample["png"], "target": sample.get("cls")})
    found = list(shards)
    assert len(found) == 12 and all(image.startswith(b"\x89PNG") for image, _ in found)
    assert [target for _, target in found][4:7] == [b"7", None, b"7"]


def test_wds_share(shards):
    """If it fails: ReaderWds has other names for rank and number of processes (`dist_rank`, `dist_num_replicas`)."""
    compat.wds_share(shards, 1, 3)
    compat.wds_decoder(shards, lambda sample: {"image": sample["png"], "target": int(sample["__key__"])})
    assert {target for _, target in shards} == {4, 5, 6, 7}


def test_wds_own_epoch(shards):
    """If it fails: ReaderWds counts epochs elsewhere (it was `epoch_count`, in memory that processes share)."""
    before = shards.reader.epoch_count
    compat.wds_own_epoch(shards)
    shards.set_epoch(3)
    assert shards.reader.epoch_count.value == 3 and before.value == 0


def test_torchvision_targets():
    """If it fails: a dataset of torchvision keeps the classes of its images under another name."""
    class Known:
        targets = torch.tensor([3, 1])

    class Rows:  # QMNIST
        targets = torch.tensor([[3, 0], [1, 0]])

    class Index:  # INaturalist
        index = [(3, "a.jpg"), (1, "b.jpg")]

    for dataset in (Known, Rows, Index):
        np.testing.assert_array_equal(compat.torchvision_targets(dataset), [3, 1])
