"""The figures of the BURN paper's tables (Kim and Choi, CVPR 2022), in %, and which of our results belong in them."""

from typing import NamedTuple


class Column(NamedTuple):
    """One column: its heading, and where a result has it.

    task: of eval_downstream.py. where: keys of the result, from the outermost.
    only: what must hold of the result, pairs of keys and value. dataset: last part of its name, '' for any.
    """

    heading: str
    task: str
    where: tuple[str, ...]
    only: tuple[tuple[tuple[str, ...], object], ...] = ()
    dataset: str = ""


class PaperTable(NamedTuple):
    """One table: caption, columns, and the paper's figures of each row."""

    caption: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[str | float, ...]]


def _finetune(fraction: float, key: str) -> Column:
    heading = f"{fraction:.0%} labels, {'top-1' if key == 'value' else 'top-5'}"
    where = ("value",) if key == "value" else ("extra", "top5")
    return Column(heading, "finetune", where, ((("protocol", "fraction"), fraction),))


_LINEAR = Column("linear, top-1", "linear", ("value",))
_SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)

TABLES: dict[int, PaperTable] = {
    1: PaperTable("Object detection on PASCAL VOC", (
        Column("mAP", "detection", ("value",)),
        Column("AP50", "detection", ("extra", "test", "voc", "ap50")),
        Column("AP75", "detection", ("extra", "test", "voc", "ap75")),
    ), {
        "Supervised Pre.": (38.22, 68.53, 37.65), "SwAV": (37.22, 67.47, 35.91), "BYOL": (36.92, 67.13, 35.65),
        "MoCo v2": (37.42, 67.30, 36.37), "S2-BNN": (39.50, 70.09, 39.15), "BURN": (41.00, 70.91, 41.45),
    }),
    2: PaperTable("Linear evaluation and semi-supervised fine-tuning", (
        _LINEAR, _finetune(0.01, "value"), _finetune(0.01, "top5"), _finetune(0.1, "value"), _finetune(0.1, "top5"),
    ), {
        "Supervised Pre.": (64.10, 42.96, 69.10, 53.07, 77.40), "SwAV": (49.41, 24.66, 46.57, 33.83, 57.81),
        "BYOL": (49.25, 23.05, 43.90, 34.66, 58.78), "MoCo v2": (52.50, 22.96, 45.12, 31.18, 55.64),
        "S2-BNN": (61.50, 36.08, 61.83, 45.98, 71.11), "BURN": (62.29, 39.75, 67.13, 49.96, 75.52),
    }),
    3: PaperTable("SVM classification, mAP, few-shot and full", (
        *(Column(f"k = {k}", "svm", ("extra", "low_shot", str(k))) for k in _SHOTS),
        Column("full", "svm", ("extra", "full")),
    ), {
        "Supervised Pre.": ("29.28 ± 0.94", "36.46 ± 2.97", "49.67 ± 1.20", "56.99 ± 0.67", "64.68 ± 0.89",
                       "70.08 ± 0.58", "73.49 ± 0.53", "74.96 ± 0.17", 77.47),
        "SwAV": ("22.97 ± 1.21", "27.91 ± 2.37", "37.91 ± 1.11", "44.50 ± 1.51", "52.79 ± 0.81", "59.15 ± 0.62",
                 "64.38 ± 0.59", "66.72 ± 0.19", 71.23),
        "BYOL": ("23.45 ± 0.76", "28.04 ± 2.40", "38.09 ± 1.07", "44.69 ± 1.66", "51.50 ± 0.90", "57.44 ± 0.24",
                 "62.07 ± 0.28", "64.37 ± 0.13", 69.16),
        "MoCo v2": ("22.12 ± 0.74", "27.45 ± 2.06", "36.81 ± 0.82", "43.19 ± 1.40", "51.93 ± 0.84", "57.95 ± 0.62",
                    "63.07 ± 0.43", "65.15 ± 0.05", 69.73),
        "S2-BNN": ("27.00 ± 1.54", "33.39 ± 2.72", "46.31 ± 2.11", "54.14 ± 1.32", "61.86 ± 1.14", "68.01 ± 0.41",
                   "71.89 ± 0.44", "73.55 ± 0.29", 76.49),
        "BURN": ("29.20 ± 1.51", "36.14 ± 2.15", "48.49 ± 1.08", "55.12 ± 1.59", "62.36 ± 1.01", "68.10 ± 0.30",
                 "72.10 ± 0.39", "74.06 ± 0.18", 77.49),
    }),
    4: PaperTable("Transfer, top-1", tuple(
        Column(heading, "transfer", ("value",), dataset=name) for heading, name in (
            ("CIFAR10", "cifar10"), ("CIFAR100", "cifar100"), ("CUB-200-2011", "cub"), ("Birdsnap", "birdsnap"),
            ("Places205", "places205"),
        )
    ), {
        "Supervised Pre.": (78.30, 57.82, 54.64, 36.90, 46.38), "SwAV": (75.78, 56.78, 36.11, 25.54, 46.90),
        "BYOL": (76.68, 58.18, 38.80, 27.11, 44.62), "MoCo v2": (78.29, 57.56, 33.79, 23.37, 44.90),
        "S2-BNN": (82.70, 61.90, 47.50, 34.10, 46.58), "BURN": (84.60, 61.99, 49.62, 34.48, 47.22),
    }),
    5: PaperTable("Parts of BURN", (_LINEAR,), {
        "BURN, KL alone, one stage": (57.33,), "BURN, constant lambda, one stage": (59.53,),
        "BURN, one stage": (61.43,), "BURN": (62.29,),
    }),
    6: PaperTable("Feature similarity loss", (_LINEAR,), {
        "BURN, L_FS l1": (51.46,), "BURN, L_FS l2": (50.28,), "BURN": (62.29,),
    }),
    7: PaperTable("Balance lambda(t)", (_LINEAR,), {
        "BURN, constant lambda": (55.83,), "BURN, step lambda": (55.60,), "BURN": (62.29,),
    }),
}

