"""Labels in a CSV file: the same dataset as the folder of its images, or one line for a bad row."""

from __future__ import annotations

import csv
import random
import shutil

import pytest

from kat.data import DataConfig, check_classes, data_record, differences, open_split
from kat.errors import InputError
from tests.images import write_folder


def write_table(path, rows, columns=("path", "label", "split")):
    """A CSV file, with as many of the columns as the rows have."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns[: len(rows[0])], *rows])
    return path


def rows_of(root, whole):
    """The rows of a folder, in a random order: PATH/CLASS/* if it is whole, or PATH/SPLIT/CLASS."""
    files = sorted(path.relative_to(root) for path in root.rglob("*.jpg"))
    rows = [(str(p), p.parts[0]) if whole else (str(p), p.parts[1], p.parts[0]) for p in files]
    random.Random(0).shuffle(rows)
    return rows


def unsplit(root):
    """Turns PATH/train/CLASS into PATH/CLASS."""
    shutil.rmtree(root / "val")
    for folder in (root / "train").iterdir():
        folder.rename(root / folder.name)
    (root / "train").rmdir()


def _opened(config):
    splits = [open_split(config, split) for split in ("train", "val")]
    check_classes(*splits)
    items = [[(d.name(i), d.read(i)) for i in range(len(d))] for d in splits]
    return items, data_record(config, *splits), splits[1].note


@pytest.mark.parametrize("whole", [False, True])
def test_the_table_of_a_folder_is_the_folder(tmp_path, whole):
    write_folder(tmp_path, classes=3, train=10, val=2)
    (tmp_path / "train" / "n00" / "deeper").mkdir()
    (tmp_path / "train" / "n00" / "3.jpg").rename(tmp_path / "train" / "n00" / "deeper" / "0.jpg")
    if whole:
        unsplit(tmp_path)
    rows = rows_of(tmp_path, whole)
    for name in ("__MACOSX/n00/1.jpg", "n00/Thumbs.db", "n00/.DS_Store"):
        path = tmp_path / ("" if whole else "train") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of the system")
        rows.append((str(path.relative_to(tmp_path)), "junk", *rows[0][2:]))
    table = write_table(tmp_path / "labels.csv", rows)
    configs = DataConfig(f"folder:{tmp_path}"), DataConfig(f"csv:{table}")
    assert [open_split(config, "train").ignored for config in configs] == [{}, {}]
    folder, ours = map(_opened, configs)
    assert ours[0] == folder[0]
    assert len(ours[0][1]) == (3 if whole else 6)
    assert ours[1]["classes"] == ["n00", "n01", "n02"]
    if whole:
        assert differences(folder[1], ours[1]) == []
        assert ours[2] == folder[2].replace(f"folder:{tmp_path}", f"csv:{table}")


def test_the_record_of_a_table_tells_other_labels_and_files(tmp_path):
    write_folder(tmp_path, classes=2, train=3, val=1)
    rows = sorted(rows_of(tmp_path, whole=False))
    before, after = (tmp_path / "before.csv", tmp_path / "after.csv")
    record = _opened(DataConfig(f"csv:{write_table(before, rows)}"))[1]
    assert record["train"]["images"] == 6
    for changed, difference in (
        ([*reversed(rows)], []),
        ([(rows[0][0], "n01", "train"), *rows[1:]], ["the train split has other files, other"]),
        (rows[1:], ["the train split had 6 images and has 5"]),
    ):
        now = _opened(DataConfig(f"csv:{write_table(after, changed)}"))[1]
        found = differences(record, now)
        assert [line[: len(start)] for line, start in zip(found, difference, strict=True)] == (
            difference
        )


def test_numbers_are_classes_in_the_order_of_their_values(tmp_path):
    write_folder(tmp_path, classes=12, train=1, val=0)
    rows = [(f"train/n{i:02}/0.jpg", i, "train") for i in range(12)]
    table = write_table(tmp_path / "a.csv", rows)
    data = open_split(DataConfig(f"csv:{table}", holdout=0), "train")
    assert data.classes == [str(i) for i in range(12)]
    assert [data.read(i)[1] for i in range(12)] == list(range(12))


def test_tables_as_other_programs_write_them(tmp_path):
    """A byte-order mark, spaces, other orders of columns, blank rows, other words for splits."""
    write_folder(tmp_path, classes=2, train=2, val=1)
    rows = rows_of(tmp_path, whole=False)
    words = {"train": "Training", "val": "VALIDATION"}
    lines = ["\ufefflabel, split ,path", "", *(f'{n}, {words[s]}, "{p}"' for p, n, s in rows), ""]
    (tmp_path / "a.csv").write_text("\r\n".join(lines), encoding="utf-8")
    names = f"csv:{tmp_path / 'a.csv'}", f"folder:{tmp_path}"
    ours, theirs = (_opened(DataConfig(name))[0] for name in names)
    assert ours == theirs


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_other_columns_are_not_used_and_those_given_are(tmp_path, delimiter):
    write_folder(tmp_path, classes=2, train=2, val=1)
    rows = [["id", "kind", "filename", "split", "label"]]
    for number, (path, name, part) in enumerate(rows_of(tmp_path, whole=False)):
        rows.append([number, name, path, part, "other"])
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    ours = _opened(DataConfig(f"csv:{tmp_path / 'a.csv'}", label_key="kind"))[0]
    assert ours == _opened(DataConfig(f"folder:{tmp_path}"))[0]
    with pytest.raises(InputError, match=r"data\.image_key"):
        open_split(DataConfig(f"csv:{tmp_path / 'a.csv'}", image_key="path"), "train")


def test_rows_for_testing_are_left_out_until_they_are_named(tmp_path):
    write_folder(tmp_path, classes=2, train=4, val=3)
    rows = [(p, n, s.replace("val", "test")) for p, n, s in rows_of(tmp_path, whole=False)]
    config = DataConfig(f"csv:{write_table(tmp_path / 'a.csv', rows)}", holdout=0.25)
    train, val = (open_split(config, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    assert train.note.endswith("--data.val_split test")
    config.val_split = "test"
    assert len(open_split(config, "val")) == 6
    for without in ([row for row in rows if row[2] == "train"], [row[:2] for row in rows]):
        write_table(tmp_path / "a.csv", without)
        with pytest.raises(InputError, match="no image"):
            open_split(config, "val")
    config.val_split = "tests"
    with pytest.raises(InputError, match=r"data\.val_split"):
        open_split(config, "val")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (("train/n00/9.jpg", "a", "train"), "'train/n00/9.jpg', which does not exist in "),
        (("train/n00/0.jpg", " ", "train"), "an empty label"),
        (("", "a", "train"), "an empty path"),
        (("train/n00/0.jpg", "a", "tests"), "the split 'tests': it must be train, val or test"),
        (("train/n00/0.jpg", "a", ""), "the split '': it must be train, val or test"),
        (("val/./n00/../n00/0.jpg", "a", "train"), ", which row 3 has already"),
        (("../other.jpg", "a", "train"), "'../other.jpg', which is outside "),
        (("link.jpg", "a", "train"), "'link.jpg', which is outside "),
        (("linked/other.jpg", "a", "train"), "'linked/other.jpg', which is outside "),
        (("train/n00/0.jpg", "a;b", "train"), "the label 'a;b', several classes: kat has no"),
        (("train/n00/0.jpg", "a|b", "train"), "several classes"),
        (("train/n00/0.jpg", "['a', 'b']", "train"), "several classes"),
        (("train/n00/0.jpg", "a", "train", "x"), "4 cells for 3 columns: quote a cell"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path, row, problem):
    write_folder(tmp_path, classes=2, train=1, val=1)
    (tmp_path.parent / "other.jpg").write_bytes(b"")
    (tmp_path / "link.jpg").symlink_to("../other.jpg")
    (tmp_path / "linked").symlink_to("..")
    rows = [("train/n01/0.jpg", "b", "train"), ("val/n00/0.jpg", "a", "val"), row]
    table = write_table(tmp_path / "labels.csv", rows)
    with pytest.raises(InputError) as error:
        open_split(DataConfig(f"csv:{table}"), "train")
    assert str(error.value).startswith(f"{table}: row 4 has ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("file,class\na.jpg,b\n", "no column for the image; choose with data.image_key from file"),
        ("path,class\na.jpg,b\n", "no column for the label; choose with data.label_key from path"),
        ("path,image,label\na.jpg,a.jpg,b\n", "the columns 'path', 'image' for the image; choose "),
        ("", "no column for the image"),
        ("path,label\n", "has no row"),
        ('path,label\n"a.jpg,b\n', "is not a CSV file: row 2: "),
        ("path,label\na.jpg,1.5\nb.jpg,2\n", "the labels are numbers such as '1.5', and kat has"),
    ],
)  # fmt: skip
def test_a_bad_table_is_one_line(tmp_path, content, problem):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(InputError) as error:
        open_split(DataConfig(f"csv:{tmp_path / 'labels.csv'}"), "train")
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'labels.csv'}")


def test_files_that_are_not_images_and_tables_that_are_not_there(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=1)
    (tmp_path / "notes.txt").write_text("hello")
    rows = [*rows_of(tmp_path, whole=False), ("notes.txt", "n00", "train")]
    name = f"csv:{write_table(tmp_path / 'a.csv', rows)}"
    assert [*open_split(DataConfig(name), "train").ignored] == [str(tmp_path / "notes.txt")]
    with pytest.raises(InputError, match=r"notes\.txt: "):
        open_split(DataConfig(name, bad_images="fail"), "train")
    with pytest.raises(InputError, match="does not exist"):
        open_split(DataConfig(f"csv:{tmp_path / 'b.csv'}"), "train")
    with pytest.raises(InputError, match=r"give 'csv:.*a\.csv'"):
        open_split(DataConfig(str(tmp_path / "a.csv")), "train")
    (tmp_path / "notes.txt").rename(tmp_path / "notes.jpg")
    write_table(tmp_path / "a.csv", [*rows[:-1], ("notes.jpg", "n02", "train")])
    with pytest.raises(InputError, match="lacks class 'n02'"):
        _opened(DataConfig(name))
