"""Two processes of 16 images compute what one of 32 does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data.pictures import write
from hub_server import HubServer
from methods.cases import OPTIONS

from burn_timm.data.loader import epoch_order, seed_for

from .runs import ROOT, SHORT, checkpoint, environment, log
from .two_process_worker import encoder
from .two_process_worker import main as three_steps_of_all

WORKER = Path(__file__).with_name("two_process_worker.py")
EIGHT_STEPS = [
    *SHORT, "--workers", "0", "--batch-size", "32", "--log-interval", "1", "--val-split", "none", "--max-steps", "4",
]


def launch(processes: int, *command: str) -> None:
    """Run a script in several processes on the CPU by torchrun, as README says."""
    done = run(processes, *command)
    assert done.returncode == 0, done.stderr[-3000:]


def run(processes: int, *command: str, **env: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *command,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**plain_environment(), **env})


def plain_environment() -> dict[str, str]:
    """Of a user with a CPU, who has never heard of ACCELERATE_USE_CPU."""
    env = {**environment(), "CUDA_VISIBLE_DEVICES": ""}
    del env["ACCELERATE_USE_CPU"]
    return env


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Three steps of every method in one process and in two; starting them takes longer than the steps."""
    folder = tmp_path_factory.mktemp("records")
    three_steps_of_all(32, str(folder / "1.pt"))
    launch(2, str(WORKER), "16", str(folder / "2.pt"))
    return [torch.load(folder / f"{processes}.pt", weights_only=True) for processes in (1, 2)]


@pytest.mark.parametrize("case", OPTIONS)
def test_losses_and_gradients_of_three_steps_agree(case, records):
    one, two = (record[case] for record in records)
    assert [step["processes"] for step in one] == [1] * 3 and [step["processes"] for step in two] == [2] * 3
    for a, b in zip(one, two, strict=True):
        assert len(a["gradients"]) > 20
        for kind in ("scalars", "queues", "gradients"):
            torch.testing.assert_close(a[kind], b[kind], atol=1e-8, rtol=0)


def test_keys_are_normalised_among_strangers(records):
    """MoCo's shuffling BatchNorm: a process's keys go through the encoder with images of both, and come back to it."""
    orders = []
    for step in records[1]["shuffled keys"]:
        key_of = {}
        for group in step["seen"]:  # those that one process encoded together
            keys = torch.nn.functional.normalize(encoder().train()(group), dim=-1)
            key_of.update({image.numpy().tobytes(): key for image, key in zip(group, keys.detach(), strict=True)})
        places = [[image.numpy().tobytes() for image in step["images"]].index(image.numpy().tobytes())
                  for image in step["seen"].flatten(0, 1)]
        assert step["seen"].shape[:2] == (2, 16) and sorted(places) == list(range(32))
        assert any(place < 16 for place in places[16:]) and any(place >= 16 for place in places[:16])
        expected = torch.stack([key_of[image.numpy().tobytes()] for image in step["images"]])
        torch.testing.assert_close(step["keys"], expected, atol=1e-12, rtol=0)
        orders.append(places)
    assert orders[0] != orders[1]  # a new order in every step
    for step in records[0]["shuffled keys"]:  # one process has nobody to hide from
        assert torch.equal(step["seen"][0], step["images"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    launch(2, str(WORKER.with_name("leaving_worker.py")), *EIGHT_STEPS, "--output", str(output))
    return output


def test_train_burn_in_two_processes_is_one_run(whole):
    assert log(whole, "step") == list(range(1, 9)) and set(log(whole, "total_batch_size")) == {64}
    assert checkpoint(whole)["identity"]["processes"] == 2


def test_no_thread_of_the_process_group_outlives_the_run(whole):
    """One that lets go of its last tensor while the interpreter ends aborts the process."""
    assert_no_gloo(whole)


@pytest.mark.slow
def test_no_thread_of_the_process_group_outlives_a_run_that_fails(tmp_path):
    options = [*EIGHT_STEPS, "--opt", "sgd", "--lr", "1e30", "--output", str(tmp_path)]
    done = run(2, str(WORKER.with_name("leaving_worker.py")), *options)
    assert done.stderr.count("train_burn.py: error: ") == 2 and "not finite" in done.stderr, done.stderr[-3000:]
    assert_no_gloo(tmp_path)


def assert_no_gloo(folder: Path) -> None:
    for rank in range(2):
        names = json.loads((folder / f"threads.{rank}.json").read_text())
        assert not [name for name in names if "gloo" in name]
        assert names or not sys.platform.startswith("linux")


@pytest.mark.slow
def test_train_burn_in_two_processes_repeats(whole, tmp_path):
    launch(2, str(ROOT / "train_burn.py"), *EIGHT_STEPS, "--checkpoint-steps", "2", "--output", str(tmp_path / "run"))
    packed = "export/model.safetensors"
    assert (whole / packed).read_bytes() == (tmp_path / "run" / packed).read_bytes()


def test_what_fails_on_the_main_process_fails_on_both(records):
    assert [record["refused"] for record in records] == [["me/student holds files"] * n for n in (1, 2)]


@pytest.mark.slow
def test_a_refused_push_ends_both_processes_with_the_same_line(tmp_path):
    """Before the first step, and after the last: the other process would wait for one that has gone."""
    options = [*SHORT, "--workers", "0", "--batch-size", "32", "--stages", "w1a1", "--max-steps", "1"]
    options += ["--val-split", "none", "--push-to-hub", "student", "--output", str(tmp_path / "run")]
    with HubServer() as hub:
        env = hub.environment(tmp_path / "home")
        hub.commit("me/student", {"README.md": b"another network"})
        taken = run(2, str(ROOT / "train_burn.py"), *options, **env)
        assert not (tmp_path / "run").exists()
        hub.clear()
        hub.faults = {"POST /api/models/me/student/commit/": [500]}
        failed = run(2, str(ROOT / "train_burn.py"), *options, **env)
        assert (tmp_path / "run" / "export" / "model.safetensors").is_file() and hub.repos["me/student"] == []
    for done, told in ((taken, "holds files already"), (failed, "500")):
        lines = [line for line in done.stderr.splitlines() if "train_burn.py: error: " in line]
        assert done.returncode != 0 and len(lines) == 2 and len(set(lines)) == 1, done.stderr[-3000:]
        assert "error: --push-to-hub me/student: " in lines[0] and told in lines[0]


@pytest.mark.slow
def test_corrupt_images_of_both_processes_count_together(tmp_path):
    """Two in each process's share of 300: neither finds more than 1 %, both together do, which the next save tells."""
    order = epoch_order(seed_for(0, 0), 0, 300).view(-1, 2, 15)  # micro-steps, processes, their images
    broken = [int(order[step, rank, 4]) for step in (0, 4) for rank in (0, 1)]
    for index in range(300):
        name = f"class{index // 150}/{index:04d}.png"
        write(tmp_path / "photos" / name, index, 8, cut=60 if index in broken else 0)
    options = [*SHORT, "--dataset", "folder", "--data-dir", str(tmp_path / "photos"), "--workers", "0"]
    options += ["--batch-size", "15", "--seed", "0", "--checkpoint-steps", "2", "--val-split", "none"]
    done = run(2, str(ROOT / "train_burn.py"), *options, "--epochs", "2", "--output", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "error: at least 4 of 300 images cannot be read, more than 1%" in done.stderr
    kept = checkpoint(tmp_path / "run")
    assert (kept["stage"], kept["step"]) == (0, 4) and kept["corrupt"]["indices"] == sorted(broken[:2])