NAMES = {
    "burn": "BURN", "s2bnn": "S2-BNN", "byol": "BYOL", "swav": "SwAV", "mocov2": "MoCo v2", "simclr": "SimCLR",
    "infomin": "InfoMin", "supervised": "supervised", "supervised_kl": "supervised, soft labels",
}


def row_name(training: dict) -> str:
    """The row of the paper's tables that a run belongs to, departures from the paper's BURN added in words."""
    method, settings = training.get("method"), training.get("settings", {})
    name = NAMES.get(method, str(method))
    parts = []
    if method == "s2bnn" and settings.get("contrastive_weight"):
        parts.append("contrastive too")
    if method == "burn":
        ends = settings.get("lambda_0", 0.9), settings.get("lambda_T", 0.7)
        if ends == (0, 0):
            parts.append("KL alone")
        elif ends == (1, 1):
            parts.append("L_FS alone")
        elif settings.get("lambda_schedule", "cosine") != "cosine":
            parts.append(f"{settings['lambda_schedule']} lambda")
        if settings.get("fs_loss", "cosine") != "cosine":
            warm = settings["fs_loss"] not in ("l1", "l2")
            tau = settings.get("fs_temperature", 0.1) if warm else 0.1
            parts.append(f"L_FS {settings['fs_loss']}{'' if tau == 0.1 else f' {tau:g}'}")
        if settings.get("adapter", "linear") != "linear":
            parts.append(f"{settings['adapter'].upper()} adapter")
        if settings.get("fs_center"):
            parts.append("L_FS centred")
        if settings.get("target_head", "joint") != "joint":
            parts.append(f"{settings['target_head']} target head")
        if settings.get("information_weight"):
            parts.append(f"information term {settings['information_weight']:g}")
        if settings.get("kl_direction", "student-target") != "student-target":
            parts.append("KL(target || student)")
        if settings.get("center_momentum", 1) != 1:
            parts.append(f"centred target {settings['center_momentum']:g}")
        if (settings.get("target_temperature") or settings.get("temperature")) != settings.get("temperature"):
            parts.append(f"target temperature {settings['target_temperature']:g}")
        if settings.get("reset_target_head"):
            parts.append("fresh target head")
    if training.get("stages") == ["w1a1"]:
        parts.append("one stage")
    return ", ".join([name, *parts])
