"""Matching of logits to classes, against timm's lists for ImageNet and its subsets."""

from __future__ import annotations

from importlib.resources import files

import pytest

from kat.errors import InputError
from kat.text import numbered
from kat.training.tasks.match import imagenet_synsets, match_classes


def _list(name: str) -> list[str]:
    return (files("timm.data") / "_info" / name).read_text().split()


def test_two_classes_of_one_name_are_matched_if_all_names_are_the_same():
    match = match_classes(["crane", "owl", "crane"], ["crane", "owl", "crane"])
    assert match == ([0, 1, 2], [])


def test_another_order_goes_by_the_names():
    match = match_classes(["0", "1", "10", "2"], ["0", "1", "2", "10"])
    assert match.columns == [0, 1, 3, 2]
    assert "another order" in match.notes[0]


@pytest.mark.parametrize("model", ["synsets", "numbers"])
@pytest.mark.parametrize("subset", ["a", "r"])
def test_imagenets_subsets_are_timms(model, subset):
    ours = list(imagenet_synsets()) if model == "synsets" else numbered(1000)
    match = match_classes(ours, _list(f"imagenet_{subset}_synsets.txt"))
    assert match.columns == [int(index) for index in _list(f"imagenet_{subset}_indices.txt")]
    assert "200 of" in match.notes[-1]


def test_numbered_folders_are_imagenets_indices():
    shuffled = [str(i) for i in range(999, -1, -1)]
    match = match_classes(list(imagenet_synsets()), shuffled)
    assert match.columns == list(range(999, -1, -1))
    assert "synsets were matched" in match.notes[0]


def test_numbers_that_name_other_classes_do_not_go_by_position():
    for theirs in (["0", "2", "5"], ["1", "2", "3"]):
        with pytest.raises(InputError, match="in the data"):
            match_classes(["0", "1", "2"], theirs)


def test_what_has_no_names_goes_by_position():
    match = match_classes(numbered(2), ["cat", "dog"])
    assert match.columns == [0, 1]
    assert "not compared" in match.notes[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (["a", "b"], ["a", "c"], "class 1 is 'b' in the model and 'c' in the data"),
        (["a", "b"], ["x"], "has 2 classes and the data has 1; 'x' is not a class of the"),
    ],
)
def test_other_classes_are_refused(ours, theirs, message):
    with pytest.raises(InputError, match=message):
        match_classes(ours, theirs)
