"""Finds the WebDataset shards of a split, and reads the metadata files beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kat.data.naming import SPLIT_NAMES, check_unique
from kat.data.sources.tar_index import visible_tars
from kat.documents import read_json
from kat.errors import InputError
from kat.files import read_text

_CLASS_NAMES, _INFO = "classes.txt", "_info.json"


def shards_by_split(pattern: str) -> tuple[Path, dict[str, list[str]]]:
    """Finds the shards of each split; see :func:`kat.data.sources.webdataset.open_webdataset`.

    Returns:
        The folder of the shards, and the paths of the shards by split.

    Raises:
        InputError: there is no shard, or one that is named is missing.
    """
    if Path(pattern).is_dir():
        folder = Path(pattern)
        listed = _splits_of_info(folder)
        if listed:
            return folder, listed
        paths = visible_tars(folder)
        if not paths:
            raise InputError(f"{folder} holds no .tar file")
    else:
        paths = expand_braces(pattern)
        folder = Path(paths[0]).parent
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise InputError(f"{missing[0]} does not exist ({len(missing)} of {len(paths)} such)")
    return folder, {split: _of_split(paths, words) for split, words in SPLIT_NAMES.items()}


def _of_split(paths: Sequence[str], words: Sequence[str]) -> list[str]:
    """The shards with the first of the words that any has: those of val, else of validation, ..."""
    found = ([path for path in paths if word in _words(path)] for word in words)
    return next(filter(None, found), [])


def _words(path: str) -> set[str]:
    return set(re.split(r"[^a-z]+", Path(path).stem.lower()))


def expand_braces(pattern: str) -> list[str]:
    """Expands braces: ``a-{08..10}.tar`` to a-08.tar, a-09.tar, a-10.tar; ``{a,b}`` to a, b.

    Raises:
        InputError: the braces hold neither a range of numbers nor a list.
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        inside = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    else:
        inside = match[1].split(",")
    if (len(inside) < 2 and not numbers) or not inside:
        raise InputError(f"{match[0]} in {pattern!r} must be like {{0000..0146}} or {{train,val}}")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [path for word in inside for path in expand_braces(head + word + tail)]


def _info(folder: Path) -> dict[str, dict]:
    """The splits that _info.json describes; empty if there is no such file."""
    path = folder / _INFO
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        splits = content["splits"]
        return {name: dict(split) for name, split in splits.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not describe splits in the format of timm: {error!r}"
        ) from None


def _splits_of_info(folder: Path) -> dict[str, list[str]]:
    splits = _info(folder)
    if not splits:
        return {}
    found = {}
    for split, words in SPLIT_NAMES.items():
        name = next((word for word in words if word in splits), None)
        names = splits[name].get("filenames", []) if name else []
        found[split] = [str(folder / path) for pattern in names for path in expand_braces(pattern)]
    return found


def label_field(folder: Path, split: str) -> str | None:
    """The field of ``.json`` files with the labels of a split, if _info.json names one."""
    splits = _info(folder)
    name = next((word for word in SPLIT_NAMES[split] if word in splits), None)
    return (splits[name].get("alt_label") or None) if name else None


def class_names(folder: Path) -> list[str] | None:
    """The class names in classes.txt, one per line; None if there is no such file.

    Raises:
        InputError: the file is empty, or a name occurs twice.
    """
    path = folder / _CLASS_NAMES
    if not path.is_file():
        return None
    names = read_text(path).strip().splitlines()
    if not names:
        raise InputError(f"{path} is empty: it must hold one class name per line")
    check_unique(names, path, "class", "classes")
    return names
