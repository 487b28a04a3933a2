"""The run without arguments: a small teacher, both BURN stages under it, the export loaded again, a table, a picture.

The images are scikit-learn's digits in photos: raw pixels fail on them, so what a network has learnt is seen. The
teacher learns with labels, as most of timm's have; the student never sees one.
"""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from ..data.datasets import open_dataset
from ..evals.features import eval_transform
from ..evals.pictures import draw_neighbours
from .measure import features_of, top1_by_knn, untrained
from .options import Options, parse_options

# At 48 px ReActNet-A ends in 2 x 2 places, and an epoch takes seconds.
COMMON = ["--dataset", "digits_in_photos", "--img-size", "48", "--view", "light", "--batch-size", "64",
          "--warmup-epochs", "0.5", "--workers", "1", "--channels-last", "--resume", "auto"]


def run_demo(train: Callable[[Options], dict], output: str = "output/demo", epochs: int = 18) -> dict:
    """Returns {"teacher": summary, "burn": summary, "knn_reloaded": fraction}.

    Args:
        epochs: At most, of each stage.
    """
    teacher = [
        *COMMON, "--method", "supervised", "--model", "resnet10t", "--stages", "fp", "--model-kwargs",
        "channels=(32, 64, 128, 256)", "stem_width=16", "--lr", "3e-3", "--output", f"{output}/teacher",
        "--epochs", str(epochs),
    ]
    burn = [
        *COMMON, "--model", "reactnet_a_025", "--teacher", f"local-dir:{output}/teacher/export", "--stages", "w32a1",
        "w1a1", "--lambda-0", "1", "--lambda-T", "1", "--fs-loss", "relations", "--adapter", "mlp", "--lr", "6e-3",
        "--output", f"{output}/burn", "--epochs", str(min(epochs, 14)),
    ]
    result = {"teacher": train(parse_options(teacher)), "burn": train(parse_options(burn))}
    if result["burn"]:  # main process
        result["knn_reloaded"] = _reload_and_draw(parse_options(burn), Path(output))
        print(_table(result, output))
    return result


def _reload_and_draw(options: Options, output: Path) -> float:
    """kNN of the export as anyone would load it, through timm alone; and its neighbours, beside those without it."""
    model = timm.create_model(f"local-dir:{output}/burn/export", pretrained=True).eval()
    splits, cpu = [open_dataset(options.dataset, split=split) for split in ("train", "test")], torch.device("cpu")
    fresh = untrained(options, options.stages[-1], splits[0], cpu)
    networks = {"pixels": nn.Flatten(), "untrained": fresh, "trained": model}
    features = {
        name: features_of(network, splits, eval_transform(model), options, cpu) for name, network in networks.items()
    }
    rows = {name: (train, test) for name, (train, _, test, _) in features.items()}
    draw_neighbours(output / "neighbours.png", splits[0], splits[1], rows, images=5)
    return top1_by_knn(features["trained"])


def _table(result: dict, output: str) -> str:
    burn = result["burn"]
    rows = [
        ("raw pixels", burn["knn_pixels"], None),
        ("ReActNet untrained (BatchNorm calibrated)", burn["knn_untrained"], None),
        ("teacher, trained with labels, floating-point", burn["knn_teacher"], result["teacher"]["bytes_exported"]),
        ("ReActNet by BURN, without labels, 1-bit", burn["knn_student"], burn["bytes_exported"]),
        ("the same, reloaded from the packed file", result["knn_reloaded"], burn["bytes_exported"]),
    ]
    lines = ["", "kNN accuracy on 360 digits in photos that no training saw", "-" * 66]
    for name, value, size in rows:
        lines.append(f"{name:45s} {100 * value:6.1f} %   {f'{size / 1e6:7.2f} MB' if size else ''}")
    lines += [
        "-" * 66,
        f"the network as float32: {burn['bytes_fp32'] / 1e6:.1f} MB, packed: {burn['bytes_exported'] / 1e6:.2f} MB "
        f"({burn['bytes_fp32'] / burn['bytes_exported']:.1f}x smaller)",
        f"a picture of it:  {output}/neighbours.png: test images and their nearest neighbours",
        f"packed weights:   {output}/burn/export",
        f"training curves:  {output}/burn/curves.png, log.jsonl, summary.json",
        "Pasted digits only show that everything works; figures on photos: README.md and results/.",
    ]
    return "\n".join(lines)
