"""The argument-free run: a small teacher on scanned digits, both BURN stages on ReActNet-A, export, reload, table."""

from collections.abc import Callable
from pathlib import Path

import timm
import torch

from ..data.datasets import open_dataset
from ..data.loader import eval_loader
from ..evals.features import eval_transform, extract_features
from ..evals.knn import knn_accuracy
from .options import Options, parse_options

# Scanned digits are 8 x 8 pixels; at 32 px ReActNet-A ends in 1 x 1 feature maps and an epoch takes seconds.
COMMON = ["--dataset", "digits", "--img-size", "32", "--hflip", "0", "--view", "light", "--workers", "1",
          "--channels-last", "--resume", "auto"]


def run_demo(options: Options, output: Path, train: Callable[[Options], dict]) -> dict:
    """Returns {"teacher": summary, "burn": summary, "knn_reloaded": fraction}."""
    teacher = [
        *COMMON, "--method", "simclr", "--model", "resnet10t", "--stages", "fp", "--model-kwargs",
        "channels=(32, 64, 128, 256)", "stem_width=16", "--batch-size", "128", "--lr", "2e-3",
        "--output", f"{output}/teacher", "--warmup-epochs", "0" if options.max_steps else "1", *_length(options, 20),
    ]
    burn = [
        *COMMON, "--model", "reactnet_a", "--teacher", f"local-dir:{output}/teacher/export",
        "--stages", "w32a1", "w1a1", "--batch-size", "48", "--lr", "1e-3",
        "--output", f"{output}/burn", *_length(options, 3),
    ]
    result = {"teacher": train(parse_options(teacher)), "burn": train(parse_options(burn))}
    if result["burn"]:  # main process
        result["knn_reloaded"] = _reload(output / "burn" / "export")
        print(_table(result, output))
    return result


def _length(options: Options, epochs: int) -> list[str]:
    # --epochs of the short form caps both runs.
    length = ["--epochs", str(min(options.epochs, epochs))]
    return length + (["--max-steps", str(options.max_steps)] if options.max_steps else [])


def _reload(folder: Path) -> float:
    """kNN of the export as anyone would load it: through timm alone."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = eval_transform(model)
    sets = []
    for split in ("train", "test"):
        sets.extend(extract_features(model, eval_loader(open_dataset("digits", split=split), transform)))
    del model
    return round(knn_accuracy(*[torch.as_tensor(part) for part in sets]), 5)


def _table(result: dict, output: Path) -> str:
    burn = result["burn"]
    rows = [
        ("raw pixels", burn["knn_pixels"], None),
        ("ReActNet-A untrained (BatchNorm calibrated)", burn["knn_untrained"], None),
        ("teacher, SimCLR, floating-point", burn["knn_teacher"], result["teacher"]["bytes_exported"]),
        ("ReActNet-A, BURN, 1-bit", burn["knn_student"], burn["bytes_exported"]),
        ("the same, reloaded from the packed file", result["knn_reloaded"], burn["bytes_exported"]),
    ]
    lines = ["", "kNN accuracy on 360 scanned digits that no training saw", "-" * 66]
    for name, value, size in rows:
        lines.append(f"{name:45s} {100 * value:6.1f} %   {f'{size / 1e6:7.2f} MB' if size else ''}")
    lines += [
        "-" * 66,
        f"ReActNet-A as float32: {burn['bytes_fp32'] / 1e6:.1f} MB, packed: {burn['bytes_exported'] / 1e6:.2f} MB "
        f"({burn['bytes_fp32'] / burn['bytes_exported']:.1f}x smaller)",
        f"packed weights:   {output}/burn/export",
        f"training curves:  {output}/burn/curves.png, log.jsonl, summary.json",
        "Digits only show that everything works; figures on photos: README.md and results/.",
    ]
    return "\n".join(lines)
