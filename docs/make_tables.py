"""Fill the tables of the pages from `results/*.jsonl`: `python docs/make_tables.py`.

A page has a table between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; NAME is a key of TABLES.

    python docs/make_tables.py results/STUDY.jsonl RESULT.json ...

adds files that eval_downstream.py or train_burn.py has written to a study. A line gets the name of its file; a
`summary.json` gets the name of its folder, with `_training` behind it.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from burn_timm.evals.paper import row_name
from burn_timm.evals.tables import spread
from burn_timm.files import read_json, read_lines, write_text
from burn_timm.tables import inside, markdown, number

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES = {line["name"]: line for path in sorted((ROOT / "results").glob("*.jsonl")) for line in read_lines(path)}

PAPER = ["target_joint_single", "target_joint_fs_single", "target_joint_fs_dynamic_single", "target_paper",
         "target_fs_alone_single", "target_fs_alone", "target_reset_head", "target_fs_l1", "target_fs_l2",
         "target_lambda_constant", "target_lambda_step"]
HEADS = ["target_fs_alone", "target_paper_ts", "target_swapped_ts", "target_frozen_ts", "target_stopped_information_ts",
         "target_information_0.1_ts", "target_information_0.5_ts", "target_information_2_ts", "target_centered_ts",
         "field_s2bnn_lr2.4e-2", "target_paper_assignment_mlp_lr2.4e-2", "target_fs_alone_lr2.4e-2",
         "target_paper_lr2.4e-2"]
LOSSES = ["field_s2bnn_lr2.4e-2", *(f"target_{name}" for name in (
    "fs_mlp_alone_lr2.4e-2", "fs_both_mlp_alone_lr2.4e-2", "fs_alone_view_none",
    "fs_relations_alone_lr1.2e-2", "fs_assignment_alone_lr2.4e-2", "fs_alone_lr4.8e-2", "fs_alone_lr2.4e-2",
    "fs_alone_lr1.2e-2", "fs_alone_lr6e-3", "fs_alone", "fs_relations_alone", "fs_contrast_alone", "fs_center_alone"))]
FIELD = ["target_paper_lr2.4e-2", *(f"field_{name}" for name in (
    "s2bnn_lr2.4e-2", "supervised_lr1.2e-2", "simclr_lr1.2e-2", "mocov2", "byol", "swav"))]
FEW = ["field_s2bnn_lr2.4e-2", "target_paper_lr2.4e-2", "field_supervised_lr1.2e-2", "field_simclr_lr1.2e-2",
       "field_mocov2", "field_byol", "field_swav", "field_untrained"]
SMALL = ["burn_information", "burn", "s2bnn", "supervised", "supervised_kl", "simclr", "byol", "s2bnn_contrastive",
         "mocov2", "swav", "infomin"]
TRIALS = {  # CIFAR-10, 10,000 and 2,000 images; the first trials kept no record of their training
    "paper's BURN, `moco` views, batch 128, SimCLR teacher": "paper_moco_b128_simclr20",
    "paper's BURN, `light` views, batch 64, SimCLR teacher": "paper_light_b64_simclr20",
    "paper's BURN, `light` views, batch 64, supervised teacher": "paper_light_b64_resnet20",
    "L_FS alone, `moco` views, batch 128, supervised teacher": "fs_only_moco_b128_resnet20",
    "L_FS alone, `light` views, batch 128, SimCLR teacher": "fs_only_light_b128_simclr20",
    "information term, `moco` views, batch 128, SimCLR teacher": "info_moco_b128_simclr10",
    "information term, `moco` views, batch 128, supervised teacher": "info_moco_b128_resnet20",
    "the same, KL reversed, `light` views, batch 128, SimCLR teacher": "info_target_student_light_b128_simclr20",
}
TRIALS_64 = {  # the same images, 64 px
    "L_FS alone, 32 px, 750 steps": "fs_only_32px_750steps",
    "L_FS alone": "fs_only_64px",
    "L_FS alone, seed 1": "fs_only_64px_seed1",
    "L_FS alone, `--act-grad clip`": "fs_only_64px_clip",
    "L_FS alone, `--act-grad clip`, seed 1": "fs_only_64px_clip_seed1",
    "L_FS alone, learning rate 0.004": "fs_only_64px_lr4e-3",
    "L_FS alone, `moco` views": "fs_only_64px_moco",
    "information term 0.5, KL reversed, T 0.2": "information_64px",
    "information term 0.5, KL reversed, T 1": "information_64px_T1",
    "paper's BURN, T 0.2": "paper_64px",
    "paper's BURN, T 1": "paper_64px_T1",
}
WHOLE = {
    "1-bit ReActNet-A: relations by an MLP, ImageNet teacher, 149,899 photos, 2 + 2 epochs (default)":
        "reactnet_a_burn_lite0",
    "1-bit ReActNet-A: assignment by an MLP, 8 + 8 epochs at 48 px (label-free tag)": "reactnet_a_burn",
    "1-bit ReActNet-A: cosine and relations, 4 + 4 epochs at 48 px": "reactnet_a_burn_relations",
    "1-bit ReActNet-A: BURN with information term, 4 + 4 epochs, weaker teacher": "reactnet_a_burn_information",
    "the same network untrained, BatchNorm calibrated": "reactnet_a_burn_{}_untrained",
    "raw pixels": "reactnet_a_burn_{}_pixels",
    "teacher: floating-point ResNet-10-T of half width": "teacher_64",
}
FIRST = {
    "raw pixels": "reactnet_a_burn_{}_pixels",
    "ReActNet-A, untrained, BatchNorm calibrated": "reactnet_a_burn_{}_untrained",
    "**`reactnet_a_burn`**, teacher trained on ImageNet's labels": "reactnet_a_burn_lite0",
    "its label-free tag, a teacher without labels": "reactnet_a_burn",
}
DETECTION = ["detection_coco128_test_reactnet", "detection_coco128_reactnet_a_025_1900_iterations",
             "detection_coco128_reactnet_a_025"]
STEPS = {
    "train_step_64": "ReActNet-A alone", "train_step_64_batch_32": "ReActNet-A alone, batch 32",
    "train_step_224": "ReActNet-A alone, 224 px, batch 8", "train_step_64_whole": "BURN with a ResNet-50 teacher",
}
ENGINES = {  # rows of the table of inference
    "reactnet_a": ("C 1-bit", "OpenVINO 1-bit", "torch fp32", "onnxruntime fp32", "OpenVINO bf16"),
    "resnet18": ("onnxruntime fp32", "onnxruntime int8", "OpenVINO int8"),
    "mobilenetv1_100": ("onnxruntime fp32", "onnxruntime int8", "OpenVINO int8"),
    "mobilenetv3_large_100": ("onnxruntime fp32", "OpenVINO bf16", "OpenVINO int8"),
}
FEW_ENGINES = {
    "reactnet_a": ("C 1-bit", "OpenVINO 1-bit", "torch fp32"), "resnet18": ("onnxruntime fp32", "OpenVINO int8"),
    "mobilenetv1_100": ("onnxruntime fp32", "OpenVINO int8"),
    "mobilenetv3_large_100": ("onnxruntime fp32", "OpenVINO bf16"),
}


def figures(name: str, task: str) -> list[float]:
    """The values of `NAME_TASK`, or of `NAME_s0_TASK`, `NAME_s1_TASK`, ..., in per cent."""
    seeds = re.compile(rf"{re.escape(name)}(_s\d)?_{re.escape(task)}")
    return [100 * line["value"] for key, line in sorted(LINES.items()) if seeds.fullmatch(key)]


def _both(name: str) -> list[list[float]]:
    return [figures(name, task) for task in ("knn", "linear")]


def cell(values: Sequence[float]) -> str:
    return spread(values) if values else "–"


def _trainings(name: str) -> list[dict]:
    return [line for key, line in sorted(LINES.items()) if re.fullmatch(rf"{re.escape(name)}_s\d_training", key)]


def label(name: str) -> str:
    """A trained row in words: what its training says that differs from the paper's BURN."""
    runs = _trainings(name)
    if not runs:
        return "untrained"
    settings = runs[0]["settings"]
    ends = settings["lambda_0"], settings["lambda_T"]
    parts = [row_name(runs[0])]
    if runs[0]["method"] == "burn" and ends not in ((0.9, 0.7), (0, 0), (1, 1)):  # a constant weight
        parts.append(f"lambda {ends[0]:g}")
    if runs[0]["method"] == "burn" and settings["temperature"] not in (None, 1):
        parts.append(f"T {settings['temperature']:g}")
    if settings["view"] == "none":
        parts.append("whole photos")
    words = ", ".join(parts).replace("BURN, L_FS alone, L_FS", "L_FS").replace("BURN, L_FS alone", "L_FS")
    return f"{words}; lr {settings['lr']:g}"


