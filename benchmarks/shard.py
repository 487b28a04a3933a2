"""Pack photos for a machine that has none: an equal share of each class, as many as fit.

    python benchmarks/shard.py FOLDER shard/photos.tar               # FOLDER/CLASS/PHOTO.JPEG, at most 55 MB of them
"""

import itertools
import tarfile
from pathlib import Path

from burn_timm import arguments
from burn_timm.errors import BurnError
from burn_timm.files import atomic_write

PHOTOS = {".jpeg", ".jpg", ".png", ".webp"}
HEADER = 1024  # bytes that tar adds to a file at most, padding included


def main(argv: list[str] | None = None) -> int:
    """Pack, print and return how many photos are in the shard."""
    parser = arguments.Parser(prog="shard.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with a folder of photos for each class")
    parser.add_argument("shard", type=Path, help="the tar file to write")
    parser.add_argument("--megabytes", type=arguments.above_zero, default=55.0, metavar="MB", help="of the shard")
    args = parser.parse_args(argv)
    return arguments.run("shard.py", lambda: pack(args.folder, args.shard, 1e6 * args.megabytes))


def pack(folder: Path, shard: Path, most_bytes: float) -> int:
    classes = [sorted(p for p in each.iterdir() if p.suffix.lower() in PHOTOS) for each in sorted(folder.glob("*/"))]
    rounds = itertools.zip_longest(*classes)  # the first photo of each class, then the second, ...
    photos, size = [], 0
    for photo in filter(None, itertools.chain.from_iterable(rounds)):
        size += photo.stat().st_size + HEADER
        if size > most_bytes:
            break
        photos.append(photo)
    if not photos:
        raise BurnError(f"{folder}: no folders of classes with photos that fit into {most_bytes / 1e6:g} MB")
    shard.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(shard) as unfinished, tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as tar:
        for photo in photos:
            tar.add(photo, f"photos/{photo.parent.name}/{photo.name}")
    print(f"{len(photos):,} photos of {len(classes)} classes, {shard.stat().st_size / 1e6:.1f} MB: {shard}")
    return len(photos)


if __name__ == "__main__":
    main()
