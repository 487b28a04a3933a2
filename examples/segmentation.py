"""Train a segmentation network whose encoder is a 1-bit backbone, with segmentation_models_pytorch.

    pip install segmentation-models-pytorch
    python examples/segmentation.py PHOTOS --output unet

PHOTOS has images/NAME.jpg and masks/NAME.png, whose pixels are class numbers (255: left out). Every fifth photo is a
test photo. The output folder gets `model.pt` and `masks.png`: test photos, their masks, and the network's.
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.functional import normalize
from torchvision.utils import save_image

import burn_timm  # noqa: F401 - registers the models


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with images/ and masks/")
    parser.add_argument("--model", default="reactnet_a_burn", help="the encoder: a timm model with pretrained weights")
    parser.add_argument("--arch", default="Unet", help="of the decoder: Unet, FPN, UPerNet, Segformer, ...")
    parser.add_argument("--img-size", type=int, default=128, help="pixels, a multiple of 32")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--output", type=Path, default="unet", help="a folder")
    args = parser.parse_args(argv)
    try:
        import segmentation_models_pytorch as smp  # after --help
    except ImportError as error:
        raise SystemExit(f"{error}: pip install segmentation-models-pytorch") from error
    cfg = timm.get_pretrained_cfg(args.model)
    pairs = sorted((args.photos / "images").iterdir()), sorted((args.photos / "masks").iterdir())
    if [path.stem for path in pairs[0]] != [path.stem for path in pairs[1]] or len(pairs[0]) < 5:
        raise SystemExit(f"{args.photos}: expected at least 5 photos in images/ and a mask of each name in masks/")
    photos = torch.stack([read(path, args.img_size, True) for path in pairs[0]]).permute(0, 3, 1, 2)
    y = torch.stack([read(path, args.img_size) for path in pairs[1]]).long()
    x = normalize(photos / 255, cfg.mean, cfg.std)
    test = torch.arange(len(x)) % 5 == 4
    classes = int(y[y < 255].max()) + 1
    model = smp.create_model(args.arch, f"tu-{args.model}", encoder_weights=True, classes=classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for step in range(args.steps):
        chosen = torch.multinomial((~test).float(), args.batch_size, replacement=True)
        images, masks = (part.flip(-1) if step % 2 else part for part in (x[chosen], y[chosen]))
        loss = F.cross_entropy(model(images), masks, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    with torch.no_grad():
        found = model.eval()(x[test]).argmax(1)
    counts = smp.metrics.get_stats(found, y[test], mode="multiclass", num_classes=classes, ignore_index=255)
    iou = smp.metrics.iou_score(*counts, reduction="macro").item()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.output / "model.pt")
    grey = [(mask[:, None].expand(-1, 3, -1, -1).float() / (classes - 1)).clamp(max=1) for mask in (y[test], found)]
    save_image(torch.cat([photos[test] / 255, *grey], dim=3)[:8], args.output / "masks.png", nrow=1)
    print(f"mean IoU {100 * iou:.1f} % on {len(found)} test photos")
    return iou


def read(path: Path, side: int, photo: bool = False) -> torch.Tensor:
    """The centre of a photo, uint8 [S, S, 3], or of a mask, [S, S], whose pixels are numbers, with a palette or not."""
    image = ImageOps.exif_transpose(Image.open(path))
    if not photo and image.mode not in ("L", "P"):
        raise SystemExit(f"{path}: expected a mask with one class number a pixel, not an image of mode {image.mode}")
    method = Image.Resampling.BICUBIC if photo else Image.Resampling.NEAREST
    return torch.from_numpy(np.array(ImageOps.fit(image.convert("RGB") if photo else image, (side, side), method)))


if __name__ == "__main__":
    main()