def trained(names: Sequence[str], best_first: bool = True) -> str:
    """kNN and linear evaluation of trained rows."""
    found = [(name, _both(name)) for name in names]
    if best_first:
        found.sort(key=lambda row: -mean(row[1][0]))
    rows = [[label(name), f"`{name}`", *map(cell, values), str(len(values[0]))] for name, values in found]
    return markdown(["row", "name in results", "kNN", "linear", "seeds"], rows, 2)


def few_labels() -> str:
    tasks = ("cifar10_knn", "cifar10_linear", "finetune_1", "finetune_10")
    rows = [[label(name), f"`{name}`", *(cell(figures(name, task)) for task in tasks)] for name in FEW]
    return markdown(["row", "name in results", "CIFAR-10 kNN", "CIFAR-10 linear", "1 % labels", "10 % labels"], rows, 2)


def whole_network(networks: dict[str, str] = WHOLE) -> str:
    def values(name: str, data: str, task: str) -> list[float]:
        if name == "reactnet_a_burn_{}_pixels" and data == "cifar10":
            return figures("cifar10_pixels", task)
        name = name.format(data) if "{}" in name else name if name == "teacher_64" else f"{name}_{data}"
        return figures(name, task) if name != "teacher_64" or data == "tiny" else []

    rows = [[words, *(cell(values(name, data, task)) for data in ("tiny", "cifar10") for task in ("knn", "linear"))]
            for words, name in networks.items()]
    return markdown(["network", "kNN, 80 classes", "linear", "kNN, CIFAR-10", "linear"], rows)


