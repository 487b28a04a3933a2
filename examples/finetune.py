"""Fine-tune packed 1-bit weights on a folder of photos with timm's own parts: data, optimiser, scheduler, saver.

    python examples/finetune.py PHOTOS --output finetuned

PHOTOS has PHOTOS/train/CLASS/photo.jpg and PHOTOS/val/CLASS/photo.jpg. Latent weights learn behind the signs: they
start at the packed ones, scale times sign. The output folder gets timm's `model_best.pth.tar`.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy

from burn_timm.checkpoints import load_model


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder with train/ and val/, a folder for each class in both")
    parser.add_argument("--model", default="reactnet_a_burn", help="a model with pretrained weights, or local-dir:...")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default="finetuned", help="a folder")
    args = parser.parse_args(argv)

    for split in ("train", "val"):  # without them timm would take all photos for both
        if not Path(args.photos, split).is_dir():
            raise SystemExit(f"{args.photos}: has no folder {split}; expected {split}/CLASS/photo.jpg in it")
    device = torch.device(args.device)
    sets = [create_dataset("", args.photos, split=split) for split in ("train", "val")]
    classes = sets[0].reader.class_to_idx
    if classes != sets[1].reader.class_to_idx:
        raise SystemExit(f"{args.photos}: train/ and val/ hold different classes; both need the same folders")
    if len(sets[0]) < args.batch_size:  # timm's loader leaves out an incomplete batch
        raise SystemExit(f"--batch-size {args.batch_size}: {args.photos}/train has only {len(sets[0])} photos")
    model = load_model(args.model, num_classes=len(classes), pretrained=True).to(device)
    data = resolve_data_config({"img_size": args.img_size}, model=model)
    loaders = [create_loader(
        images, data["input_size"], args.batch_size, is_training=images is sets[0], use_prefetcher=False,
        interpolation=data["interpolation"], mean=data["mean"], std=data["std"], crop_pct=data["crop_pct"],
    ) for images in sets]
    optimizer = create_optimizer_v2(model, opt="adam", lr=args.lr)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=args.epochs, warmup_epochs=0)
    args.output.mkdir(parents=True, exist_ok=True)
    told = argparse.Namespace(  # to burn-timm pack
        model=model.pretrained_cfg["architecture"], img_size=data["input_size"][-1], crop_pct=data["crop_pct"],
    )
    saver = CheckpointSaver(model, optimizer, args=told, checkpoint_dir=args.output, max_history=1)

    best = 0.0
    for epoch in range(epochs):
        model.train()
        losses = AverageMeter()
        for images, labels in loaders[0]:
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(labels))
        scheduler.step(epoch + 1)
        top1 = validate(model, loaders[1], device)
        best, _ = saver.save_checkpoint(epoch, metric=top1)
        print(f"epoch {epoch}: loss {losses.avg:.3f}, top-1 {top1:.2f} %, best {best:.2f} %")
    return best


@torch.no_grad()
def validate(model: torch.nn.Module, loader, device: torch.device) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    meter = AverageMeter()
    for images, labels in loader:
        meter.update(accuracy(model(images.to(device)), labels.to(device))[0].item(), len(labels))
    return meter.avg


if __name__ == "__main__":
    main()
