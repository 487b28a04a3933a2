"""burn.c as a program: by every compiler, on other CPUs, in Python without torch, under sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from burn_timm.deploy.c_engine import C_SOURCES, network_bytes
from burn_timm.deploy.export import export
from burn_timm.deploy.fold import fold
from burn_timm.kernels import native
from deploy.networks import INPUTS, cases_of, content, convolutions, counting, errors, instruction_sets, lively

KERNELS = Path(native.__file__).parent
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export, and a picture with the features that torch gives of it."""
    folder = tmp_path_factory.mktemp("c") / "net"
    model = lively(num_classes=0)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 48, 48)}
    config = export(model, folder, "c")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    (folder / "image.ppm").write_bytes(b"P6\n# a comment\n48 48\n255\n" + pixels.tobytes())
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = model((torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - mean) / std)[0].numpy()
    return folder, expected


def compiled(folder, command, *flags, sources=("burn.c", "main.c"), name="program"):
    """The path of a program; skipped where the compiler is missing."""
    if command[0] != sys.executable and shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    subprocess.run([*command, "-std=c11", "-Wno-psabi", *flags, *(str(folder / s) for s in sources), "-o",
                    str(folder / name), "-lpthread"], check=True, cwd=folder)
    return folder / name


def features_of(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.array(done.stdout.split(), np.float32)


ZIG = [sys.executable, "-m", "ziglang", "cc"]


@pytest.mark.parametrize("compiler", [
    pytest.param(["gcc"], id="gcc"), pytest.param(["clang"], id="clang", marks=pytest.mark.slow),
    pytest.param(ZIG, id="zig", marks=pytest.mark.slow),
])
def test_the_exported_folder_compiles_and_gives_the_features_of_torch(compiler, folder):
    if compiler is ZIG:
        pytest.importorskip("ziglang")
    folder, expected = folder
    assert set(C_SOURCES) <= set(os.listdir(folder))
    program = compiled(folder, compiler, "-O3", "-Wall", "-Wextra", "-Werror", name=f"program_{compiler[-1]}")
    for number, name in enumerate(instruction_sets()):
        got = features_of([program, folder / "network.bin", folder / "image.ppm", 1 + number % 2, name])
        assert errors(torch.from_numpy(got)[None], torch.from_numpy(expected)[None]) < 1e-4
    wrong = subprocess.run([program, folder / "network.bin", folder / "burn.c"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "no binary PPM" in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_the_exported_folder_runs_in_python_with_numpy_alone(folder):
    """burn.py beside network.bin, in a process that cannot import torch; it builds the library beside itself."""
    folder, expected = folder
    (folder / "alone.py").write_text("""
import sys
sys.modules["torch"] = sys.modules["timm"] = sys.modules["burn_timm"] = None
import numpy as np
from burn import Network
network = Network("network.bin")
pixels = np.frombuffer(open("image.ppm", "rb").read()[-48 * 48 * 3:], np.uint8).reshape(1, 48, 48, 3)
images = (pixels / 255 - network.mean) / network.std
for value in network(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))[0]:
    print(float(value))
""")
    for _ in range(2):
        done = subprocess.run([sys.executable, "alone.py"], cwd=folder, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PYTHONPATH": ""})
        assert done.returncode == 0, done.stderr
        assert errors(torch.tensor([list(map(float, done.stdout.split()))]), torch.from_numpy(expected)[None]) < 1e-4
        assert (folder / "libburn.so").is_file()


WASI = """
import { WASI } from 'node:wasi'; import fs from 'node:fs';
const wasi = new WASI({ version: 'preview1', args: ['main', ...process.argv.slice(3)], preopens: { '/': '/' } });
const module = await WebAssembly.compile(fs.readFileSync(process.argv[2]));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
"""


@pytest.fixture(params=[
    (["qemu-aarch64"], ["aarch64-linux-musl", "-static"], "neon"),
    (["node", "--no-warnings", "wasi.mjs"], ["wasm32-wasi", "-msimd128"], "wasm"),
], ids=["arm", "wasm"])
def other_cpu(request, tmp_path, monkeypatch):
    """Its kernels, and a function that compiles sources for it and gives the command that runs them."""
    runner, target, kernels = request.param
    pytest.importorskip("ziglang")
    if not shutil.which(runner[0]):
        pytest.skip(f"no {runner[0]}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wasi.mjs").write_text(WASI)
    for file in (*(KERNELS / source for source in C_SOURCES), HERE / "maps.c"):
        shutil.copy(file, tmp_path)
    command = [*ZIG, "-target", *target]
    return kernels, lambda *sources: [*runner, compiled(tmp_path, command, "-O3", "-w", sources=sources)]


@pytest.mark.slow
def test_other_cpus_give_the_features_of_torch(other_cpu, folder):
    (kernels, build), (folder, expected) = other_cpu, folder
    command = build("burn.c", "main.c")
    for name in (kernels, "plain"):
        got = features_of([*command, folder / "network.bin", folder / "image.ppm", 1 + (kernels == "neon"), name])
        assert errors(torch.from_numpy(got)[None], torch.from_numpy(expected)[None]) < 1e-5


@pytest.mark.slow
def test_binary_convolutions_are_exact_on_other_cpus(other_cpu, tmp_path):
    kernels, build = other_cpu
    cases = [case for kernel in (1, 3) for case in convolutions(
        [cases_of(inputs, [stride])[n % 6] for n, inputs in enumerate(INPUTS) for stride in (1, 2)], kernel, kernel)]
    for number, case in enumerate(cases):
        network, images = counting(case)
        (tmp_path / f"{number}.net").write_bytes(content(network, images.shape))
        (tmp_path / f"{number}.in").write_bytes(images.tobytes())
    command = build("burn.c", "maps.c")
    for name in (kernels, "plain"):
        subprocess.run([*command, name, tmp_path, str(len(cases))], check=True, timeout=300)
        for number, case in enumerate(cases):
            got = np.fromfile(tmp_path / f"{number}.out", np.float32).reshape(case.expected.shape)
            np.testing.assert_array_equal(got, case.expected)


SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def mutate(tmp_path_factory):
    """mutate.c under AddressSanitizer and UBSan."""
    folder = tmp_path_factory.mktemp("mutate")
    for file in (*(KERNELS / source for source in C_SOURCES), HERE / "mutate.c"):
        shutil.copy(file, folder)
    return compiled(folder, ["gcc"], *SANITIZED, sources=("mutate.c",))


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["test_reactnet", "reactnet_18"])
def test_mutated_files_are_an_error_or_the_exact_network(name, times, mutate, tmp_path):
    """A thousand mutations, and three hundred whose checksum was computed again; slow, ten times as many."""
    small = {"stem_chs": 16, "channels": (16, 24 if name == "reactnet_18" else 32), "depths": (1, 2), "num_classes": 5}
    folded = fold(lively(name, **small))
    (tmp_path / "network.bin").write_bytes(network_bytes(folded, (3, 24, 20), (0.5,) * 3, (0.2,) * 3))
    for arguments in ([str(1000 * times)], [str(300 * times), "checksum"]):
        done = subprocess.run([mutate, "network.bin", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