def short_trials(rows: dict[str, str]) -> str:
    return markdown(["row", "name in results", "kNN"],
                    [[words, f"`{name}`", f"{100 * LINES[name]['value']:.2f}"] for words, name in rows.items()], 2)


def whole_trials() -> str:
    rows = []
    for name, line in LINES.items():
        if name.startswith("distill_full_") and line["task"] == "knn":
            size = line["protocol"]["transform"]["input_size"][-1]
            rows.append([row_name(line["training"]), f"{line['training']['settings']['lr']:g}", f"{size} px",
                         f"`{name}`", f"{100 * line['value']:.2f}"])
    rows.sort(key=lambda row: -float(row[-1]))
    return markdown(["row", "lr", "kNN at", "name in results", "kNN"], rows, 4)


def methods() -> str:
    """All methods at equal budget, best linear evaluation first, with what training cost on average."""
    rows = [(words, _both(name), []) for words, name in (("raw pixels", "cifar10_pixels"),
                                                         ("untrained, BatchNorm calibrated", "methods_untrained"))]
    for name in (f"methods_{method}" for method in SMALL if method != "burn_information"):
        runs = _trainings(name)
        minutes, memory = (mean(run[entry] for run in runs) for entry in ("train_seconds", "peak_memory_bytes"))
        rows.append((row_name(runs[0]), _both(name), [f"{minutes / 60:.1f}", f"{memory / 1e9:.1f}"]))
    rows.sort(key=lambda row: -mean(row[1][1]))
    return markdown(["", "kNN", "linear", "seeds", "minutes", "memory, GB"], [
        [words, *map(cell, values), str(len(values[0])), *(costs or ["", ""])] for words, values, costs in rows
    ])


def tuning() -> str:
    rows = [[f"`{name}_small`", *(f"{100 * LINES[f'small_{name}_lr{rate}']['value']:.2f}" for rate in ("1e-3", "3e-3"))]
            for name in SMALL]
    return markdown(["recipe", "lr 0.001", "lr 0.003"], rows)


def cifar10() -> str:
    rows = {
        "raw pixels": ("", "cifar10_pixels"),
        "the same student untrained, BatchNorm calibrated": ("0.34 MB", "cifar10_untrained"),
        "teacher: SimCLR ResNet-10-T, half width, floating-point": ("4.95 MB", "cifar10_teacher"),
        "**BURN student: `reactnet_a_025`, 1-bit**": ("0.34 MB", "cifar10_burn"),
    }
    cells = [[words, size, *map(cell, _both(name))] for words, (size, name) in rows.items()]
    return markdown(["features of", "file", "kNN", "linear"], cells)


def pixels() -> str:
    rows = {"32 px, 4 epochs a stage": "cifar10_32px_burn", "64 px, 8 epochs a stage": "cifar10_burn",
            "raw pixels": "cifar10_pixels"}
    cells = [[words, *map(cell, _both(name))] for words, name in rows.items()]
    return markdown(["student's input", "kNN", "linear"], cells)


