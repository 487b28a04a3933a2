"""A few cases of the campaign (campaign.py): damaged files of every kind, and image folders in disorder."""

import sys
import warnings

import pytest
from campaign import maker, outcome_of


@pytest.mark.parametrize(("what", "count", "kinds"), [
    ("files", 80, 14),
    pytest.param("folders", 12, 3, marks=pytest.mark.skipif(sys.platform != "linux", reason="names that Linux has")),
])
def test_nothing_is_silently_wrong(what, count, kinds, tmp_path):
    run, found = maker(what, tmp_path), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            kind, finding = outcome_of(run, f"0 {number}")
            assert finding is None, (number, finding)
            found.add(kind)
    assert len(found) >= kinds, found  # else the cases would prove little
