"""COCO's format, against pycocotools and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kat.data import DataConfig, UnreadableImage, open_split
from kat.data.config import DetectionAugmentConfig
from kat.data.dense import open_coco
from kat.data.dense.transforms import DetectionTrainTransform
from kat.errors import InputError
from tests.data.dense.coco_files import instances, official_coco, write_coco


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder)
    return folder


def test_masks_boxes_and_areas_are_those_of_pycocotools(root):
    official = official_coco(root / "annotations" / "instances_train2017.json")
    data = open_coco(root, "train")
    assert len(data) == 3
    for image, target in (data[index] for index in range(3)):
        number = int(target["image_id"])
        rows = official.imgToAnns[number]
        assert target["masks"].shape == (len(rows), image.height, image.width)
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(target["masks"][place], official.annToMask(row))
            assert data.category_ids[target["labels"][place]] == row["category_id"]
            x, y, width, height = row["bbox"]
            assert target["boxes"][place].tolist() == [x, y, x + width, y + height]
        assert target["area"].tolist() == [row["area"] for row in rows]
        assert target["iscrowd"].tolist() == [row["iscrowd"] for row in rows]
    assert [int(data[index][1]["image_id"]) for index in range(3)] == [1000, 4, 31]


def test_an_item_has_its_types_and_its_labels_go_by_category_id(root):
    data = open_coco(root, "val")
    assert data.classes == ["car", "cat", "brush"]  # ids 3, 17, 90
    image, target = data[1]
    assert (image.mode, image.size) == ("RGB", (60, 50))
    assert target["labels"].tolist() == [1, 0, 2]
    assert {target[name].dtype for name in ("boxes", "area")} == {torch.float32}
    assert {target[name].dtype for name in ("labels", "iscrowd", "image_id")} == {torch.int64}
    assert target["masks"][2].sum() == 18 * 20
    crowd = data[0][1]
    assert crowd["masks"][1].sum() == 48 * 10  # uncompressed run lengths: ten columns
    empty = data[2][1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 30, 40)


def test_missing_fields_are_computed_or_zero(tmp_path):
    content = instances()
    for row in content["annotations"]:
        del row["area"], row["iscrowd"]
    write_coco(tmp_path, content)
    target = open_coco(tmp_path, "train")[1][1]
    assert target["area"].tolist() == [int(mask.sum()) for mask in target["masks"]]
    assert not target["iscrowd"].any()


NO_OUTLINE = ([], None, [[]])


def test_a_file_without_masks_is_data_of_boxes_alone(tmp_path):
    content = instances()
    for row, nothing in zip(content["annotations"], (*NO_OUTLINE, None, []), strict=True):
        row["segmentation"] = nothing
        del row["area"]
    del content["annotations"][0]["segmentation"]
    write_coco(tmp_path, content)
    data = open_coco(tmp_path, "train")
    assert not data.has_masks
    assert data.note == ""
    target = data[1][1]
    assert "masks" not in target
    assert target["boxes"].tolist()[0] == [11, 4, 41, 31]
    assert target["area"].tolist() == [30 * 27, 30 * 26.5, 20 * 18]


def test_masks_are_all_or_none_unless_they_are_left_out(tmp_path):
    content = instances()
    content["annotations"][1]["segmentation"] = []
    write_coco(tmp_path, content)
    with pytest.raises(InputError, match="annotations without"):
        open_coco(tmp_path, "train")
    boxes = open_coco(tmp_path, "train", boxes_only=True)[1][1]
    assert len(boxes["boxes"]) == 3
    assert "masks" not in boxes


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_{split}2017.json", "{split}2017"),
        ("annotations/instances_{split}2017.json", "images/{split}2017"),
        ("annotations/{split}.json", "{split}"),
        ("annotations/instances_{split}.json", "images"),
        ("{split}/_annotations.coco.json", "{split}"),
    ],
)
def test_each_layout_is_found(tmp_path, annotations, images):
    write_coco(tmp_path, annotations=annotations, images=images)
    data = open_split(DataConfig(name=f"coco:{tmp_path}"), "val")
    assert data[1][0].size == (60, 50)


def test_a_missing_layout_is_named_with_what_there_is(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        open_coco(tmp_path / "nowhere", "train")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=r"no annotations.* pictures"):
        open_coco(tmp_path, "train")
    write_coco(tmp_path, images="elsewhere")
    with pytest.raises(InputError, match="beside a folder"):
        open_coco(tmp_path, "train")
    other = tmp_path / "annotations" / "instances_train2014.json"
    other.write_text("{}")
    with pytest.raises(InputError, match=r"more than one.*2014.*2017"):
        open_coco(tmp_path, "train")


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("images", "id", "four", "images: 1: id: "),
        ("annotations", "bbox", "1 2 3 4", "annotations: 1: bbox: "),
        ("images", "id", 31, "names image id '31' more than once"),
    ],
)
def test_a_file_that_is_not_in_cocos_format_is_refused(tmp_path, kind, field, value, message):
    content = instances()
    content[kind][1][field] = value
    write_coco(tmp_path, content)
    with pytest.raises(InputError, match=rf"instances_train2017\.json .*{message}"):
        open_coco(tmp_path, "train", "skip")


@pytest.mark.parametrize("name", ["../../secret.png", "{outside}/secret.png", "../../coco2/x.png"])
def test_an_image_outside_the_data_folder_is_not_read(tmp_path, name):
    content = instances()
    root = tmp_path / "coco"
    name = content["images"][1]["file_name"] = name.format(outside=tmp_path)
    write_coco(root, content)
    (tmp_path / "coco2").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "coco2" / "x.png"):
        Image.new("RGB", (60, 50)).save(path)
    data = open_coco(root, "train")
    with pytest.raises(UnreadableImage, match="outside the data"):
        data[1]
    assert data[0][0].size == (64, 48)


def test_an_image_elsewhere_in_the_data_folder_is_read(tmp_path):
    content = instances()
    names = ["c.jpg", "../val2017/a.png", f"{tmp_path}/val2017/b.png"]
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    write_coco(tmp_path, content)
    linked = tmp_path / "val2017" / "a.png"
    linked.symlink_to(linked.rename(tmp_path.parent / f"{tmp_path.name}.png"))  # names decide
    data = open_coco(tmp_path, "train")
    assert [data[index][0].size for index in range(3)] == [(64, 48), (60, 50), (40, 30)]


def test_invalid_annotations_are_refused_or_skipped(tmp_path):
    content = instances()
    content["annotations"][1]["bbox"][2] = 0
    content["annotations"][3]["bbox"] = [10.0, 10.0, 80.0, 20.0]
    write_coco(tmp_path, content)
    with pytest.raises(InputError, match=r"annotation 12 .*=skip"):
        open_coco(tmp_path, "train")
    data = open_coco(tmp_path, "train", "skip")
    left_out, used = data.note.splitlines()
    assert "first annotation 12" in left_out
    assert left_out.endswith(": left out")
    assert "first annotation 5" in used
    assert data[1][1]["labels"].tolist() == [1, 2]
    _, target = data[0]
    assert target["boxes"][0].tolist() == [10, 10, 90, 30]  # as the file says
    config = DetectionAugmentConfig(scale=(1.0, 1.0), hflip=0.0)
    _, moved = DetectionTrainTransform(64, config, data.mean)(Image.new("RGB", (64, 48)), target)
    assert moved["boxes"].tolist() == [[10, 10, 30, 30]]  # around the mask
