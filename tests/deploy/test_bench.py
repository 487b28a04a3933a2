"""burn-timm bench: every row measured in turn, a failing one says why, and what is written can be trusted."""

import json
import os
import re
import time

import pytest
import timm
import torch
from matplotlib.figure import Figure

from burn_timm.cli import main
from burn_timm.deploy.bench import MOST_BARS, bench, draw_chart
from burn_timm.deploy.engines import ENGINES, Engine

TINY = ["--img-size", "64", "--rounds", "2", "--runs", "2", "--no-memory"]


def fake(calls, name, seconds=0.0, **kwargs):
    def open_it(folder, threads, images):
        def run():
            calls.append(name)
            time.sleep(seconds)

        return run

    return Engine(name, (), lambda model, folder, shape: (folder / "x").write_bytes(b"12345"), open_it, **kwargs)


def failing(*args):
    raise RuntimeError("no such\ninstruction")


@pytest.fixture
def fakes(monkeypatch):
    calls = []
    engines = {
        "openvino-1bit": fake(calls, "ours", 0.002), "slow": fake(calls, "slow", 0.006),
        "broken": Engine("broken", (), failing, failing),
        "absent": Engine("absent", ("no_such_package",), failing, failing),
        "unfit": fake(calls, "unfit", fits=lambda model: False),
    }
    for name, engine in engines.items():
        monkeypatch.setitem(ENGINES, name, engine)
    return calls, list(engines)


def test_rounds_alternate_and_medians_and_ratios_are_right(fakes):
    calls, engines = fakes
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    rows = {row["engine"]: row for row in bench(["test_reactnet"], engines, 64, rounds=3, runs=2, memory=False)}
    assert list(rows) == ["openvino-1bit", "slow", "broken", "absent"]
    # one run to open each, then a warm-up and two runs a round; the second round goes backwards
    ours, slow = 3 * ["ours"], 3 * ["slow"]
    assert calls == ["ours", "slow"] + ours + slow + slow + ours + ours + slow
    assert 2 <= rows["openvino-1bit"]["ms"] < 5 and 6 <= rows["slow"]["ms"] < 12
    assert rows["openvino-1bit"]["ratio"] == 1
    assert rows["slow"]["ratio"] == rows["slow"]["ms"] / rows["openvino-1bit"]["ms"]
    assert rows["slow"]["file_bytes"] == 5 and rows["slow"]["cpu_per_wall"] < 0.9  # it sleeps
    assert rows["broken"]["ms"] is None and rows["broken"]["error"] == "no such instruction"
    assert rows["absent"]["error"] == 'no_such_package is missing: pip install "burn-timm[no_such_package]"'
    if affinity is not None:
        assert os.sched_getaffinity(0) == affinity


def test_the_command(tmp_path, capsys):
    """With whatever is installed; the tests' extras install everything."""
    threads = torch.get_num_threads()
    out = tmp_path / "results" / "bench.json"
    assert main(["bench", "test_reactnet", "test_resnet", *TINY, "--output", str(out)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["command"].startswith("burn-timm bench test_reactnet test_resnet --img-size 64 --rounds 2")
    assert (result["settings"]["img_size"], result["settings"]["rounds"], result["settings"]["threads"]) == (64, 2, 1)
    assert not re.search(r"(?<![\w.])/\w", out.read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = {(row["model"], row["engine"]): row for row in result["rows"]}
    usual = ["torch", "onnxruntime", "openvino", "openvino-bf16"]
    assert list(rows) == [
        *(("test_reactnet", name) for name in ENGINES if name in ["openvino-1bit", "c-1bit", *usual]),
        *(("test_resnet", name) for name in ENGINES if name in [*usual, "onnxruntime-int8", "openvino-int8"]),
    ]
    for key, row in rows.items():
        if row["error"]:  # what this machine lacks; anything else is a defect
            assert "is missing: pip install" in row["error"] or "bfloat16" in row["error"], (key, row["error"])
        else:
            assert 0 < row["ms_min"] <= row["ms"] and len(row["ms_rounds"]) == 2 and row["file_bytes"] > 1000
            assert re.search(rf"\| {key[0]} +\| \**{re.escape(row['title'])}\** ", printed)


def test_a_chart_of_many_rows_has_the_fastest_ones(tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
    rows = [{"model": "net", "architecture": "net", "engine": "torch", "title": f"{ms}", "ms": ms or None}
            for ms in (*range(20, 10, -1), 0, *range(1, 11))]
    draw_chart(tmp_path / "c.png", rows, {"batch_size": 1, "threads": 1, "img_size": 224}, "CPU")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == list(range(MOST_BARS, 0, -1)) and MOST_BARS == 12
    assert "8 slower ones are left out" in drawn[0].get_supxlabel()
    assert "top-1" not in drawn[0].get_supxlabel()


def test_published_accuracies_stand_beside_the_published_networks_alone(tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
    models = ["reactnet_a", "local-dir:output/mine/export", "hf-hub:me/mine", "reactnet_a.mine"]
    rows = [{"model": model, "architecture": "reactnet_a", "engine": "torch", "title": "torch", "ms": 9.0 - place}
            for place, model in enumerate(models)]
    for side in (224, 96):
        draw_chart(tmp_path / "c.png", rows, {"batch_size": 1, "threads": 1, "img_size": side}, "CPU")
    labels = [[label.get_text() for label in figure.axes[0].get_yticklabels()] for figure in drawn]
    others = ["local-dir:export, torch", "hf-hub:me/mine, torch", "reactnet_a.mine, torch"]
    assert labels == [["reactnet_a (69.4 %), torch", *others], ["reactnet_a, torch", *others]]
    assert "top-1" in drawn[0].get_supxlabel()


@pytest.mark.slow
@pytest.mark.parametrize("engine", [name for name in ENGINES if "int8" not in name])
def test_memory_is_that_of_the_network(engine):
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("memory is measured on Linux only")
    (row,) = bench(["reactnet_a_050"], [engine], 32, rounds=1, runs=1)
    weights = sum(parameter.numel() for parameter in timm.create_model("reactnet_a_050").parameters()) * 4
    least = 1e6 if "1bit" in engine else 0.4 * weights
    assert least < row["memory_bytes"] < 4 * weights and row["memory_peak_bytes"] >= row["memory_bytes"], row


@pytest.mark.parametrize(("options", "message"), [
    (["no_such_net"], "timm knows no such name"),
    (["test_reactnet", "--output", "result.txt"], "expected a file that ends in .json"),
    (["test_reactnet", "--threads", "4096"], "--threads 4096: this process may use"),
    (["test_reactnet", "--engines", "broken"], "no row was measured; the table says why"),
    (["test_resnet", "--engines", "c-1bit"], "no row was measured: no engine runs these networks"),
])
def test_bad_input_is_one_line(options, message, fakes, capsys):
    try:
        assert main(["bench", *TINY, *options]) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    err = capsys.readouterr().err
    assert message in err and err.rstrip("\n").splitlines()[-1].startswith("burn-timm bench: ")
