"""Hard images: few to learn from, and at test time occluded and corrupted ones.

    pip install "kolmogorov-arnold-transformer[domains]"
    apt-get install dataset-fashion-mnist                                     # Debian's
    python examples/domains/images.py --task fashion-100 --seed 1 --steps 20  # a first look
    python examples/domains/images.py                                         # all of it
    python examples/domains/images.py --table                                 # of what is done

github.com/muhammadumair894/KAT-ReID reports that KAT gains ten points of mAP on occluded people,
and loses as many and more elsewhere. Here both are measured, of the same trained models.

Body: timm's VisionTransformer, 4 blocks of width 64 on patches of 7 x 7 pixels, 0.2 M parameters;
the MLP of each block is exchanged (make_model).

Data: Fashion-MNIST with 100, 1,000 or 10,000 training images. The seed draws them, as many of each
class, and from the rest of the 60,000 the validation images, which choose rate and stopping: 100,
200 and 1,000. (A fifth of 100 would be 20, each of which is 5 points.) They are the same for all
arms. Training images are shifted by up to 2 pixels and flipped, never occluded or corrupted.

Errors, 1 - accuracy on the 10,000 test images:
  test       as they are
  occluded   a gray square of 15 x 15 pixels, 29 % of the image, is somewhere on it
  corrupted  the mean of the columns noise, blur, contrast and rotation, each of which is a
             transform of torchvision at one severity (CORRUPTIONS)
Squares and noise are drawn once, the same for every arm and seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

with needed():
    from layers import ARMS, mlp
    from runner import Domain, Trial
    from timm.models.vision_transformer import VisionTransformer
    from torchvision.transforms import v2
    from training import train

    from kat.data import DataConfig, open_split
    from kat.errors import InputError


class Task(NamedTuple):
    """How many images are trained and validated on, and how many a step sees."""

    train: int
    valid: int
    batch: int


TASKS = {
    "fashion-100": Task(100, 100, 16),
    "fashion-1000": Task(1000, 200, 64),
    "fashion-10000": Task(10_000, 1000, 160),
}
CLASSES, SIZE, PATCH = 10, 28, 7
WIDTH, HIDDEN, BLOCKS, HEADS = 64, 192, 4, 4
SHIFT, SQUARE, GRAY = 2, 15, 128
CORRUPTIONS = {
    "noise": v2.GaussianNoise(sigma=0.15),  # of the 1 between black and white
    "blur": v2.GaussianBlur(kernel_size=7, sigma=1.5),
    "contrast": v2.ColorJitter(contrast=(0.6, 0.6)),
    "rotation": v2.RandomRotation((20, 20), v2.InterpolationMode.BILINEAR),
}
DOMAIN = Domain(
    doc=__doc__,
    name="images",
    tasks=list(TASKS),
    rates=dict.fromkeys(ARMS, (5e-4, 1.5e-3, 4e-3)),
    steps=600,
    columns=("occluded", *CORRUPTIONS, "corrupted"),
    measures=("test", "occluded", "corrupted"),
)


def main() -> None:
    """Makes the runs that the CSV file lacks, and prints the tables."""
    parser = DOMAIN.parser()
    parser.add_argument("--data", default="fashion_mnist", help="or fashion_mnist:FOLDER")
    options = parser.parse_args()
    DOMAIN.main(options, partial(run, options))


class Images(NamedTuple):
    """Pixels (n, 1, 28, 28), bytes, and classes (n,)."""

    pixels: Tensor
    labels: Tensor


def run(
    options: argparse.Namespace,
    trial: Trial,
    make: Callable[[str], nn.Sequential] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """One run of an arm: the model, by default of make_model, and its errors."""
    task = TASKS[trial.task]
    seen, held_out = split(task, read(options.data, "train"), trial.seed)
    model = (make or make_model)(trial.arm).to(trial.device)

    def loss() -> Tensor:
        chosen = torch.randint(task.train, (task.batch,))
        pixels, labels = augmented(seen.pixels[chosen]), seen.labels[chosen]
        return functional.cross_entropy(model(pixels.to(trial.device)), labels.to(trial.device))

    row = train(trial, model, loss, partial(error, model, held_out, trial.device), 0.05)
    if not trial.tuning:
        tests = hardened(options.data).items()
        row |= {name: error(model, images, trial.device) for name, images in tests}
        row["corrupted"] = sum(row[name] for name in CORRUPTIONS) / len(CORRUPTIONS)
    return model, row


def make_model(arm: str, blocks: int = BLOCKS) -> nn.Sequential:
    """Bytes (n, 1, 28, 28) to logits (n, 10); all but the MLPs is drawn the same for every arm."""
    body = VisionTransformer(
        img_size=SIZE, patch_size=PATCH, in_chans=1, num_classes=CLASSES, embed_dim=WIDTH,
        depth=blocks, num_heads=HEADS, class_token=False, global_pool="avg",
    )  # fmt: skip
    for block in body.blocks:
        block.mlp = mlp(arm, WIDTH, HIDDEN)
    scaled = v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.286], [0.353])
    return nn.Sequential(*scaled, body)


@torch.no_grad()
def error(model: nn.Module, images: Images, device: torch.device) -> float:
    """1 - accuracy."""
    classes = [model(pixels.to(device)).argmax(1).cpu() for pixels in images.pixels.split(500)]
    return (torch.cat(classes) != images.labels).double().mean().item()


def split(task: Task, images: Images, seed: int) -> tuple[Images, Images]:
    """The images that are trained on and others to validate, drawn by the seed, class by class."""
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(seed))
    of_class = [order[images.labels[order] == label] for label in range(CLASSES)]
    end = task.train // CLASSES
    ranges = slice(end), slice(end, end + task.valid // CLASSES)
    chosen = (torch.cat([indices[each] for indices in of_class]) for each in ranges)
    first, second = (Images(images.pixels[each], images.labels[each]) for each in chosen)
    return first, second


def augmented(pixels: Tensor) -> Tensor:
    """The images, each shifted by up to SHIFT pixels and flipped or not, as torch's seed draws."""
    count = len(pixels)
    windows = functional.pad(pixels, [SHIFT] * 4).unfold(2, SIZE, 1).unfold(3, SIZE, 1)
    top, left = torch.randint(2 * SHIFT + 1, (2, count))
    shifted = windows[torch.arange(count), :, top, left]
    return torch.where(torch.rand(count, 1, 1, 1) < 0.5, shifted, shifted.flip(-1))


