"""What decays, what LARS adapts, what is synchronised and where weights get gradients: ours and as published."""

import pytest
import torch
from methods.cases import make

from burn_timm.nn import BinaryConv2d, weights_held
from burn_timm.training.build import build_student
from burn_timm.training.optimizer import make_optimizer
from burn_timm.training.options import parse_options
from burn_timm.training.speed import choose
from burn_timm.training.stage import synchronise

TINY = ["--model", "test_reactnet", "--teacher", "test_resnet", "--img-size", "32"]


def parameters(options):
    """Of a layer of each kind, all ones, all with gradients of 0.5."""
    modules = torch.nn.ModuleDict({
        "conv": BinaryConv2d(3, 4, 3), "linear": torch.nn.Linear(3, 4), "bn": torch.nn.BatchNorm1d(4),
        "frozen": torch.nn.Linear(2, 2).requires_grad_(False),
    })
    optimizer = make_optimizer(options, modules, 0.1)
    for parameter in modules.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.full_like(parameter, 0.5) if parameter.requires_grad else None
    return optimizer, dict(modules.named_parameters())


@pytest.mark.parametrize(("choice", "decayed"), [
    ("weights", {"conv.weight", "linear.weight"}), ("convolutions", {"conv.weight"}),
    ("all", {"conv.weight", "linear.weight", "linear.bias", "bn.weight", "bn.bias"}),
])
def test_what_decays_and_is_adapted(choice, decayed):
    """SGD: w - lr (g + decay w). LARS: the same step x 0.001 |w| / (|g| + decay |w|), where there is decay."""
    for opt, trust in (("momentum", 1.0), ("lars", 0.001 * 1 / (0.5 + 0.1))):
        options = parse_options([*TINY, "--opt", opt, "--lr", "0.1", "--momentum", "0", "--weight-decay-on", choice])
        optimizer, found = parameters(options)
        optimizer.step()
        for name, parameter in found.items():
            step = 0.0 if name.startswith("frozen") else 0.1 * trust * 0.6 if name in decayed else 0.1 * 0.5
            torch.testing.assert_close(parameter, torch.full_like(parameter, 1 - step), msg=f"{opt} {name}")


def test_weight_grad_pass_reaches_every_binary_convolution_and_counts_no_bits():
    options = parse_options([*TINY, "--weight-grad", "pass"])
    assert choose(options, torch.device("cpu"), "no", steps=1, tell=False)["count_bits"] is False
    student = build_student(options, "w1a1", seed=1).train()
    weights = [module.weight for module in student.modules() if isinstance(module, BinaryConv2d)]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(100)
    with weights_held(student):
        student(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert weights and all((weight.grad[weight.abs() > 1] != 0).any() for weight in weights)


@pytest.mark.parametrize("heads_only", [False, True])
def test_what_sync_bn_is_for(heads_only):
    method = make("burn", adapter="mlp")
    synchronise(method, heads_only)
    synchronised, plain = set(), set()
    for name, module in method.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            found = synchronised if isinstance(module, torch.nn.SyncBatchNorm) else plain
            found.add(name.split(".")[0])
    heads = {"student_head", "target_head", "adapter"}
    assert synchronised == heads | (set() if heads_only else {"backbone"})
    assert plain == {"teacher"} | ({"backbone"} if heads_only else set())
