"""TorchScript, fx, torch.export, torch.compile, memory formats and autocast: the same function as the eager model."""

import copy
import io

import pytest
import timm
import torch

from .oracle import randomise

NARROW_18 = ("reactnet_18", {"stem_chs": 8, "channels": (8, 16, 32, 64), "depths": (1, 2, 1, 1)})
SHORT = ("test_reactnet", {"channels": (16, 32), "depths": (1, 1)})
FAMILIES = pytest.mark.parametrize("name,kwargs", [("test_reactnet", {}), NARROW_18])
EACH = pytest.mark.parametrize("name,kwargs,weight_bits,act_bits,act_grad", [
    ("test_reactnet", {}, 1, 1, "approx"), ("test_reactnet", {}, 32, 1, "clip"),
    (*NARROW_18, 1, 1, "clip"), (*NARROW_18, 32, 32, "approx"),
])
scripting = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


@pytest.fixture
def images(digits):
    """Four digits at 64 px, float64: there no value sits so close to a threshold that rounding could flip its sign."""
    return digits[0][:4].double().repeat_interleave(2, 2).repeat_interleave(2, 3) / 255


def _model(name="test_reactnet", **kwargs):
    model = timm.create_model(name, num_classes=5, dtype=torch.float64, **kwargs)
    randomise(model)
    return model


def _gradients(model, images):
    model.zero_grad()
    model(images).square().sum().backward()
    return {key: parameter.grad for key, parameter in model.named_parameters()}


def _assert_trains_alike(model, other, images):
    """Gradients (of every parameter, so the logits agree, too) and BatchNorm statistics after a pass in train mode."""
    expected, found = _gradients(model, images), _gradients(other, images)
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        torch.testing.assert_close(found[key], wanted, rtol=1e-8, atol=1e-10, msg=lambda text, key=key: f"{key} {text}")
    statistics = dict(other.named_buffers())
    for key, wanted in model.named_buffers():
        torch.testing.assert_close(statistics[key], wanted)


@scripting
@EACH
def test_scripted(name, kwargs, weight_bits, act_bits, act_grad, images):
    model = _model(name, weight_bits=weight_bits, act_bits=act_bits, act_grad=act_grad, **kwargs)
    scripted = torch.jit.script(copy.deepcopy(model))
    for _ in range(2):  # the profiling executor optimises from the second call on
        _assert_trains_alike(model.train(), scripted.train(), images)
    buffer = io.BytesIO()
    torch.jit.save(scripted.eval(), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(images), model.eval()(images))


@EACH
def test_symbolic_trace(name, kwargs, weight_bits, act_bits, act_grad, images):
    model = _model(name, weight_bits=weight_bits, act_bits=act_bits, act_grad=act_grad, **kwargs)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    # One node for each sign, so that a compiler can recognise it.
    signs = [node for node in traced.graph.nodes if getattr(node.target, "__name__", "") == "binary_sign"]
    assert len(signs) == (0 if act_bits == 32 else sum(".sign" in key for key, _ in model.named_parameters()))
    _assert_trains_alike(model.train(), traced.train(), images)
    assert torch.equal(traced.eval()(images[:1]), model.eval()(images[:1]))


@pytest.mark.parametrize("name,kwargs,weight_bits,act_bits", [
    (*SHORT, 1, 1), pytest.param(*NARROW_18, 32, 1, marks=pytest.mark.slow),
])
def test_export(name, kwargs, weight_bits, act_bits, images):
    model = _model(name, weight_bits=weight_bits, act_bits=act_bits, **kwargs).eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(model, (images,), dynamic_shapes=({0: auto, 2: auto, 3: auto},), strict=False)
    for other in (images, images[:3], images[:2, :, :50, :33]):
        assert torch.equal(program.module()(other), model(other))


@pytest.mark.parametrize("name,kwargs,act_grad,backend", [
    (*SHORT, "approx", "aot_eager"),
    pytest.param("test_reactnet", {}, "clip", "inductor", marks=pytest.mark.slow),
    pytest.param(*NARROW_18, "approx", "inductor", marks=pytest.mark.slow),
])
def test_compile(name, kwargs, act_grad, backend, images):
    model = _model(name, act_grad=act_grad, **kwargs)
    compiled = copy.deepcopy(model)
    compiled.compile(backend=backend, fullgraph=True)
    _assert_trains_alike(model, compiled, images)
    if backend == "inductor":
        with torch.no_grad():
            torch.testing.assert_close(compiled.eval()(images), model.eval()(images))


@FAMILIES
def test_channels_last(name, kwargs, images):
    model = _model(name, **kwargs)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    inputs = images.contiguous(memory_format=torch.channels_last)
    _assert_trains_alike(model, other, images)
    features = other.eval().forward_intermediates(inputs, intermediates_only=True)
    expected = model.eval().forward_intermediates(images, intermediates_only=True)
    for feature, wanted in zip(features, expected, strict=True):
        assert feature.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature, wanted)


@EACH
def test_bfloat16_autocast(name, kwargs, weight_bits, act_bits, act_grad, images):
    model = timm.create_model(
        name, num_classes=5, weight_bits=weight_bits, act_bits=act_bits, act_grad=act_grad, **kwargs)
    images = images.float()
    wanted, (wanted_first,) = model.forward_intermediates(images, indices=[0])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
        final, (first,) = model.forward_intermediates(images, indices=[0])
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), key
    # With 1-bit activations rounding flips some signs: a few in the first stage, far too many to compare in the last.
    alike = torch.cosine_similarity(first.float().flatten(), wanted_first.flatten(), dim=0)
    assert alike > (0.99 if act_bits == 32 else 0.95)
    if act_bits == 32:
        assert torch.cosine_similarity(final.float().flatten(), wanted.flatten(), dim=0) > 0.99
