"""The check finds and counts each kind of problem, and says which are fatal."""

from __future__ import annotations

import math
import shutil

import pytest
from PIL import Image

from kat.data import DataConfig, check_classes, open_split
from kat.data.check import between_splits, check_split
from kat.data.decoding import decode
from kat.data.dense import open_coco
from kat.data.dense.coco import BEYOND
from kat.errors import InputError
from tests.data.dense.coco_files import TRIANGLE, instances, write_coco
from tests.data.dense.mask_files import halves, write_pairs
from tests.images import write_folder


def _problems(name, split="train", **options):
    report = check_split(DataConfig(name=name, num_workers=2, **options), split)
    return {problem.kind: problem for problem in report.problems}


def _annotation(place, **changes):
    def change(content):
        content["annotations"][place] |= changes

    return change


DAMAGED = "damaged masks: neither run lengths nor polygons near their image"
NO_MASK = "annotations without a mask beside others with one (data.boxes_only=true takes both)"
NOT_FINITE = "boxes or areas that are not finite numbers"
SKIPPABLE = {
    "annotations with the id of another one": _annotation(1, id=900),
    NOT_FINITE: _annotation(1, bbox=[1, math.nan, 30, 26.5]),
    "annotations of unknown images": _annotation(1, image_id=5),
    "annotations of unknown categories": _annotation(1, category_id=1),
    "boxes of zero area": _annotation(1, bbox=[3, 4, 5, 0]),
    "boxes entirely outside their image": _annotation(1, bbox=[61, 4, 5, 5]),
    BEYOND: _annotation(1, bbox=[50, 4, 12, 5]),
    NO_MASK: _annotation(1, segmentation=[]),
    DAMAGED: _annotation(1, segmentation=[[1, 2]]),
    "masks whose size differs from their image": _annotation(
        1, segmentation={"size": [60, 50], "counts": [0, 3000]}
    ),
}
ALL = {"bad_annotations", "bad_images"}


def _fatal(problem, skipped=ALL):
    return problem.severity(skipped) == "fatal"


@pytest.mark.parametrize("kind", SKIPPABLE)
def test_an_invalid_annotation_is_found_and_can_be_skipped(tmp_path, kind):
    content = instances()
    SKIPPABLE[kind](content)
    write_coco(tmp_path, content)
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert (problem.kind, len(problem.cases)) == (kind, 1)
    number = 900 if "the id" in kind else 12
    assert problem.cases[0].startswith(f"annotation {number} of image ")
    assert _fatal(problem, ())
    used = kind == BEYOND  # cut at the border
    assert problem.severity({"bad_annotations"}) == ("warning" if used else "skipped")


@pytest.mark.parametrize(
    "numbers",
    [{"bbox": [1, 2, None, 4]}, {"bbox": []}, {"area": math.nan}],
)
def test_a_number_that_is_missing_or_not_finite_is_of_one_annotation(tmp_path, numbers):
    content = instances()
    content["annotations"][1] |= numbers
    write_coco(tmp_path, content)
    assert _problems(f"coco:{tmp_path}").keys() == {NOT_FINITE}
    with pytest.raises(InputError, match=f"{NOT_FINITE}: .*annotation 12"):
        open_coco(tmp_path, "train")
    assert open_coco(tmp_path, "train", "skip")[1][1]["labels"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("corner", "fine"),
    [((-60, -50), True), ((120, 100), True), ((-61, 0), False), ((math.nan, 5), False)],
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
        [[1, 2, 3, 4, 5, 6, 7]],
        "polygon",
        {"size": [50, 60], "counts": [-1, 3001]},
        {"size": [50, 60], "counts": [[3000]]},
        {"size": [50, 60], "counts": "34="},
    ],
)
def test_damaged_masks_are_found_and_left_out(tmp_path, outline):
    content = instances()
    content["annotations"][2]["segmentation"] = outline
    write_coco(tmp_path, content)
    (problem,) = _problems(f"coco:{tmp_path}").values()
    assert problem.kind == DAMAGED
    with pytest.raises(InputError, match=r"data\.bad_annotations=skip"):
        open_coco(tmp_path, "train")
    assert len(open_coco(tmp_path, "train", "skip")[1][1]["labels"]) == 2


def test_images_that_are_missing_torn_or_resized(tmp_path):
    write_coco(tmp_path)
    folder = tmp_path / "train2017"
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"torn")
    Image.new("RGB", (48, 64)).save(folder / "c.jpg")
    problems = _problems(f"coco:{tmp_path}")
    assert _fatal(problems.popitem()[1])  # no image of the split can be read
    assert problems.keys() == {"missing images", "unreadable images"}
    assert problems["missing images"].cases == [str(folder / "a.png")]
    resized, torn = problems["unreadable images"].cases
    assert "b.png cannot be" in torn
    assert resized.endswith("for 64x48")
    assert all(_fatal(problem, {"bad_annotations"}) for problem in problems.values())
    assert not any(_fatal(problem, {"bad_images"}) for problem in problems.values())