@cache
def hardened(data: str) -> dict[str, Images]:
    """The test images by measure: as they are, occluded, and with each corruption."""
    images = read(data, "val")
    changed = {"test": images.pixels, "occluded": occluded(images.pixels)}
    for name, corruption in CORRUPTIONS.items():
        with torch.random.fork_rng(devices=[]):  # what is drawn here, no run sees
            torch.manual_seed(0)
            changed[name] = corruption(images.pixels)
    return {name: Images(pixels, images.labels) for name, pixels in changed.items()}


def occluded(pixels: Tensor) -> Tensor:
    """The images, each with a gray square at a place of its own."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(SIZE - SQUARE + 1, (2, len(pixels), 1, 1, 1), generator=generator)
    top, left = places
    y, x = torch.arange(SIZE)[:, None], torch.arange(SIZE)
    hidden = (y >= top) & (y < top + SQUARE) & (x >= left) & (x < left + SQUARE)
    return pixels.masked_fill(hidden, GRAY)


@cache
def read(data: str, part: str) -> Images:
    """The images of a split, ``train`` or ``val``.

    Raises:
        SystemExit: they are not there.
    """
    try:
        source = open_split(DataConfig(data), part).source
    except InputError as problem:
        raise SystemExit(f"{problem}: apt-get install dataset-fashion-mnist") from None
    return Images(torch.tensor(source.pixels)[:, None], torch.tensor(source.labels).long())


if __name__ == "__main__":
    main()
