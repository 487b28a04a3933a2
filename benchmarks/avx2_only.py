"""Time ReActNet-A by our C kernels against ResNet-18 by onnxruntime, both restricted to AVX2.

    python benchmarks/avx2_only.py --threads 1 --output avx2.json     # Linux on x86-64 with cc and objdump

onnxruntime has no switch for that. A copy of its library gets `ud2` for each `cpuid`, and a preloaded library
(without_avx512.c) answers in its place that there is nothing newer than AVX2. Nothing installed is changed.
"""

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from burn_timm.errors import BurnError
from burn_timm.files import read_json, write_json

HERE = Path(__file__).parent
RUN = """
import sys
from burn_timm.cli import main
from burn_timm.kernels import native
if native.load().burn_use(b"avx2"):
    sys.exit("this CPU has no AVX2")
sys.exit(main(sys.argv[1:]))
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="avx2_only.py", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1", metavar="N", help="in both engines (default: 1)")
    parser.add_argument("--rounds", default="10", metavar="N", help="alternating ones (default: 10)")
    parser.add_argument("--runs", default="10", metavar="N", help="a round (default: 10)")
    parser.add_argument("--output", type=Path, required=True, metavar="RESULT.json")
    args = parser.parse_args(argv)
    import onnxruntime  # of the copy there must be an original

    with tempfile.TemporaryDirectory(prefix="burn-timm-avx2-") as folder:
        library = Path(folder) / "without_avx512.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", HERE / "without_avx512.c", "-o", library], check=True)
        package = Path(folder) / "onnxruntime"
        shutil.copytree(Path(onnxruntime.__file__).parent, package)
        replaced = sum(without_cpuid(path) for path in sorted((package / "capi").glob("*pybind11_state*.so")))
        paths = os.pathsep.join([folder, os.environ.get("PYTHONPATH", str(HERE.parent))])
        bench = ["bench", "reactnet_a", "resnet18", "--engines", "c-1bit", "onnxruntime", "--threads", args.threads,
                 "--rounds", args.rounds, "--runs", args.runs, "--no-memory", "--output", str(args.output)]
        subprocess.run([sys.executable, "-c", RUN, *bench], check=True,
                       env={**os.environ, "PYTHONPATH": paths, "LD_PRELOAD": str(library)})
    result = read_json(args.output)
    options = f"--threads {args.threads} --rounds {args.rounds} --runs {args.runs} --output {args.output.name}"
    result["command"] = f"benchmarks/avx2_only.py {options}"
    result["settings"]["instructions"] = f"AVX2 on both sides; {replaced} cpuid instructions of onnxruntime answered so"
    write_json(args.output, result)


def without_cpuid(path: Path) -> int:
    """Replace each cpuid in the code of an ELF file by ud2, which is as long; returns how many there were."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
    addresses = [int(match, 16) for match in re.findall(r"^ *([0-9a-f]+):\s+cpuid\s*$", listing.stdout, re.MULTILINE)]
    content = bytearray(path.read_bytes())
    place, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    for address in addresses:
        for header in range(count):
            kind, _, offset, start, _, length = struct.unpack_from("<IIQQQQ", content, place + header * size)
            if kind == 1 and start <= address < start + length:  # a segment that is loaded
                at = address - start + offset
                if content[at : at + 2] != b"\x0f\xa2":
                    raise BurnError(f"{path}: no cpuid at {address:#x}, where objdump sees one")
                content[at : at + 2] = b"\x0f\x0b"
    path.write_bytes(content)
    return len(addresses)


if __name__ == "__main__":
    main()
