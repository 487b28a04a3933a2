"""Build what the page needs: burn.wasm and network.bin, of the released network or of any other.

    pip install "burn-timm[c]"
    python examples/browser/build.py                          # reactnet_a_burn
    python examples/browser/build.py output/mine/export --img-size 96
    python -m http.server --directory examples/browser        # then open http://localhost:8000
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import burn_timm.kernels

HERE = Path(__file__).parent
EXPORTS = ("allocate", "open", "side", "dim", "pixels", "features", "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="as of burn-timm export; default: the released reactnet_a_burn")
    parser.add_argument("--img-size", help="side of the pictures in pixels; default: the network's own")
    parser.add_argument("--output", type=Path, default=HERE, metavar="FOLDER",
                        help="gets the page too; default: where the page is")
    args = parser.parse_args()
    source = [args.checkpoint] if args.checkpoint else ["reactnet_a_burn", "--pretrained"]
    size = ["--img-size", args.img_size] if args.img_size else []
    kernels = Path(burn_timm.kernels.__file__).parent
    args.output.mkdir(parents=True, exist_ok=True)
    if args.output.resolve() != HERE.resolve():
        for name in ("index.html", "burn.js"):
            shutil.copy(HERE / name, args.output / name)
    with tempfile.TemporaryDirectory() as folder:
        export = [sys.executable, "-m", "burn_timm.cli", "export", *source, f"{folder}/network", "--format", "c"]
        subprocess.run([*export, "--headless", *size], check=True)
        shutil.copy(f"{folder}/network/network.bin", args.output / "network.bin")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-msimd128", "-O3"]
    exports = [f"-Wl,--export=web_{name}" for name in EXPORTS]
    sources, program = [kernels / "burn.c", HERE / "web.c"], args.output / "burn.wasm"
    subprocess.run([*zig, "-s", "-w", *exports, f"-I{kernels}", *sources, "-o", program], check=True)
    for path in (args.output / "network.bin", program):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