def few_labels_cifar10() -> str:
    rows = []
    for share in ("1percent", "10percent"):
        burn, untrained = (LINES[f"finetune_{share}_{name}"] for name in ("burn", "untrained"))
        starts = [burn["extra"]["starts"][start]["top1"] for start in ("packed", "latent")]
        rows.append([f"{share.removesuffix('percent')} %", *(f"{100 * x:.2f}" for x in (*starts, untrained["value"]))])
    return markdown(["labels", "from 1-bit weights", "from latent weights", "untrained"], rows)


def detection() -> str:
    rows = []
    for line in (LINES[name] for name in DETECTION):
        protocol, extra = line["protocol"], line["extra"]
        rows.append([f"`{line['model']}`", f"{protocol['test']['min_size']} px",
                     f"{protocol['iterations']:,} x {protocol['batch_size']}",
                     *(f"{100 * extra[part]['voc']['ap50']:.2f}" for part in ("train", "test"))])
    return markdown(["network", "shorter side", "iterations x photos", "AP50, training", "AP50, test"], rows)


def bench(engines: dict[str, Sequence[str]]) -> str:
    rows = []
    for one, two in zip(*(LINES[f"bench_224_{threads}_threads"]["rows"] for threads in (1, 2)), strict=True):
        model, title = one["model"], one["title"]
        if title in engines[model]:
            times = [number(found[entry], 2) for found in (one, two) for entry in ("ms", "ratio")]
            sizes = [number(one[entry], 1, 1e-6) for entry in ("file_bytes", "memory_bytes")]
            rows.append([f"`{model}`", f"**{title}**" if "1-bit" in title else title, *times, *sizes])
    header = ["network", "engine", "ms, 1 thread", "ratio", "ms, 2 threads", "ratio", "file MB", "memory MB"]
    return markdown(header, rows, 2)


def step(names: Sequence[str]) -> str:
    rows = []
    for name in names:
        found = [row for row in LINES[name]["extra"]["rows"] if row["row"] in ("reference", "compiled-bf16-cl")]
        for row in found:
            peak, first = (of["memory"]["peak_bytes"] for of in (row, found[0]))
            rows.append([STEPS[name], row["title"], number(row["images_per_second"], 1), number(row["ratio"], 2),
                         f"{peak / 1e6:.0f}", number(peak / first, 2), f"{row['memory']['saved_bytes'] / 1e6:.0f}"])
    return markdown(["step of", "how", "images/s", "ratio", "peak MB", "ratio", "kept MB"], rows, 2)


def engines() -> str:
    names = {"torch": "torch, floats", "openvino": "OpenVINO, 1-bit", "numba": "our earlier kernels (numba), 1-bit"}
    rows = [[words, cell(figures(f"engine_{name}", "knn"))] for name, words in names.items()]
    return markdown(["engine", "kNN"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "results": cifar10, "first": lambda: whole_network(FIRST), "released": whole_network, "engines": engines,
    "bench": lambda: bench(FEW_ENGINES), "bench_all": lambda: bench(ENGINES),
    "step": lambda: step(["train_step_64", "train_step_64_whole"]), "step_all": lambda: step(list(STEPS)),
    "paper": lambda: trained(PAPER, best_first=False), "heads": lambda: trained(HEADS),
    "losses": lambda: trained(LOSSES), "field": lambda: trained(FIELD), "few": few_labels, "methods": methods,
    "tuning": tuning,
    "few_cifar10": few_labels_cifar10, "pixels": pixels, "trials": lambda: short_trials(TRIALS),
    "trials64": lambda: short_trials(TRIALS_64), "whole_trials": whole_trials, "detection": detection,
}


def filled(text: str) -> str:
    """A page with its tables as the results have them now.

    Raises:
        ValueError: A mark is not a key of TABLES, or has no end.
    """
    for mark in re.findall(r"<!-- (\w+):begin -->", text):
        if mark not in TABLES:
            raise ValueError(f"no table of the name {mark}; the names are {', '.join(TABLES)}")
        text = inside(text, mark, TABLES[mark]())
    return text


def add(study: Path, paths: Sequence[Path]) -> None:
    """Append results and summaries to a study; a line of the same name is replaced."""
    lines = {line["name"]: line for line in read_lines(study)}
    for path in paths:
        content = read_json(path)
        name = f"{path.parent.name}_training" if path.name == "summary.json" else path.stem
        lines[name] = {"name": name, "task": "training", **content}
    write_text(study, "".join(json.dumps(lines[name]) + "\n" for name in sorted(lines)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        add(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
    else:
        for page in PAGES:
            write_text(page, filled(page.read_text(encoding="utf-8")))