def test_classes_that_do_not_occur_are_noted(tmp_path):
    content = instances()
    content["categories"].append({"id": 1, "name": "unicorn"})
    write_coco(tmp_path, content)
    report = check_split(DataConfig(name=f"coco:{tmp_path}"), "train")
    assert (report.problems, report.notes) == ([], ["no example of class 'unicorn'"])
    content["categories"].pop()
    write_coco(tmp_path / "other", content)
    other = check_split(DataConfig(name=f"coco:{tmp_path / 'other'}"), "train")
    (problem, *_) = between_splits([report, other])
    assert "one split" in problem.kind
    assert "'unicorn'" in problem.cases[0]
    assert _fatal(problem)


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
    assert {kind: len(problem.cases) for kind, problem in problems.items()} == {
        "files that are left out": 1,
        "masks with values that are not a class": 1,
        "unreadable images": 2,
    }
    (case,) = problems["masks with values that are not a class"].cases
    assert "0.png has the" in case
    assert "20x30 pixels" in problems["unreadable images"].cases[0]
    assert not any(_fatal(problem) for problem in problems.values())


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
        assert "for class 'object'" in problems[kind].cases[0]


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
    assert (len(classes.cases), len(splits.cases)) == (1, 1)
    assert str(val / "n01" / "copy.jpg") in splits.cases[0]
    assert {classes.severity(()), splits.severity(())} == {"warning"}


def test_unreadable_images_are_no_copies_of_one_another(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=2)
    for name in ("train/n00/0.jpg", "train/n01/0.jpg", "val/n00/0.jpg"):
        (tmp_path / name).write_bytes(b"torn")
    reports = [check_split(DataConfig(f"folder:{tmp_path}"), split) for split in ("train", "val")]
    kinds = {problem.kind for report in reports for problem in report.problems}
    assert kinds == {"unreadable images"}
    assert not list(between_splits(reports))


@pytest.mark.parametrize("classes", [1, 2])
def test_data_that_no_classifier_can_be_trained_on_is_fatal(tmp_path, classes):
    write_folder(tmp_path, classes=classes, train=1, val=1)
    shutil.rmtree(tmp_path / "val")
    problems = _problems(f"folder:{tmp_path}", "val")
    fatal = " ".join(kind for kind, problem in problems.items() if _fatal(problem))
    assert ("of a single class" if classes == 1 else "without an image") in fatal
    splits = [open_split(DataConfig(f"folder:{tmp_path}"), split) for split in ("train", "val")]
    with pytest.raises(InputError, match=r"two or|no image"):
        check_classes(*splits)


def test_a_class_without_an_image_is_fatal_and_the_others_are_checked(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=1)
    (tmp_path / "train" / "n02").mkdir()
    (tmp_path / "train" / "n01" / "0.jpg").write_bytes(b"torn")
    empty, torn = _problems(f"folder:{tmp_path}").values()
    assert (_fatal(empty), empty.cases) == (True, ["n02"])
    assert (_fatal(torn), torn.kind) == (False, "unreadable images")
    with pytest.raises(InputError, match="n02"):
        open_split(DataConfig(f"folder:{tmp_path}"), "train")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_images_with_transparent_pixels_are_named(tmp_path, mode):
    """Training takes the colors under them as they are stored, and not on black."""
    write_folder(tmp_path, classes=2, train=1, val=1)
    image = Image.new("RGBA", (8, 8), (200, 200, 200, 255)).convert(mode)
    image.save(tmp_path / "train" / "n00" / "opaque.png")
    assert "images with transparency" not in _problems(f"folder:{tmp_path}")
    file = tmp_path / "train" / "n00" / "transparent.png"
    if mode == "P":
        image.save(file, transparency=bytes(256))
    else:
        image.putalpha(0)
        image.save(file)
    problem = _problems(f"folder:{tmp_path}")["images with transparency"]
    assert (problem.cases, problem.severity(())) == ([str(file)], "warning")
    assert decode(str(file)).getpixel((0, 0)) == (200, 200, 200)


def test_uneven_classes_and_classes_with_few_validation_images_are_noted(tmp_path):
    for split, name, count in (("train", "cat", 5), ("train", "dog", 1), ("val", "cat", 4),
                               ("val", "dog", 5)):  # fmt: skip
        (tmp_path / split / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / f"{index}.png")

    def notes():
        config = DataConfig(f"folder:{tmp_path}")
        return [check_split(config, split).notes for split in ("train", "val")]

    assert notes() == [[], ["fewer than 5 examples of class 'cat'"]]
    for split in ("train", "val"):
        Image.new("RGB", (4, 4)).save(tmp_path / split / "cat" / "9.png")
    ((uneven,), few) = notes()
    assert "'dog' has 1 training image, the largest class 6" in uneven
    assert few == []
