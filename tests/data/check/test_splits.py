"""The check finds and counts each kind of problem, and says which are fatal."""

from __future__ import annotations

import math
import shutil

import pytest
from PIL import Image

from kat.data import DataConfig, UnreadableImage, check_classes, open_split
from kat.data.check import between_splits, check_split
from kat.data.dense import open_coco
from kat.errors import InputError
from tests.data.dense.coco_files import TRIANGLE, instances, write_coco
from tests.data.dense.mask_files import halves, write_ade20k, write_pairs
from tests.images import write_folder


def _problems(name, split="train", **options):
    headers_only = options.pop("headers_only", False)
    config = DataConfig(name=name, num_workers=2, **options)
    report = check_split(config, split, headers_only=headers_only)
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
    "annotations without a mask beside others with one (data.boxes_only=true takes both)": (
        _annotation(1, segmentation=[])
    ),
    "annotations without polygons or run lengths for a mask": _annotation(1, segmentation=[[1, 2]]),
    "masks whose size differs from their image": _annotation(
        1, segmentation={"size": [60, 50], "counts": [0, 3000]}
    ),
    "polygons that are not finite or reach far beyond their image": _annotation(
        1, segmentation=[[1, 1, 12, 1, 12, 9], [1, 1, 12, 1, 12, 1e9]]
    ),
}
NO_MASK = (
    "annotations without a mask beside others with one (data.boxes_only=true takes both)",
    "annotations without polygons or run lengths for a mask",
    "masks with damaged run lengths",
)
ALL = {"bad_annotations", "bad_images"}
FATAL = {
    "duplicate image ids": _twice("images", "id"),
    "duplicate category ids": _twice("categories", "id"),
    "duplicate category names": _twice("categories", "name"),
    "category names with half a character (a lone surrogate)": lambda content: content[
        "categories"
    ][0].update(name="caf\ud800"),
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
    assert problem.fatal(())
    assert not problem.fatal({"bad_annotations"})


@pytest.mark.parametrize("kind", FATAL)
def test_a_problem_that_cannot_be_skipped_is_fatal(tmp_path, kind):
    content = instances()
    FATAL[kind](content)
    write_coco(tmp_path, content)
    assert _problems(f"coco:{tmp_path}")[kind].fatal(ALL)


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
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert problem.kind in NO_MASK


@pytest.mark.parametrize("counts", ["34=", "o", "\u00e9", "\ud800", 50 * "o", [2**40], [1, 2, 3]])
def test_damaged_run_lengths_are_found_and_left_out(tmp_path, counts):
    content = instances()
    content["annotations"][2]["segmentation"]["counts"] = counts
    write_coco(tmp_path, content)
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert problem.kind in NO_MASK
    assert "a.png" in problem.first
    with pytest.raises(InputError, match=r"data\.bad_annotations=skip leaves them out"):
        open_coco(tmp_path, "train")
    assert len(open_coco(tmp_path, "train", "skip")[1][1]["labels"]) == 2


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", 300 * "a", "."])
def test_names_that_no_image_has_are_missing_or_unreadable(tmp_path, name):
    content = instances()
    content["images"][1]["file_name"] = name
    write_coco(tmp_path, content)
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert problem.kind in ("missing images", "unreadable images")
    with pytest.raises(UnreadableImage):
        open_coco(tmp_path, "train")[1]


def test_images_that_are_missing_torn_or_resized(tmp_path):
    write_coco(tmp_path)
    folder = tmp_path / "train2017"
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"torn")
    Image.new("RGB", (48, 64)).save(folder / "c.jpg")
    for headers_only in (False, True):
        problems = _problems(f"coco:{tmp_path}", headers_only=headers_only)
        assert problems.pop("splits without an image that can be read").fatal(ALL)
        firsts = {kind: (problem.count, problem.first) for kind, problem in problems.items()}
        assert firsts.keys() == {
            "missing images",
            "unreadable images",
            "images whose size differs from their annotations",
        }
        assert firsts["missing images"] == (1, str(folder / "a.png"))
        assert "b.png cannot be read as an image" in firsts["unreadable images"][1]
        assert firsts["images whose size differs from their annotations"][1].endswith(
            "c.jpg: it has 48x64 pixels, but the annotations are for 64x48"
        )
        assert all(problem.fatal({"bad_annotations"}) for problem in problems.values())
        assert not any(problem.fatal({"bad_images"}) for problem in problems.values())


@pytest.mark.parametrize("side", [2**30, 2**40])
def test_masks_of_a_size_that_no_image_has_are_not_decoded(tmp_path, side):
    content = instances()
    content["images"][0] |= {"height": side, "width": side}
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


