"""A result's figures in words: what `eval_downstream.py` prints under its last line."""


def summary(result: dict) -> list[str]:
    """Lines of the figures that `value` is not: top-5, other starts, draws with their spread, n/a where a set is too
    small, the detector's other measures. Figures in per cent."""
    extra = result.get("extra") or {}
    return _OF.get(result["task"], _top5)(extra)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _top5(extra: dict) -> list[str]:
    return [f"top-5 {_percent(extra['top5'])}"] if "top5" in extra else []


def _finetune(extra: dict) -> list[str]:
    return [
        f"from {start} weights: top-1 {_percent(best['top1'])}, top-5 {_percent(best['top5'])} "
        f"(learning rate {best['lr']:g}, head x {best['head_multiplier']:g})"
        for start, best in extra["starts"].items()
    ]


def _svm(extra: dict) -> list[str]:
    lines = [
        f"k = {k}: {found}" if isinstance(found, str)
        else f"k = {k}: {100 * found['mean']:.2f} ± {100 * found['std']:.2f} % mAP ({len(found['draws'])} draws)"
        for k, found in extra["low_shot"].items()
    ]
    full = extra["full"]
    if full is not None:
        why = f" ({extra['full_lacks']})" if "full_lacks" in extra else ""
        lines.append(f"full: {full}{why}" if isinstance(full, str) else f"full: {_percent(full)} mAP")
    return lines


def _detection(extra: dict) -> list[str]:
    lines = []
    for name in ("test", "train"):
        if name in extra:
            voc, coco = extra[name]["voc"], extra[name]["coco"]
            lines.append(
                f"{name} images: VOC 11-point mAP {_percent(voc['map'])}, AP50 {_percent(voc['ap50'])}, "
                f"AP75 {_percent(voc['ap75'])}; COCO AP {_percent(coco['ap'])}, AP50 {_percent(coco['ap50'])}, "
                f"AP75 {_percent(coco['ap75'])}"
            )
    return lines


_OF = {"finetune": _finetune, "svm": _svm, "detection": _detection}
