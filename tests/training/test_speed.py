"""What a run chooses for its hardware, and that none of it changes what is learnt beyond rounding."""

import argparse
import json
import logging
import statistics

import pytest
import timm
import torch

from burn_timm.errors import BurnError
from burn_timm.models.reactnet import ReActNet
from burn_timm.training import speed
from burn_timm.training.arrivals import Arrivals
from train_burn import main

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPEN = {"compile": None, "channels_last": None, "count_bits": None}


def choose(device=CPU, precision="no", steps=10, **given):
    args = argparse.Namespace(**{**OPEN, **given})
    speed.choose(args, device, precision, steps, tell=True)
    return args


def test_short_runs_are_not_compiled_and_long_ones_are(monkeypatch, caplog):
    monkeypatch.setattr(speed, "why_not_compile", lambda device: None)
    caplog.set_level(logging.INFO, "burn_timm")
    assert choose(steps=speed.COMPILE_FROM - 1).compile is False and not caplog.messages
    assert choose(steps=speed.COMPILE_FROM).compile is True
    assert len(caplog.messages) == 1 and "--no-compile" in caplog.text
    assert choose(steps=speed.COMPILE_FROM, compile=False).compile is False


def test_where_compiling_fails_one_line_says_so_and_the_run_is_eager(monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("ld: cannot find -lgomp\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    assert choose(steps=10**6).compile is False
    assert caplog.messages == [
        "--compile does not work here, so the run is slower: ld: cannot find -lgomp and much more"
    ]


def test_what_is_asked_for_and_cannot_be_is_an_error(monkeypatch):
    with pytest.raises(BurnError, match="--count-bits: it is for CPUs"):
        choose(CUDA, count_bits=True)
    monkeypatch.setattr(speed.sign_conv, "why_not", lambda device: 'no C compiler')
    with pytest.raises(BurnError, match="--count-bits: no C compiler"):
        choose(count_bits=True)
    assert choose().count_bits is False


@pytest.mark.parametrize(("device", "precision", "expected"), [
    (CPU, "no", True), (CPU, "bf16", True), (CUDA, "no", False), (CUDA, "fp16", True),
])
def test_memory_layout(device, precision, expected):
    assert choose(device, precision).channels_last is expected
    assert choose(device, precision).count_bits is (device == CPU)
    assert choose(device, precision, channels_last=not expected).channels_last is not expected


def test_arrivals_keep_their_order_and_their_lag():
    used = []
    arrivals = Arrivals(lag=2)
    for number in range(4):
        arrivals.add(torch.tensor([number, 0.5]), used.append)
    assert used == [[0.0, 0.5], [1.0, 0.5]]
    arrivals.flush()
    assert [numbers[0] for numbers in used] == [0, 1, 2, 3]
    at_once = Arrivals(lag=0)
    with pytest.raises(BurnError, match="not finite"):
        at_once.add(torch.tensor(float("nan")), lambda number: (_ for _ in ()).throw(BurnError("not finite")))


RUN = ["--model", "reactnet_a_025", "--teacher", "test_resnet", "--no-teacher-pretrained", "--dataset", "digits",
       "--img-size", "32", "--batch-size", "16", "--view", "light", "--lr", "1e-3", "--log-interval", "1",
       "--val-split", "none", "--workers", "0", "--head-dim", "50", "--threads", "1", "--no-compile"]


def losses(output, *options, stages=("w1a1",), steps=50):
    main([*RUN, "--stages", *stages, "--max-steps", str(steps), "--output", str(output), *options])
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow  # three runs
def test_losses_of_fifty_steps(tmp_path):
    """Counting bits rounds elsewhere: the first loss agrees to that, and later ones drift as signs flip."""
    usual = losses(tmp_path / "usual", "--no-count-bits", "--no-channels-last")
    counted = losses(tmp_path / "counted", "--count-bits")
    checkpointed = losses(tmp_path / "checkpointed", "--count-bits", "--grad-checkpointing")
    assert counted[0] == pytest.approx(usual[0], rel=1e-5) and counted != usual
    assert counted == pytest.approx(usual, rel=0.15)
    assert checkpointed == counted  # the same numbers computed twice
    own = (json.loads((tmp_path / name / "summary.json").read_text())["settings"] for name in ("usual", "counted"))
    assert [settings["count_bits"] for settings in own] == [False, True]


@pytest.mark.slow  # two compilations
def test_losses_of_fifty_compiled_steps(tmp_path):
    """The compiler rounds elsewhere, too, with the same consequence. Blocks computed again are fused in another way:
    for them rounding is all, 1e-6 where this was measured."""
    eager = losses(tmp_path / "eager", "--model", "test_reactnet")
    compiled = losses(tmp_path / "compiled", "--model", "test_reactnet", "--compile")
    checkpointed = losses(
        tmp_path / "checkpointed", "--model", "test_reactnet", "--compile", "--grad-checkpointing",
    )
    assert len(eager) == 50 and compiled[0] == pytest.approx(eager[0], rel=1e-5) and compiled != eager
    assert compiled == pytest.approx(eager, rel=0.2)
    assert statistics.mean(compiled[-10:]) == pytest.approx(statistics.mean(eager[-10:]), rel=0.05)
    assert checkpointed == pytest.approx(compiled, rel=1e-4)


def test_accumulated_batches_share_the_binary_weights(tmp_path, monkeypatch):
    sign_conv = pytest.importorskip("burn_timm.nn.sign_conv")
    calls, of_run = [], []
    monkeypatch.setattr(sign_conv, "pack_latent", lambda weight, f=sign_conv.pack_latent: calls.append(1) or f(weight))
    for accum in ("1", "3"):
        losses(tmp_path / accum, "--count-bits", "--grad-accum-steps", accum, steps=2)
        of_run.append(len(calls))
        calls.clear()
    layers = sum(speed.sign_conv.takes(m.weight) for m in timm.create_model("reactnet_a_025").modules()
                 if hasattr(m, "counts_bits"))
    assert of_run == [2 * layers] * 2  # two steps each, however many batches a step has


def test_checkpointing_updates_statistics_once():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64)
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model: ReActNet = timm.create_model("test_reactnet", num_classes=3).train()
        model.set_grad_checkpointing(checkpointing)
        model(images).square().mean().backward()
        results.append([*model.buffers(), *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *results))


def test_a_network_without_checkpointing_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--method", "simclr", "--model", "resnet20_cifar", "--stages", "fp", "--max-steps", "1", "--dataset",
              "digits", "--img-size", "32", "--output", str(tmp_path), "--grad-checkpointing"])
    assert "--grad-checkpointing: " in capsys.readouterr().err
