"""A classifier from five photos a class: frozen 1-bit features and a linear head.

    python examples/few_shot.py PHOTOS --output few_shot

PHOTOS has a folder for each class, PHOTOS/CLASS/photo.jpg. All photos but the five a class are test photos. The output
folder gets `model.pth.tar`, a timm checkpoint; `one_bit`, the same network for the C engine; and `confusion.png`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from burn_timm import arguments
from burn_timm.checkpoints import load_model
from burn_timm.data import eval_loader, open_dataset
from burn_timm.data.folders import SPLIT_SYNONYMS
from burn_timm.deploy.export import export
from burn_timm.evals.features import eval_transform, extract_features
from burn_timm.evals.pictures import draw_confusion


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder with a folder for each class")
    parser.add_argument("--model", default="reactnet_a_burn", help="a model with pretrained 1-bit weights")
    parser.add_argument("--shots", type=int, default=5, help="training photos a class (default: 5)")
    parser.add_argument("--img-size", type=int, help="pixels (default: the model's own)")
    parser.add_argument("--output", type=Path, default="few_shot", help="a folder")
    args = parser.parse_args(argv)

    for folder in Path(args.photos).glob("*/"):  # of several splits all but one would be left out
        if folder.name.lower() in sum(SPLIT_SYNONYMS, ()):
            raise SystemExit(f"{args.photos}: expected a folder for each class; give one split, such as {folder}")
    photos = open_dataset("folder", args.photos)
    labels, classes = photos.labels(), photos.num_classes
    order = np.random.default_rng(0).permutation(len(photos))
    few = np.concatenate([order[labels[order] == number][: args.shots] for number in range(classes)])
    others = np.setdiff1d(order, few)
    if len(others) == 0:
        raise SystemExit(f"{args.photos}: no photo is left to test on; give more than {args.shots} photos a class")
    model = load_model(args.model, num_classes=0, pretrained=True)
    transform = eval_transform(model, args.img_size)
    x, y = extract_features(model, eval_loader(photos.subset(few.tolist()), transform))
    test_x, test_y = extract_features(model, eval_loader(photos.subset(others.tolist()), transform))
    model.reset_classifier(classes)
    head = model.get_classifier()
    fit(head, x, y)
    predicted = head(test_x).argmax(1)
    accuracy = (predicted == test_y).double().mean().item()
    draw_confusion(args.output / "confusion.png", test_y, predicted, photos.class_names)
    name = model.pretrained_cfg["architecture"]
    torch.save({"arch": name, "state_dict": model.state_dict()}, args.output / "model.pth.tar")
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": photos.class_names}
    export(model, args.output / "one_bit", "c", args.img_size)
    print(f"{100 * accuracy:.1f} % of {len(test_y)} test photos of {classes} classes are right, trained on {len(y)}")
    print(f'timm.create_model("{name}", num_classes={classes}, checkpoint_path="{args.output}/model.pth.tar")')
    print(f'burn_timm.deploy.load("{args.output}/one_bit")  # the same with 1-bit kernels')
    return accuracy


def fit(head: torch.nn.Linear, x: torch.Tensor, y: torch.Tensor, decay: float = 1e-3) -> None:
    """Logistic regression on standardised features [N, D]; their mean and deviation then move into the weights."""
    torch.nn.init.zeros_(head.weight)
    deviation, mean = x.std(0).clamp(min=1e-3), x.mean(0)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head((x - mean) / deviation), y) + decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_((head.weight / deviation).half())  # as the engines store it
        head.bias -= head.weight @ mean


if __name__ == "__main__":
    arguments.run("few_shot.py", main)
