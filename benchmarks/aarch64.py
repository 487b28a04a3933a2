"""Count the instructions of one image on 64-bit ARM, by class, and estimate the time on three CPUs from them.

    python benchmarks/aarch64.py FOLDER          # of burn-timm export --format c; needs qemu-aarch64, cc and ziglang

The count is exact: a network runs under qemu with a plugin (qemu_count.c), once with one image and once with two. The
time is an estimate, not a measurement: the least that each CPU needs for so many instructions if it never waits.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from burn_timm.kernels import native
from burn_timm.tables import markdown

HERE, KERNELS = Path(__file__).parent, Path(native.__file__).parent
CLASSES = ("cnt", "other vector", "vector loads", "vector stores", "other")
RUN = """
#include "burn.h"
#include <stdlib.h>
int main(int argc, char **argv) {
    burn_network *network;
    if (argc != 3 || burn_open(argv[1], 1, &network)) return 1;
    burn_shape s = burn_get_shape(network);
    float *image = calloc((size_t)s.channels * s.height * s.width, sizeof(float));
    for (int i = atoi(argv[2]); i > 0; i--)
        if (burn_run(network, image, calloc(s.feature_dim, sizeof(float)), NULL, NULL)) return 1;
    return 0;
}
"""
# Instructions a cycle: all, vector arithmetic and vector loads of 128 bits (Arm's software optimisation guides; of the
# A53, which has none, those of the A55, whose units are as wide). And the clock in GHz of a board that has the CPU.
CPUS = {
    "Cortex-A53 (Raspberry Pi 3B+)": (2, 1, 0.5, 1.4), "Cortex-A72 (Raspberry Pi 4)": (3, 2, 1, 1.8),
    "Cortex-A76 (Raspberry Pi 5)": (4, 2, 2, 2.4),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="aarch64.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with network.bin")
    network = parser.parse_args(argv).folder / "network.bin"
    with tempfile.TemporaryDirectory() as folder:
        plugin, source, program = (Path(folder) / name for name in ("count.so", "run.c", "run"))
        source.write_text(RUN)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", HERE / "qemu_count.c", "-o", plugin], check=True)
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-O3", "-static", "-w"]
        subprocess.run([*zig, f"-I{KERNELS}", KERNELS / "burn.c", source, "-o", program], check=True)
        one, two = (counted(["qemu-aarch64", "-plugin", plugin, program, network, str(n)]) for n in (1, 2))
    counts = dict(zip(CLASSES, (b - a for a, b in zip(one, two, strict=True)), strict=True))
    total = sum(counts.values())
    print(markdown(("instructions of an image", "millions"), [
        *([name, f"{count / 1e6:.1f}"] for name, count in counts.items()), ["all", f"{total / 1e6:.1f}"]]))
    rows = []
    for cpu, (width, vectors, loads, clock) in CPUS.items():
        arithmetic = counts["cnt"] + counts["other vector"]
        cycles = max(total / width, arithmetic / vectors, counts["vector loads"] / loads)
        rows.append([cpu, f"{clock:g}", f"{cycles / 1e6:.0f}", f"{cycles / clock / 1e6:.0f}"])
    print("\n" + markdown(("CPU", "GHz", "millions of cycles, at least", "ms, at least"), rows))


def counted(command: list) -> list[int]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stderr.split()]


if __name__ == "__main__":
    main()
