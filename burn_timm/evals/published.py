"""Which results were measured as the paper's figures were, so that these may stand beside them."""

IMAGENET = (1_281_167, 50_000)  # images of training and validation
_COUNTS = {  # of the sets of Table 4
    "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "cub": (5_994, 5_794), "birdsnap": (47_386, 2_443),
    "places205": (2_448_873, 20_500),
}
_SGD = {"optimizer": "SGD", "probe": "linear classifier", "momentum": 0.9, "batch_size": 256}
_LINEAR = {**_SGD, "epochs": 100, "weight_decay": 0.0, "lr_schedule": "x0.1 at 0.6 and 0.8 of the epochs"}
_PLACES = {**_SGD, "epochs": 14, "weight_decay": 5e-4, "lrs": [0.01],
           "lr_schedule": "x0.1 at 0.2857 and 0.5714 and 0.8571 of the epochs"}
_FINETUNE = {
    "optimizer": "SGD", "momentum": 0.9, "epochs": 20, "lr_schedule": "x0.2 at 0.6 and 0.8 of the epochs",
    "lrs": [0.001, 0.01, 0.1], "head_multipliers": [1, 10, 100], "view": "supervised",
}
_SVM = {
    "costs": sorted((1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))),
    "class_weight": {"positive": 2, "negative": 1}, "features": "L2-normalised",
}
_DETECTION = {
    "neck": "c4", "bn": "train", "iterations": 24_000, "milestones": [18_000, 22_000], "warmup": 100, "batch_size": 16,
    "opt": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4, "clip_grad": None, "difficult": "train",
    "min_sizes": list(range(480, 801, 32)), "max_size": 1333, "rois": 512, "precise_bn": 200,
    "test": {"min_size": 800, "proposals": 1000, "score_threshold": 0.05, "nms": 0.5, "detections_per_image": 100},
}


def same_protocol(number: int, result: dict) -> bool:
    """Whether the paper's figures of a table may stand beside a result: ReActNet-A, trained on the whole of ImageNet at
    224 px, and evaluated in the published way on all of the paper's images."""
    training, protocol, dataset = result.get("training") or {}, result["protocol"], result["dataset"]
    # A run's dataset is named with its count, "..., 1,281,167 images, ...".
    imagenet = f"{IMAGENET[0]:,}" in str(training.get("dataset"))
    same_network = training.get("model") in ("reactnet_a", "reactnet_a_burn") and training.get("img_size") == 224
    if not (imagenet and same_network):
        return False
    if number == 1:  # VOC 07+12
        counts = sum(part["images"] for part in dataset["train"]), dataset["test"]["images"]
        return counts == (16_551, 4_952) and _states(protocol, _DETECTION)
    transform, task = protocol.get("transform", {}), result["task"]
    if (transform.get("squash_to") or transform.get("input_size") or [0])[-1] != 224:
        return False
    cut = [part for part in ("train", "test") if dataset[part]["images"] != dataset[part]["of"]]
    if cut and not (cut == ["train"] and task == "finetune"):  # --limit-train, --limit-test
        return False
    counts = dataset["train"]["of"], dataset["test"]["images"]
    if number == 3:
        draws = str(protocol.get("low_shot")).startswith("5 seeded draws of k positive and 19 k")
        return counts == (5_011, 4_952) and draws and "squash_to" in transform and _states(protocol, _SVM)
    cropped = str(protocol.get("views")).startswith("random resized crop")
    if number == 4:
        name = last_part(dataset["name"])
        settings = {**_PLACES, "views": protocol.get("views") if cropped else ""} if name == "places205" else _LINEAR
        return counts == _COUNTS.get(name) and _states(protocol, settings)
    if task == "finetune":
        listed = "images of the list" in str(protocol.get("labels"))  # SimCLR's
        return counts == IMAGENET and listed and _states(protocol, _FINETUNE)
    return counts == IMAGENET and cropped and _states(protocol, _LINEAR)


def _states(protocol: dict, settings: dict) -> bool:
    return all(key in protocol and protocol[key] == value for key, value in settings.items())


def last_part(dataset: str) -> str:
    """The last part of a dataset's name in small letters: `cifar10` of `hfds//data/CIFAR-10`."""
    return dataset.rstrip("/").rsplit("/", 1)[-1].lower().replace("-", "")