def _say_turned(path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def test_images_that_exif_turns_are_counted_by_what_their_annotations_say(tmp_path):
    """c.jpg is annotated as it is stored, a.png upright; b.png, half a turn, may be either."""
    write_coco(tmp_path)
    folder = tmp_path / "train2017"
    _say_turned(folder / "c.jpg", (64, 48), 6)
    _say_turned(folder / "a.png", (50, 60), 8)
    _say_turned(folder / "b.png", (40, 30), 3)
    for headers_only in (False, True):
        data = DataConfig(name=f"coco:{tmp_path}")
        report = check_split(data, "train", headers_only=headers_only)
        assert report.turned == 2
        stored, either = report.problems
        assert stored.cases == [str(folder / "c.jpg")]
        assert "of the stored pixels" in stored.kind
        assert either.cases == [str(folder / "b.png")]
        assert "fit both readings" in either.kind
        assert {stored.severity(()), either.severity(())} == {"warning"}
    ignoring = _problems(f"coco:{tmp_path}", exif="ignore")
    assert list(ignoring) == ["images whose size differs from their annotations"]


def test_a_square_image_that_exif_turns_may_have_either_annotations(tmp_path):
    write_pairs(tmp_path)
    folder = tmp_path / "train"
    _say_turned(folder / "images" / "0.png", (20, 20), 6)
    Image.fromarray(halves(0, 1)[:, :20]).save(folder / "masks" / "0.png")
    (kind,) = _problems(f"masks:{tmp_path}")
    assert kind == "images that EXIF turns, with annotations that fit both readings"


def test_classes_in_one_split_alone_are_found(tmp_path):
    write_coco(tmp_path / "both")
    content = instances()
    content["categories"][0]["name"] = "dog"
    write_coco(tmp_path / "other", content)
    both, other = (
        check_split(DataConfig(name=f"coco:{tmp_path / name}"), "train")
        for name in ("both", "other")
    )
    kind = "classes in one split alone"
    assert kind not in [problem.kind for problem in between_splits([both, both])]
    (problem,) = [p for p in between_splits([both, other]) if p.kind == kind]
    assert (problem.count, problem.first) == (2, "'cat': the train split lacks it")
    assert problem.fatal(ALL)


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
    assert not any(problem.fatal(ALL) for problem in problems.values())


@pytest.mark.parametrize(("values", "wrong"), [((0, 255), True), ((0, 1), False), ((1, 2), False)])
def test_255_in_the_place_of_a_class_is_a_warning(tmp_path, values, wrong):
    """Masks of two classes often have 0 and 255, but 255 means no class."""
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nobject\n" + "other\n" * (2 in values))
    masks = tmp_path / "train" / "masks"
    Image.fromarray(halves(*values)).save(masks / "0.png")
    Image.fromarray(halves(values[0], 255)).save(masks / "1.png")
    problems = _problems(f"masks:{tmp_path}")
    kind = "splits whose masks hold at most one class beside 255"
    assert list(problems) == ([kind] if wrong else [])
    if wrong:
        assert problems[kind].severity(()) == "warning"
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


def test_images_in_two_classes_or_two_splits_are_found(tmp_path):
    write_folder(tmp_path, classes=2, train=3, val=1)
    train, val = tmp_path / "train", tmp_path / "val"
    shutil.copy(train / "n00" / "0.jpg", train / "n01" / "copy.jpg")
    shutil.copy(train / "n01" / "1.jpg", val / "n01" / "copy.jpg")
    shutil.copy(train / "n01" / "2.jpg", train / "n01" / "twice.jpg")
    config = DataConfig(name=f"folder:{tmp_path}")
    reports = [check_split(config, split) for split in ("train", "val")]
    assert reports[0].classes == {"n00": 3, "n01": 5}
    classes, splits = between_splits(reports)
    assert classes.kind == "images in two classes"
    assert classes.cases == [
        f"{train / 'n00' / '0.jpg'} (train, class 'n00')"
        f" = {train / 'n01' / 'copy.jpg'} (train, class 'n01')"
    ]
    assert (splits.kind, splits.count) == ("images in two splits", 1)
    assert str(val / "n01" / "copy.jpg") in splits.first
    assert {classes.severity(()), splits.severity(())} == {"warning"}


def test_unreadable_images_are_no_copies_of_one_another(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=2)
    for name in ("train/n00/0.jpg", "train/n01/0.jpg", "val/n00/0.jpg"):
        (tmp_path / name).write_bytes(b"torn")
    reports = [check_split(DataConfig(f"folder:{tmp_path}"), split) for split in ("train", "val")]
    kinds = {problem.kind for report in reports for problem in report.problems}
    assert kinds == {"unreadable images"}
    assert not list(between_splits(reports))


def test_a_split_without_an_image_that_can_be_read_is_fatal(tmp_path):
    write_folder(tmp_path, classes=2, train=1, val=1)
    for name in ("n00", "n01"):
        (tmp_path / "train" / name / "0.jpg").write_bytes(b"torn")
    problems = _problems(f"folder:{tmp_path}")
    assert {kind: problem.fatal(ALL) for kind, problem in problems.items()} == {
        "unreadable images": False,
        "splits without an image that can be read": True,
    }


@pytest.mark.parametrize(
    ("classes", "kind", "case"),
    [
        (1, "splits of a single class, which leaves a classifier nothing to tell apart", "'n00'"),
        (2, "splits without an image that can be read", "none of its 0 images"),
    ],
)
def test_data_that_no_classifier_can_be_trained_on_is_fatal(tmp_path, classes, kind, case):
    write_folder(tmp_path, classes=classes, train=1, val=1)
    shutil.rmtree(tmp_path / "val")
    problem = _problems(f"folder:{tmp_path}", "val")[kind]
    assert problem.fatal(ALL)
    assert problem.first == case
    splits = [open_split(DataConfig(f"folder:{tmp_path}"), split) for split in ("train", "val")]
    with pytest.raises(InputError, match=r"two or more classes|validation split has no image"):
        check_classes(*splits)
