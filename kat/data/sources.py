"""The data sets by name: where images, labels and class names come from."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from kat.data.config import DataConfig
from kat.data.holdout import held_out
from kat.errors import InputError, unknown

FASHION_MNIST_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM_PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")

Transform = Callable[[Image.Image], Any]


class UnreadableImage(Exception):
    """An image that cannot be decoded.

    Args:
        name: the file's path, or what else names the image.
        reason: what the decoder said.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as an image: {self.reason}"


class ImageSet(Dataset):
    """Labelled images of one split: item i is (transform(image), label).

    Args:
        load: maps an index to (PIL image, class index); may raise :class:`UnreadableImage`.
        length: how many images there are.
        classes: the class names, in order of their index.
        channels: 1 for grey, 3 for RGB.
        image_size: (height, width) in pixels if all images have one size.
        mean, std: of each channel, for normalisation.
        ignored: files that were passed over because their names are not those of images.
        note: what to tell the user about the data, in a sentence.
    """

    def __init__(
        self,
        load: Callable[[int], tuple[Image.Image, int]],
        length: int,
        classes: Sequence[str],
        *,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        ignored: Sequence[str] = (),
        note: str = "",
    ) -> None:
        self.load = load
        self.length = length
        self.classes = list(classes)
        self.channels = channels
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.ignored = list(ignored)
        self.note = note
        self.transform: Transform = _untransformed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.load(index)
        return self.transform(image), int(label)


def _untransformed(image: Image.Image) -> Image.Image:
    return image


class ImageStream(IterableDataset):
    """A streamed data set of timm's (wds, hfids, tfds), with the facts an ImageSet has."""

    def __init__(self, dataset: Any, classes: Sequence[str]) -> None:
        self.dataset = dataset
        self.classes = list(classes)
        self.channels = 3
        self.image_size = None
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.ignored: list[str] = []
        self.note = ""

    @property
    def transform(self) -> Transform:
        """Applied to each image; held by timm's data set."""
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Transform) -> None:
        self.dataset.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Any:
        return iter(self.dataset)


def open_split(config: DataConfig, split: str, seed: int = 0) -> ImageSet | ImageStream:
    """Opens the ``"train"`` or ``"val"`` split of the data set that ``config.name`` names.

    The seed is for streamed data sets, which shuffle themselves.

    Raises:
        InputError: an unknown name; a folder or file that is missing, empty or damaged.
    """
    kind, _, path = config.name.partition(":")
    if kind == "digits":
        return _digits(split)
    if kind == "fashion_mnist":
        return _fashion_mnist(Path(path) if path else FASHION_MNIST_DEBIAN, split)
    if kind == "folder":
        return _folder(Path(path), split, config.bad_images, config.holdout)
    if kind.split("/")[0] in TIMM_PREFIXES and "/" in kind:
        return _timm(config, split, seed)
    known = ["digits", "fashion_mnist", "fashion_mnist:PATH", "folder:PATH"]
    raise unknown("data set", config.name, [*known, *(f"{p}/NAME" for p in TIMM_PREFIXES)])


def check_classes(train: ImageSet | ImageStream, val: ImageSet | ImageStream) -> None:
    """Checks that both splits have the same classes in the same order.

    Raises:
        InputError: names the classes that only one split has.
    """
    if train.classes == val.classes:
        return
    for split, extra in (
        ("val", sorted(set(train.classes) - set(val.classes))),
        ("train", sorted(set(val.classes) - set(train.classes))),
    ):
        if extra:
            raise InputError(f"the {split} split lacks {_some(extra, 'class', 'classes')}")
    raise InputError("the classes of the two splits are in different orders")


def _some(names: Sequence[str], singular: str, plural: str) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{singular if len(names) == 1 else plural} {shown}{more}"


