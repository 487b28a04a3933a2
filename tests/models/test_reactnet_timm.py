"""What timm models do, where timm's own tests (test_timm_contract.py) look at shapes or not at all."""

import pytest
import timm
import torch
from timm.models import group_parameters, model_parameters
from timm.models._hub import save_for_hf
from timm.optim import create_optimizer_v2

from burn_timm.nn import RPReLU, Shift

from .oracle import randomise

FAMILIES = pytest.mark.parametrize("name,kwargs", [
    ("test_reactnet", {}), ("reactnet_18", {"stem_chs": 8, "channels": (8, 16, 32, 64)}),
])


@pytest.fixture
def images(digits):
    """Eight digits at 64 px, in [0, 1]."""
    return digits[0][:8].float().repeat_interleave(2, 2).repeat_interleave(2, 3) / 255


def _model(name="test_reactnet", **kwargs):
    model = timm.create_model(name, **kwargs)
    randomise(model)
    return model.eval()


@FAMILIES
@pytest.mark.parametrize("size,dtype", [
    ((65, 65), torch.float32), ((33, 130), torch.float32), ((1, 1), torch.float32), ((64, 64), torch.bfloat16)])
def test_any_input_size_and_bfloat16_weights_train(name, kwargs, size, dtype):
    model = timm.create_model(name, dtype=dtype, num_classes=5, **kwargs)
    images = torch.randn(2, 3, *size, dtype=dtype)
    logits = model(images)
    logits.float().logsumexp(1).sum().backward()
    assert logits.shape == (2, 5) and logits.dtype == dtype
    assert size == (1, 1) or all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    stages = model.forward_intermediates(images, intermediates_only=True)
    for info, feature in zip(model.feature_info, stages, strict=True):
        assert list(feature.shape) == [2, info["num_chs"], *(-(-n // info["reduction"]) for n in size)]  # rounded up


def test_forward_intermediates(images):
    model = _model()
    final, features = model.forward_intermediates(images)
    x = model.stem(images)
    for stage, feature in zip(model.stages, features, strict=True):
        x = stage(x)
        assert torch.equal(feature, x)
    assert torch.equal(final, x) and torch.equal(model.forward_features(images), x)
    assert torch.equal(model.forward_head(final), model(images))
    stopped, (feature,) = model.forward_intermediates(images, indices=[1], stop_early=True)
    assert torch.equal(feature, features[1]) and torch.equal(stopped, features[1])
    with pytest.raises(ValueError, match="output_fmt must be NCHW, not NLC"):
        model.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("indices,kept,width", [([1], 2, 32), ([0, 2], 3, 64), (1, 4, 128)])
def test_prune_intermediate_layers(indices, kept, width, images):
    model = _model(num_classes=5)
    _, expected = model.forward_intermediates(images, indices=indices)
    taken = model.prune_intermediate_layers(indices)
    assert taken[-1] == kept - 1 and len(model.stages) == kept
    assert model.num_features == width and model.num_classes == 0
    got = model.forward_intermediates(images, indices=taken, intermediates_only=True)
    assert all(map(torch.equal, got, expected))
    assert torch.equal(model(images), expected[-1])  # without head and pooling
    model.reset_classifier(7, "avg")
    assert model(images).shape == (8, 7)


@pytest.mark.parametrize("global_pool,pooled", [
    ("avg", lambda x: x.mean((2, 3))),
    ("max", lambda x: x.amax((2, 3))),
    ("avgmax", lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2),
    ("catavgmax", lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)),
    ("", lambda x: x),
])
def test_global_pool(global_pool, pooled, images):
    model = _model(num_classes=0, global_pool=global_pool)
    expected = pooled(model.forward_features(images))
    torch.testing.assert_close(model(images), expected)
    assert model.head_hidden_size == expected.shape[1]
    if global_pool:
        model.reset_classifier(9)
        assert model(images).shape == (8, 9)
        torch.testing.assert_close(model.forward_head(model.forward_features(images), pre_logits=True), expected)


def test_reset_classifier(images):
    model = _model(num_classes=5, drop_rate=0.3, dtype=torch.float64).train()
    model.reset_classifier(9, "max")
    assert model.num_classes == 9 and model.head.global_pool.pool_type == "max"
    assert model.get_classifier() is model.head.fc and model.head.fc.weight.shape == (9, 128)
    assert model.head.drop.p == 0.3 and model.head.training and model.head.fc.weight.dtype == torch.float64
    kept = model.forward_head(model.forward_features(images.double()), pre_logits=True) != 0
    assert kept.double().mean().item() == pytest.approx(0.7, abs=0.1)
    model.eval().reset_classifier(0, "")
    assert torch.equal(model(images.double()), model.forward_features(images.double()))


@FAMILIES
def test_layer_groups_follow_the_depth(name, kwargs):
    model = timm.create_model(name, **kwargs)
    blocks = sum(len(stage) for stage in model.stages)
    group_of = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(group_of) == {key for key, _ in model.named_parameters()}
    assert group_of["stem.conv.weight"] == group_of["stem.bn.bias"] == 0
    in_order = [group_of[key] for key, _ in model.stages.named_parameters(prefix="stages")]
    assert in_order == sorted(in_order) and set(in_order) == set(range(1, blocks + 1))
    assert group_of["head.fc.weight"] == blocks + 1
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert set(coarse.values()) == set(range(len(model.stages) + 2))


@FAMILIES
@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_shifts_slopes_and_norms_get_no_weight_decay(name, kwargs, layer_decay):
    model = timm.create_model(name, **kwargs)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    free = {id(m.bias) for m in model.modules() if isinstance(m, Shift)}
    free |= {id(m.prelu.weight) for m in model.modules() if isinstance(m, RPReLU)}
    free |= {id(p) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()}
    free.add(id(model.head.fc.bias))
    for key, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0 if id(parameter) in free else 0.05), key


@FAMILIES
def test_gradient_checkpointing_gives_the_same_gradients_and_stores_less(name, kwargs, images):
    model = timm.create_model(name, num_classes=5, **kwargs).double()
    randomise(model)
    gradients, kept = [], []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            logits = model(images.double())
            final, features = model.forward_intermediates(images.double())
        (logits.square().sum() + final.sum() + sum(f.square().mean() for f in features)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        kept.append(sum(sizes))
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-9, atol=1e-12)
    assert kept[1] < kept[0] / 2


def test_a_saved_model_remembers_its_stage_and_gradient(tmp_path, images):
    model_args = {"weight_bits": 32, "act_bits": 32, "act_grad": "clip"}
    trained = _model(num_classes=7, **model_args)
    save_for_hf(trained, tmp_path, safe_serialization=True, model_args=model_args)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert (loaded.weight_bits, loaded.act_bits, loaded.stages[0][0].sign1.act_grad) == (32, 32, "clip")
    assert torch.equal(loaded(images), trained(images))


def test_model_parameters_can_leave_the_head_out():
    model = timm.create_model("test_reactnet")
    without = list(model_parameters(model, exclude_head=True))  # timm takes the last two for the head
    assert len(without) == len(list(model.parameters())) - 2
    assert not {id(p) for p in without} & {id(p) for p in model.head.parameters()}
