"""What a run chooses for its hardware, and that none of it changes what is learnt beyond rounding."""

import copy
import logging
from dataclasses import replace

import pytest
import timm
import torch

from burn_timm.errors import BurnError
from burn_timm.training import speed
from burn_timm.training.optimizer import make_optimizer
from burn_timm.training.options import parse_options
from burn_timm.training.parser import COMPILE_FROM

from .runs import ONE_STEP, here

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPTIONS = parse_options(["--model", "test_reactnet", "--teacher", "test_resnet"])


def choose(device=CPU, precision="no", steps=10, **given):
    options = replace(OPTIONS, **given)
    return replace(options, **speed.choose(options, device, precision, steps, tell=True))


def test_long_runs_are_compiled_where_that_works(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "burn_timm")
    monkeypatch.setattr(speed, "why_not_compile", lambda device: None)
    assert choose(steps=COMPILE_FROM - 1).compile is False and not caplog.messages
    assert choose(steps=COMPILE_FROM).compile is True
    assert len(caplog.messages) == 1 and "--no-compile" in caplog.text
    assert choose(steps=COMPILE_FROM, compile=False).compile is False
    monkeypatch.undo()
    caplog.clear()

    def broken(*args, **kwargs):
        raise RuntimeError("ld: cannot find -lgomp\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    assert choose(steps=10**6).compile is False
    (told,) = caplog.messages
    assert told.endswith("so the run is slower: ld: cannot find -lgomp and much more")
    with pytest.raises(BurnError, match="--compile does not work here: ld: cannot find -lgomp"):
        choose(compile=True)


def test_what_is_asked_for_and_cannot_be_is_an_error(monkeypatch):
    with pytest.raises(BurnError, match="--count-bits: it is for CPUs"):
        choose(CUDA, count_bits=True)
    with pytest.raises(BurnError, match="--sync-bn needs GPUs"):
        choose(sync_bn=True)
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


@pytest.mark.parametrize("opt", ["adam", "adamw"])
def test_adam_on_weights_in_channels_last_is_adam(opt):
    """It sees them as contiguous arrays; steps, state after a resume and gradients are those of other memory."""
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Conv2d(5, 6, 3), torch.nn.Conv2d(6, 4, 3)) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
        model.to(memory_format=torch.channels_last)
    options = replace(OPTIONS, opt=opt, lr=0.01)
    optimizers = [make_optimizer(options, model, 0.1) for model in models]
    for step in range(4):
        images = torch.randn(2, 5, 8, 8)
        if step == 2:  # the third is resumed from the second
            models[2].load_state_dict(models[1].state_dict())
            optimizers[2].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
        for model, optimizer in zip(models, optimizers, strict=True):
            model(images).pow(2).mean().backward()
            optimizer.step()
            model.zero_grad()
    assert models[1][0].weight.stride() != models[0][0].weight.stride()
    for weights in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(weights[1], weights[0], atol=1e-4, rtol=1e-3)
        assert torch.equal(weights[2], weights[1])


def test_accumulated_batches_share_the_binary_weights(tmp_path, monkeypatch):
    calls, of_run = [], []
    pack = speed.sign_conv.pack_latent
    monkeypatch.setattr(speed.sign_conv, "pack_latent", lambda weight: calls.append(1) or pack(weight))
    for accum in (1, 3):
        here(ONE_STEP, "--max-steps 2 --batch-size 16 --count-bits --grad-accum-steps", accum, "--output",
             tmp_path / str(accum))
        of_run.append(len(calls))
        calls.clear()
    layers = sum(speed.sign_conv.takes(module.weight) for module in timm.create_model("test_reactnet").modules()
                 if hasattr(module, "counts_bits"))
    assert of_run == [2 * layers] * 2 and layers > 5  # two steps each, however many batches a step has


def test_checkpointing_updates_statistics_once():
    images, results = torch.randn(4, 3, 64, 64), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("test_reactnet", num_classes=3).train()
        model.set_grad_checkpointing(checkpointing)
        model(images).square().mean().backward()
        results.append([*model.buffers(), *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *results))

