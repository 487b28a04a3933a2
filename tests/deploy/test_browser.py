"""The page of examples/browser in headless Chromium: its features are those of Python."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import write_export

from burn_timm.deploy import load
from burn_timm.deploy.export import export
from deploy.networks import errors, lively

PAGE = Path(__file__).parents[2] / "examples" / "browser"
TEST = """<!doctype html><body>waiting<script type="module">
import { Network } from "./burn.js";
try {
  const network = await Network.open();
  const rgba = Uint8ClampedArray.from({ length: network.side ** 2 * 4 }, (_, i) => (i * 37 + (i >> 7) * 11) % 256);
  const features = [...network.features(rgba)];
  const [black, clear, white] = ["black", "transparent", "white"].map((colour) => {
    const canvas = new OffscreenCanvas(8, 8), context = canvas.getContext("2d");
    context.fillStyle = colour;
    context.fillRect(0, 0, 8, 8);
    return String(network.see(canvas, 8, 8));
  });
  if (clear !== white || clear === black) throw new Error("a transparent picture is not the white one");
  document.body.textContent = JSON.stringify(features);
} catch (error) { document.body.textContent = String(error.stack); }
</script></body>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(tmp_path):
    """A server of tmp_path / "page"."""
    handler = functools.partial(Quiet, directory=str(tmp_path / "page"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_features_in_a_browser_are_those_of_python(tmp_path, address):
    pytest.importorskip("ziglang")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: install Debian's package of that name")
    model = lively(num_classes=0)
    config = {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    trained = write_export(tmp_path / "trained", model, config, weight_bits=1, act_bits=1)
    subprocess.run([sys.executable, PAGE / "build.py", trained, "--output", tmp_path / "page"], check=True)
    (tmp_path / "page" / "test.html").write_text(TEST)
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=60000", "--dump-dom", f"{address}/test.html"],
        capture_output=True, text=True, timeout=300,
    )
    found = re.search(r"<body>(\[.*\])</body>", done.stdout)
    assert found, done.stdout + done.stderr[-2000:]

    place = np.arange(64 * 64 * 4)
    pixels = ((place * 37 + (place >> 7) * 11) % 256).reshape(64, 64, 4)[:, :, :3]
    mean, std = (np.array(config[key], np.float32)[:, None, None] for key in ("mean", "std"))
    images = ((pixels.transpose(2, 0, 1).astype(np.float32) / 255 - mean) / std)[None]
    export(model, tmp_path / "net", "c", img_size=64)
    expected = load(tmp_path / "net", threads=1).features(torch.from_numpy(images))
    assert errors(torch.tensor([json.loads(found[1])]), expected) < 1e-5
