"""The check finds and counts each kind of problem, and says which are fatal."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from kat.data import DataConfig
from kat.data.check import check_split, class_problems
from kat.data.dense import open_coco
from tests.data.dense.coco_files import TRIANGLE, instances, write_coco
from tests.data.dense.mask_files import halves, write_ade20k, write_pairs
from tests.images import write_folder


def _problems(name, split="train", **options):
    report = check_split(DataConfig(name=name, num_workers=2), split, **options)
    return {problem.kind: problem for problem in report.problems}


def _annotation(place, **changes):
    def change(content):
        content["annotations"][place] |= changes

    return change


def _twice(kind, field):
    def change(content):
        content[kind][2][field] = content[kind][0][field]

    return change


SKIPPABLE = {
    "annotations of unknown images": _annotation(1, image_id=5),
    "annotations of unknown categories": _annotation(1, category_id=1),
    "duplicate annotation ids": _twice("annotations", "id"),
    "boxes of zero area": _annotation(1, bbox=[3, 4, 5, 0]),
    "boxes entirely outside their image": _annotation(1, bbox=[61, 4, 5, 5]),
    "boxes more than 1 pixel outside their image": _annotation(1, bbox=[50, 4, 12, 5]),
    "annotations without polygons or run lengths for a mask": _annotation(1, segmentation=[]),
    "masks whose size differs from their image": _annotation(
        1, segmentation={"size": [60, 50], "counts": [0, 3000]}
    ),
    "polygons that are not finite or reach far beyond their image": _annotation(
        1, segmentation=[[1, 1, 12, 1, 12, 9], [1, 1, 12, 1, 12, 1e9]]
    ),
}
FATAL = {
    "duplicate image ids": _twice("images", "id"),
    "duplicate category ids": _twice("categories", "id"),
    "duplicate category names": _twice("categories", "name"),
    "images without a size": lambda content: content["images"][0].update(width=0),
    "files without images": lambda content: content.update(images=[], annotations=[]),
    "files without categories": lambda content: content.update(categories=[], annotations=[]),
    "files without a valid annotation": lambda content: [
        row.update(bbox=[0, 0, 0, 0]) for row in content["annotations"]
    ],
}


@pytest.mark.parametrize("kind", SKIPPABLE)
def test_an_invalid_annotation_is_found_and_can_be_skipped(tmp_path, kind):
    content = instances()
    SKIPPABLE[kind](content)
    write_coco(tmp_path, content)
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert (problem.kind, problem.count) == (kind, 1)
    assert problem.first.startswith(f"annotation {content['annotations'][1]['id']} ") or (
        kind == "duplicate annotation ids" and problem.first.startswith("annotation 900 ")
    )
    assert problem.fatal(skip=False)
    assert not problem.fatal(skip=True)


@pytest.mark.parametrize("kind", FATAL)
def test_a_problem_that_cannot_be_skipped_is_fatal(tmp_path, kind):
    content = instances()
    FATAL[kind](content)
    write_coco(tmp_path, content)
    assert _problems(f"coco:{tmp_path}")[kind].fatal(skip=True)


@pytest.mark.parametrize(
    ("corner", "fine"),
    [
        ((-60, 0), True),
        ((120, 100), True),
        ((30, -50), True),
        ((-61, 0), False),
        ((121, 5), False),
        ((5, 101), False),
        ((5, -51), False),
        ((math.nan, 5), False),
        ((5, math.nan), False),
        ((math.inf, 5), False),
        ((5, -math.inf), False),
        ((1e300, 5), False),
    ],
)
def test_polygons_may_reach_as_far_beyond_their_image_as_it_is_wide_and_high(
    tmp_path, corner, fine
):
    content = instances()
    content["annotations"][1]["segmentation"] = [TRIANGLE, [1, 2, *corner, 20, 30]]
    write_coco(tmp_path, content)
    assert (_problems(f"coco:{tmp_path}") == {}) == fine
    data = open_coco(tmp_path, "train", "skip")
    assert data[1][1]["labels"].tolist() == ([1, 0, 2] if fine else [1, 2])


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 10**400]],
        [TRIANGLE, 5],
        {"size": [50, 60], "counts": [-1, 3001]},
        {"size": [50, 60], "counts": ["3000"]},
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        {"size": [50, 60]},
        {"size": [50, 60], "counts": [1, 2, 3]},
        {"counts": [3000]},
        None,
        "polygon",
    ],
)
def test_invalid_outlines_are_found(tmp_path, outline):
    content = instances()
    content["annotations"][1]["segmentation"] = outline
    write_coco(tmp_path, content)
    kind = "annotations without polygons or run lengths for a mask"
    damaged = "images whose masks have damaged run lengths"
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert problem.kind in (kind, damaged)


def test_compressed_run_lengths_that_do_not_fill_the_image_are_damaged(tmp_path):
    content = instances()
    content["annotations"][2]["segmentation"]["counts"] = "34="
    write_coco(tmp_path, content)
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert problem.kind == "images whose masks have damaged run lengths"
    assert "a.png" in problem.first


def test_images_that_are_missing_torn_or_resized(tmp_path):
    write_coco(tmp_path)
    folder = tmp_path / "train2017"
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"torn")
    Image.new("RGB", (48, 64)).save(folder / "c.jpg")
    for headers_only in (False, True):
        problems = _problems(f"coco:{tmp_path}", headers_only=headers_only)
        firsts = {kind: (problem.count, problem.first) for kind, problem in problems.items()}
        assert firsts.keys() == {
            "missing images",
            "unreadable images",
            "images whose size differs from their annotations",
        }
        assert firsts["missing images"] == (1, str(folder / "a.png"))
        assert "b.png cannot be read as an image" in firsts["unreadable images"][1]
        assert firsts["images whose size differs from their annotations"][1].endswith(
            "c.jpg: it has 48x64 pixels, but the annotations are for 64x48: rotate its pixels by"
            " its EXIF orientation, which is ignored here"
        )
        assert not any(problem.fatal(skip=True) for problem in problems.values())


def test_masks_of_a_size_that_no_image_has_are_not_decoded(tmp_path):
    content = instances()
    content["images"][0] |= {"height": 2**30, "width": 2**30}
    write_coco(tmp_path, content)
    assert _problems(f"coco:{tmp_path}", headers_only=True).keys() == {
        "masks whose size differs from their image",
        "images whose size differs from their annotations",
    }


def test_classes_that_do_not_occur_are_noted(tmp_path):
    content = instances()
    content["categories"].append({"id": 1, "name": "unicorn"})
    write_coco(tmp_path, content)
    report = check_split(DataConfig(name=f"coco:{tmp_path}"), "train")
    assert (report.problems, report.unused) == ([], ["unicorn"])
    assert (report.images, report.contents) == (3, "5 annotations (1 crowds)")


def test_classes_in_one_split_alone_are_found(tmp_path):
    write_coco(tmp_path / "both")
    content = instances()
    content["categories"][0]["name"] = "dog"
    write_coco(tmp_path / "other", content)
    both, other = (
        check_split(DataConfig(name=f"coco:{tmp_path / name}"), "train")
        for name in ("both", "other")
    )
    assert class_problems([both, both]) == []
    (problem,) = class_problems([both, other])
    assert (problem.count, problem.first) == (2, "'cat': the train split lacks it")
    assert problem.fatal(skip=True)


def test_problems_of_masks_are_found(tmp_path):
    write_pairs(tmp_path)
    assert _problems(f"masks:{tmp_path}") == {}
    masks = tmp_path / "train" / "masks"
    Image.fromarray(halves(3, 7)).save(masks / "0.png")
    Image.new("L", (20, 30)).save(masks / "1.png")
    for name in ("2", "3"):
        Image.new("RGB", (30, 20)).save(tmp_path / "train" / "images" / f"{name}.png")
    (masks / "2.png").write_bytes(b"torn")
    problems = _problems(f"masks:{tmp_path}")
    assert {kind: problem.count for kind, problem in problems.items()} == {
        "images or masks without their counterpart": 1,
        "masks with values that are not a class": 1,
        "masks whose size differs from their image": 1,
        "unreadable masks": 1,
    }
    assert problems["masks with values that are not a class"].first.endswith(
        "0.png: 3, 7 of 3 classes"
    )
    assert problems["masks whose size differs from their image"].first.endswith(
        "1.png: 20x30, not 30x20"
    )
    assert not any(problem.fatal(skip=True) for problem in problems.values())


@pytest.mark.parametrize(("values", "fatal"), [((0, 255), True), ((0, 1), False), ((1, 2), False)])
def test_255_in_the_place_of_a_class_is_fatal(tmp_path, values, fatal):
    """Masks of two classes often have 0 and 255, but 255 means no class."""
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nobject\n" + "other\n" * (2 in values))
    masks = tmp_path / "train" / "masks"
    Image.fromarray(halves(*values)).save(masks / "0.png")
    Image.fromarray(halves(values[0], 255)).save(masks / "1.png")
    problems = _problems(f"masks:{tmp_path}")
    kind = "splits whose masks hold at most one class beside 255"
    assert list(problems) == ([kind] if fatal else [])
    if fatal:
        assert problems[kind].fatal(skip=True)
        first = f"{masks}: 255 is not a class; does it stand for class 'object'?"
        assert problems[kind].first == first


def test_classes_of_masks_that_do_not_occur_are_noted(tmp_path):
    write_ade20k(tmp_path)
    Image.fromarray(halves(0, 1)).save(tmp_path / "annotations" / "training" / "ADE_1.png")
    train, val = (
        check_split(DataConfig(name=f"ade20k:{tmp_path}"), split) for split in ("train", "val")
    )
    assert (train.unused, val.unused) == (["car;auto"], [])


def test_labeled_images_are_checked_too(tmp_path):
    write_folder(tmp_path, classes=2, train=3, val=1)
    (tmp_path / "train" / "n01" / "1.jpg").write_bytes(b"torn")
    (problem,) = _problems(f"folder:{tmp_path}").values()
    assert (problem.kind, problem.count) == ("unreadable images", 1)
    assert _problems(f"folder:{tmp_path}", "val") == {}
    assert _problems("digits", "val") == {}
