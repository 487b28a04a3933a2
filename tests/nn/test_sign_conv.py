"""Binary convolutions that count bits in training, and convolutions by matrix products, against float64."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import library

from burn_timm.nn import binary, count_bits, sign_conv, weights_held
from burn_timm.nn.checkpointing import checkpointed
from burn_timm.nn.sign_conv import fits, pack_latent, why_not
from burn_timm.nn.sign_conv import sign_conv2d as operator
from burn_timm.nn.small_maps import conv2d_by_product, convolution_backward

LAST = torch.channels_last
CASES = [  # batch, inputs, outputs, kernel, stride, height, width
    (2, 16, 32, 3, 1, 7, 5), (3, 64, 128, 1, 1, 4, 4), (2, 80, 48, 3, 2, 9, 9), (5, 32, 16, 3, 2, 4, 4),
    (4, 48, 64, 3, 1, 2, 2), (4, 128, 32, 3, 2, 3, 2), (1, 16, 16, 3, 1, 1, 1), (2, 32, 80, 1, 2, 5, 6),
    (2, 16, 48, 5, 1, 6, 6),
]


def sign_conv2d(x, weight, stride, padding):
    return operator(x, weight, *pack_latent(weight.detach()), stride, padding)


def operands(case, dtype, weight_format=LAST):
    batch, inputs, outputs, kernel, stride, height, width = case
    generator = torch.Generator().manual_seed(sum(case))
    x = torch.randint(0, 2, (batch, inputs, height, width), generator=generator) * 2 - 1
    weight = torch.randn((outputs, inputs, kernel, kernel), generator=generator)  # a third is beyond +-1
    weight[0, 0, 0, 0], weight[1] = -0.0, 0.25  # -0.0 counts as positive; the mean of equal numbers is that number
    x = x.to(dtype).contiguous(memory_format=LAST).requires_grad_()
    return x, weight.contiguous(memory_format=weight_format).requires_grad_(), stride, kernel // 2


def expected(x, weight, stride, padding, grad):
    """Result and gradients in float64, from the definition: mean|w| * sign(w), straight through on [-1, 1]."""
    x = x.detach().double().requires_grad_()
    w = weight.detach().double()
    binary = w.abs().mean((1, 2, 3), keepdim=True) * torch.where(w >= 0, 1.0, -1.0)
    binary.requires_grad_()
    out = F.conv2d(x, binary, None, stride, padding)
    grad_x, grad_binary = torch.autograd.grad(out, (x, binary), grad.double())
    return out.detach(), grad_x, grad_binary * (w.abs() <= 1)


def error(got, reference):
    return ((got.double() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize(("threads", "weight_format"), [(1, LAST), (2, torch.contiguous_format)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_result_and_gradients(case, dtype, weight_format, threads):
    torch.set_num_threads(threads)
    x, weight, stride, padding = operands(case, dtype, weight_format)
    assert fits(x, weight, padding)
    out = sign_conv2d(x, weight, stride, padding)[0]
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = torch.autograd.grad(out, (x, weight), grad)
    reference = expected(x, weight, stride, padding, grad)
    assert out.dtype == dtype and [g.dtype for g in grads] == [dtype, torch.float32]
    assert out.is_contiguous(memory_format=LAST)
    for got, wanted in zip((out, *grads), reference, strict=True):
        assert got.shape == wanted.shape and error(got, wanted) < (1e-6 if dtype == torch.float32 else 1e-2)
    assert not grads[1][weight.detach().abs() > 1].any()


def test_the_sums_are_exact():
    """With weights of one size the result is a whole number, also where bfloat16 could not count so far."""
    x, weight, stride, padding = operands((2, 512, 16, 3, 1, 5, 5), torch.float32)
    ones = torch.where(weight >= -1, 1.0, -1.0).detach()
    x = torch.where(torch.rand(x.shape) < 0.9, 1.0, -1.0).contiguous(memory_format=LAST)
    out = sign_conv2d(x, ones, stride, padding)[0]
    assert torch.equal(out.double(), F.conv2d(x.double(), ones.double(), None, stride, padding))
    assert out.abs().max() > 1000  # bfloat16 has all whole numbers to 256
    half = sign_conv2d(x.bfloat16(), ones, stride, padding)[0]
    assert torch.equal(half, out.bfloat16())  # rounded once, to nearest even


def test_it_is_an_operator_of_torch():
    """Strides of the fake results are the real ones, gradients are registered: what torch.compile relies on."""
    x, weight, *rest = operands(CASES[2], torch.float32)
    library.opcheck(pack_latent, (weight.detach(),))
    library.opcheck(operator, (x, weight, *pack_latent(weight.detach()), *rest))


def test_only_bits_are_kept_for_the_backward_pass():
    x, weight, stride, padding = operands((8, 64, 64, 3, 1, 16, 16), torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sign_conv2d(x, weight, stride, padding)
    own = [t for t in kept if t.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()]
    assert sum(t.untyped_storage().nbytes() for t in own) < x.nbytes / 10 + weight.numel() / 8 + 1000


def test_what_it_does_not_take():
    x, weight, *_ = operands(CASES[0], torch.float32)
    others = [(x[:, :8], weight[:, :8]), (x.half(), weight), (x.double(), weight), (x, weight[:, :, :1]),
              (x, weight.to("meta")), (x[0], weight), (x.repeat(1, 2, 1, 1), weight), (x[:, :8], weight)]
    assert fits(x, weight, 1) and not any(fits(*other, 1) for other in others)
    assert why_not(torch.device("cpu")) is None and "for CPUs" in why_not(torch.device("cuda"))


def test_other_channels_and_wide_padding_go_the_usual_way():
    """Before, the kernels read behind the end of x, and summed something else."""
    x, weight, *_ = operands(CASES[0], torch.float32)
    with pytest.raises(RuntimeError, match="channels"):
        binary.counting_conv2d(x[:, :8], weight, 1, 1)
    for padding in (3, 4, 6):
        got = binary.counting_conv2d(x, weight, 1, padding)
        reference = expected(x, weight, 1, padding, torch.zeros_like(got))[0]
        assert got.shape == reference.shape and error(got, reference) < 1e-6


def test_no_images():
    for stride, padding in ((1, 1), (2, 0)):
        x, weight = torch.randn(0, 16, 3, 3, requires_grad=True), operands(CASES[0], torch.float32)[1]
        out = sign_conv2d(x, weight, stride, padding)[0]
        grads = torch.autograd.grad(out, (x, weight), torch.zeros_like(out))
        assert [g.shape for g in grads] == [x.shape, weight.shape] and not grads[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_stays_so(dtype):
    """A weight that is NaN beside equal ones, and a gradient that is NaN where |w| > 1."""
    x, weight, *rest = operands(CASES[0], dtype)
    nan = weight.detach().clone()
    nan[1, 0, 0, 0] = torch.nan
    assert pack_latent(nan)[1].isnan().tolist() == [o == 1 for o in range(len(weight))]
    out = sign_conv2d(x, weight, *rest)[0]
    grad = torch.autograd.grad(out, weight, torch.full_like(out, torch.nan))[0]
    assert grad.isnan().all()


def small_network():
    """All of its channel counts fit."""
    torch.manual_seed(0)
    model = timm.create_model("reactnet_a", stem_chs=16, channels=(32, 64, 128), depths=(1, 1, 2), num_classes=7)
    return model.train().to(memory_format=LAST)


def loss_and_gradients(model, images):
    model.zero_grad()
    loss = (model(images) ** 2).mean()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("make", [small_network, lambda: timm.create_model("test_reactnet", num_classes=7).train()])
def test_a_network_learns_the_same(make):
    """Of the second network some channel counts do not fit."""
    model = make()
    images = torch.randn(4, 3, 64, 64)
    usual = loss_and_gradients(model, images)
    count_bits(model)
    counted = loss_and_gradients(model, images)
    count_bits(model, on=False)
    again = loss_and_gradients(model, images)
    assert all(map(torch.equal, usual, again)) and not all(map(torch.equal, usual, counted))
    errors = sorted(error(a, b.double()) for a, b in zip(counted, usual, strict=True) if b.any())
    assert errors[len(errors) // 2] < 1e-3 and abs(counted[0] - usual[0]) < 1e-4 * usual[0]


@pytest.mark.parametrize("counting", [False, True])
def test_held_weights_are_computed_once_and_give_the_same(counting, monkeypatch):
    model = small_network()
    count_bits(model, counting)
    images = torch.randn(2, 3, 64, 64)
    expected = loss_and_gradients(model, images)
    calls = []
    monkeypatch.setattr(binary, "scaled_sign", lambda w, f=binary.scaled_sign: calls.append(1) or f(w))
    monkeypatch.setattr(sign_conv, "pack_latent", lambda w, f=pack_latent: calls.append(1) or f(w))
    with weights_held(model):
        layers = len(calls)
        held = [loss_and_gradients(model, images) for _ in range(2)]
        assert len(calls) == layers == 8
    assert all(map(torch.equal, held[0], expected)) and all(map(torch.equal, held[1], expected))
    with torch.no_grad():
        model.stages[0][0].conv1.weight.neg_()
    assert not torch.equal(loss_and_gradients(model, images)[0], expected[0])  # nothing stays behind the block


def test_other_gradients_and_stages_do_not_count():
    model = small_network()
    for module in model.modules():
        if isinstance(module, binary.BinaryConv2d):
            module.weight_grad = "pass"
            module.weight.data.mul_(100)
    count_bits(model)
    loss_and_gradients(model, torch.randn(2, 3, 64, 64))
    weight = model.stages[0][0].conv1.weight
    assert weight.grad[weight.abs() > 1].any()
    for weight_bits, act_bits in ((32, 1), (32, 32)):
        model = timm.create_model("test_reactnet", weight_bits=weight_bits, act_bits=act_bits)
        count_bits(model)
        assert not any(getattr(module, "counts_bits", False) for module in model.modules())


@pytest.mark.parametrize("case", [case for case in CASES if case[5] * case[6] <= 16])
def test_a_product_is_the_convolution(case):
    x, weight, stride, padding = operands(case, torch.float32)
    out = conv2d_by_product(x, weight, stride, padding)
    reference = F.conv2d(x.double(), weight.double(), None, stride, padding)
    assert out.shape == reference.shape and error(out, reference) < 1e-6
    grad = torch.randn_like(out)
    wanted = torch.autograd.grad(reference, (x, weight), grad.double())
    for got in (torch.autograd.grad(out, (x, weight), grad), convolution_backward(grad, x, weight, stride, padding)):
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.shape == theirs.shape and error(mine, theirs.double()) < 1e-6


def test_a_binary_network_that_is_not_trained_keeps_its_way():
    """A teacher of one bit stands beside the student within the same block."""
    teacher = small_network().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = teacher(images)
        count_bits(teacher)
        with weights_held(teacher):
            assert torch.equal(teacher(images), expected)


def test_autocast_leaves_float64_alone():
    x, weight, stride, padding = operands(CASES[0], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = binary.training_conv2d(x.double(), weight.double(), stride, padding)
        assert binary.training_conv2d(x, weight, stride, padding).dtype == torch.bfloat16
    assert torch.equal(out, F.conv2d(x.double(), weight.double(), None, stride, padding))


def test_checkpointing_without_running_statistics():
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, track_running_stats=False))
    x = torch.randn(2, 3, 5, 5)
    grads = [torch.autograd.grad(call(x).square().sum(), block[0].weight)[0]
             for call in (block, lambda x: checkpointed(block, x))]
    assert torch.equal(*grads)