def _digits(split: str) -> ImageSet:
    """scikit-learn's 1797 handwritten digits, 8x8 grey; a fixed, stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, val = train_test_split(
        np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target
    )
    chosen = np.sort(train if split == "train" else val)
    pixels = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return _grey(pixels, digits.target[chosen], names, mean=0.3054, std=0.3758)


_GARMENTS = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def _fashion_mnist(folder: Path, split: str) -> ImageSet:
    """Fashion-MNIST (Xiao et al. 2017) from its four gzipped idx files."""
    prefix = "train" if split == "train" else "t10k"
    pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if labels.size == 0 or labels.max() >= len(_GARMENTS):
        raise InputError(f"{folder}: the labels of {prefix}-* must be 0 to 9, and not none")
    if len(pixels) != len(labels):
        raise InputError(f"{folder}: {len(pixels)} images, but {len(labels)} labels in {prefix}-*")
    return _grey(pixels, labels, _GARMENTS, mean=0.2860, std=0.3530)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of bytes in the idx format: 0 0 8 rank, the sizes as big-endian int32, the data."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; install Debian's dataset-fashion-mnist, or give the folder with"
            " the four .gz files as fashion_mnist:PATH"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}") from None
    if len(data) < 4 + 4 * dimensions or tuple(data[:4]) != (0, 0, 8, dimensions):
        raise InputError(f"{path} is not an idx file of bytes with {dimensions} dimensions")
    shape = struct.unpack_from(f">{dimensions}i", data, 4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise InputError(f"{path} holds {values.size} bytes, but its header says {shape}")
    return values.reshape(shape)


def _grey(
    pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, mean: float, std: float
) -> ImageSet:
    return ImageSet(
        partial(_grey_item, pixels, labels),
        len(labels),
        classes,
        channels=1,
        image_size=(pixels.shape[1], pixels.shape[2]),
        mean=(mean,),
        std=(std,),
    )


def _grey_item(pixels: np.ndarray, labels: np.ndarray, index: int) -> tuple[Image.Image, int]:
    return Image.fromarray(pixels[index]), labels[index]


_SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation", "test")}


def _folder(root: Path, split: str, bad_images: str, holdout: float) -> ImageSet:
    """ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg.

    Where there is no ROOT/val, a share ``holdout`` of ROOT/train/CLASS/*.jpg, or of
    ROOT/CLASS/*.jpg, is the validation split, and the rest the training split.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folder, share = _place(root, split, holdout)
    ignored: list[str] = []

    def is_image(path: str) -> bool:
        accepted = path.lower().endswith(IMG_EXTENSIONS)
        if not accepted and not Path(path).name.startswith("."):
            ignored.append(path)
        return accepted

    try:
        files = ImageFolder(str(folder), is_valid_file=is_image, allow_empty=True)
    except FileNotFoundError:
        raise InputError(f"{folder} is empty: it must hold one folder a class") from None
    filled = {label for _, label in files.samples}
    empty = [name for name, label in files.class_to_idx.items() if label not in filled]
    if empty:
        raise InputError(f"{folder} has no image for {_some(empty, 'class', 'classes')}")
    if ignored and bad_images == "fail":
        raise InputError(f"{ignored[0]} is not an image ({len(ignored)} such in {folder})")

    samples, note = files.samples, ""
    if share > 0:
        names = [Path(path).relative_to(folder).as_posix() for path, _ in samples]
        kept_back = held_out(names, [label for _, label in samples], share)
        note = f"{root} has no validation split: {sum(kept_back)} of its {len(names)} images,"
        note += f" {share:g} of each class, are held out for validation and not trained on"
        wanted = split == "val"
        samples = [s for s, back in zip(samples, kept_back, strict=True) if back == wanted]
    return ImageSet(
        partial(_folder_item, samples), len(samples), files.classes, ignored=ignored, note=note
    )


def _place(root: Path, split: str, holdout: float) -> tuple[Path, float]:
    """The folder of a split's classes, and the share of it that is held out for validation."""
    if not root.is_dir():
        raise InputError(f"the data folder {str(root)!r} does not exist")
    found = {
        name: next((root / each for each in folders if (root / each).is_dir()), None)
        for name, folders in _SPLIT_FOLDERS.items()
    }
    if not any(found.values()) and any(each.is_dir() for each in root.iterdir()):
        found["train"] = root
    if found["val"] is None and found["train"] is not None and holdout > 0:
        return found["train"], holdout
    folder = found[split]
    if folder is None:
        names = " or ".join(repr(name) for name in _SPLIT_FOLDERS[split])
        raise InputError(f"{root} has no folder {names} (each holds one folder a class)")
    return folder, 0.0


def _folder_item(samples: list[tuple[str, int]], index: int) -> tuple[Image.Image, int]:
    path, label = samples[index]
    return decode(path), label


def decode(path: str) -> Image.Image:
    """The image in a file, as RGB whatever its format and mode.

    Raises:
        UnreadableImage: the file is damaged, or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _DECODING_ERRORS as error:
        raise UnreadableImage(path, str(error)) from error


_DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are damaged, missing, or no images."""


def _timm(config: DataConfig, split: str, seed: int) -> ImageSet | ImageStream:
    """A data set by timm's name: torchvision's, Hugging Face's, WebDataset shards."""
    from timm.data import create_dataset

    training = split == "train"
    try:
        dataset = create_dataset(
            config.name,
            root=config.root,
            split=config.train_split if training else config.val_split,
            is_training=training,
            download=config.download,
            batch_size=config.batch_size,
            seed=seed,
        )
    except ImportError as error:
        raise InputError(f"data set {config.name!r} needs a package: {error}") from None
    except (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"data set {config.name!r} cannot be opened with root={config.root!r}: {reason}"
        ) from None
    classes = _timm_classes(config, dataset)
    if isinstance(dataset, IterableDataset):
        return ImageStream(dataset, classes)
    return ImageSet(partial(_timm_item, dataset), len(dataset), classes)


def _timm_classes(config: DataConfig, dataset: Any) -> list[str]:
    if config.num_classes is not None:
        return [str(index) for index in range(config.num_classes)]
    names = getattr(dataset, "classes", None)
    if names is None:
        indices = getattr(getattr(dataset, "reader", None), "class_to_idx", None) or {}
        names = sorted(indices, key=indices.__getitem__)
    if not names:
        raise InputError(
            f"data set {config.name!r} does not say which classes it has; give data.num_classes"
        )
    return [str(name) for name in names]


def _timm_item(dataset: Any, index: int) -> tuple[Image.Image, int]:
    try:
        image, label = dataset[index]
    except _DECODING_ERRORS as error:
        raise UnreadableImage(f"image {index} of the data set", str(error)) from error
    return (image if image.mode == "RGB" else image.convert("RGB")), label
