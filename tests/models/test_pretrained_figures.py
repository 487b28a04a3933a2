"""The cards' figures, measured again from the package's own weights, without a network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .test_pretrained import TAGS

ROOT = Path(__file__).parents[2]
CUT = """
import runpy, socket, sys
def refuse(*args):
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = ["eval_downstream.py", *sys.argv[1:]]
runpy.run_module("eval_downstream", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("tag", TAGS)
def test_knn_on_cifar10_is_the_cards(tag, burn_data, tmp_path):
    card = yaml.safe_load((ROOT / "model_cards" / f"{tag}.md").read_text().split("---")[1])
    (figure,) = (metric["value"] for result in card["model-index"][0]["results"] for metric in result["metrics"]
                 if "cifar10" in result["dataset"]["type"] and "knn" in metric["name"].lower())
    out = tmp_path / "knn.json"
    argv = ["knn", "--model", tag, "--pretrained", "--dataset", f"hfds/{burn_data}/cifar10", "--val-split", "test",
            "--engine", "openvino", "--workers", "0", "--output", str(out)]
    subprocess.run([sys.executable, "-c", CUT, *argv], cwd=ROOT, check=True, timeout=3600)
    assert 100 * json.loads(out.read_text())["value"] == pytest.approx(figure, abs=0.05)
