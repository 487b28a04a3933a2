"""What holds for every method: who is trained, who is not, and that the state dict is enough to go on."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from burn_timm import losses
from burn_timm.distributed import most_exact
from burn_timm.methods import METHODS, supervised

from .cases import NAMES, OPTIONS, batch_of, make

MOMENTUM = ("keys.backbone", "keys.head", "target_backbone", "target_head")  # BYOL's target_head, not BURN's
OF_BURN = [
    {"fs_loss": "l1", "adapter": "mlp"}, {"fs_loss": "l2", "fs_on": "projection"},
    {"fs_loss": "unit-l2"}, {"fs_loss": "assignment", "views": "cross"},
    {"kl_direction": "target-student", "teacher_norm": "batch"}, {"target_head": "frozen"},
]
of_every_method = pytest.mark.parametrize("case", {NAMES.get(case, case): case for case in OPTIONS}.values())


def train(method, digits, steps, first=0):
    """`steps` steps of SGD with batches that depend on the step's number alone."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    found = []
    for step in range(first, first + steps):
        values = method(batch_of(method, digits, start=40 * step), step / 8)
        values["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / 8)
        found.append(values["loss"].item())
    return found


def test_every_method_has_a_case():
    assert {NAMES.get(case, case) for case in OPTIONS} == set(METHODS)


@pytest.mark.parametrize(
    ("case", "options"), [*((case, {}) for case in OPTIONS), *(("burn", options) for options in OF_BURN)],
)
def test_one_step_moves_what_is_trained_and_leaves_the_teacher_bit_identical(case, options, digits):
    method = make(case, **options).train()
    teacher = copy.deepcopy(method.teacher.state_dict()) if method.teacher is not None else {}
    before = {name: tensor.detach().clone() for name, tensor in method.named_parameters()}
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    values = method(batch_of(method, digits), 0.25)
    values["loss"].backward()
    optimizer.step()
    assert all(torch.as_tensor(value).numel() == 1 for value in values.values())
    assert not any(torch.is_tensor(v) and v.requires_grad for name, v in values.items() if name != "loss")
    for name, tensor in method.named_parameters():
        moved = not torch.equal(tensor, before[name])
        assert moved == tensor.requires_grad, f"{name} {'moved' if moved else 'stands still'}"
    if teacher:
        for name, tensor in method.teacher.state_dict().items():  # buffers too
            assert torch.equal(tensor, teacher[name]), name
        assert not any(name.startswith("teacher.") for name in method.state_dict())
    method.after_step(0.25)
    for name, tensor in method.named_parameters():  # a momentum target moves now, and only now
        if not tensor.requires_grad and not name.startswith("teacher.") and "frozen" not in options.values():
            assert name.startswith(MOMENTUM) and not torch.equal(tensor, before[name]), name


@of_every_method
def test_a_state_dict_is_enough_to_go_on_bit_for_bit(case, digits):
    first = make(case).train()
    train(first, digits, 2)
    second = make(case).train()
    if second.teacher is not None:  # not in the state dict: its identity is checked by the training script
        second.teacher.load_state_dict(first.teacher.state_dict())
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    assert train(second, digits, 2, first=2) == train(first, digits, 2, first=2)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    state.popitem()
    with pytest.raises(RuntimeError, match="method state: missing"):
        second.load_state_dict(state)


@pytest.mark.parametrize("case", OPTIONS)
def test_on_mps_nothing_is_float64(case, digits, monkeypatch):
    """MPS has no float64. (A loss that was widened for a CPU raises there.)"""
    assert most_exact(torch.device("mps")) == torch.float32 and most_exact(torch.device("cpu")) == torch.float64

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            result = call(*args, **(kwargs or {}))
            assert getattr(result, "dtype", None) != torch.float64, call
            return result

    for module in (losses, supervised):
        monkeypatch.setattr(module, "most_exact", lambda device: torch.float32)
    options = {"lighting": 0.1} if "lighting" in METHODS[NAMES.get(case, case)].options() else {}
    method = make(case, **options).train()
    with Watch():
        method(batch_of(method, digits), 0.25)["loss"].backward()


@of_every_method
def test_half_precision_gives_nearly_the_same_loss(case, digits):
    method = make(case).eval()  # batch statistics of eight images amplify any rounding
    batch = batch_of(method, digits)
    exact = method(batch, 0.25)["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch, 0.25)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.1, abs=0.05)


def test_the_queue_holds_the_newest_keys(digits):
    method = make("mocov2").train()
    queue = method.keys.queue
    start = queue.newest.clone()
    assert torch.allclose(start.norm(dim=-1), torch.ones(20))
    batch = batch_of(method, digits)
    expected = copy.deepcopy(method.keys)(batch["views"][:, 1])
    method(batch, 0.0)
    assert torch.equal(queue.newest[:8], expected) and torch.equal(queue.newest[8:], start[8:])
    for step in range(1, 3):  # 24 keys in all: the first four places are taken a second time
        method(batch_of(method, digits, start=100 * step), 0.0)
    assert queue.seen == 24 and not torch.equal(queue.newest[:4], expected[:4])
    assert torch.equal(queue.newest[4:8], expected[4:8])
    before = queue.newest.clone()
    method.eval()(batch, 0.0)
    assert torch.equal(queue.newest, before)  # evaluation leaves no trace


@pytest.mark.parametrize("case", ["s2bnn_contrastive", "infomin", "swav"])
def test_a_step_asks_the_device_for_no_number_that_it_keeps(case, digits, monkeypatch):
    """From an empty queue to a full one, after a resume, and in the next stage. (A GPU would be waited for.)"""
    asked = []

    def steps(method, count):
        with monkeypatch.context() as patched:
            for name in ("item", "__bool__", "__int__", "__float__", "__index__"):
                ask = getattr(torch.Tensor, name)
                patched.setattr(torch.Tensor, name, lambda t, name=name, ask=ask: asked.append(name) or ask(t))
            for step in range(count):
                method(batch_of(method, digits, start=100 * step), step / 8)["loss"].backward()
                method.after_step(step / 8)
        return method

    method = steps(make(case).train(), 3)
    holder = method if case == "swav" else method.keys
    assert holder.queue.seen == 24 >= len(holder.queue.newest)
    for take_over in ("load_state_dict", "hand_over"):
        other = make(case).train()
        getattr(other, take_over)(method.state_dict())
        steps(copy.deepcopy(other), 1)
    assert not asked
