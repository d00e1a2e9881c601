"""Archives: every item once, in a stable order, whatever the cut; what cannot be read is named."""

import io
import mmap
import os
import pickle
import tarfile
from pathlib import Path

import lmdb
import pytest

from pipeline.core.errors import InputError
from pipeline.datasets import archives
from pipeline.datasets.archives import IlsvrcTar, ImageFolder, LmdbImages, PhotoFolder, PhotoListing

CONTENTS = {f"{number:03d}": f"photo {number}".encode() * (1 + number % 5) for number in range(100)}


def items_of(archive, limit=None):
    """All items, through pickled chunks as a worker gets them; the promised numbers are kept."""
    found = []
    for chunk in archive.chunks(limit):
        items = list(pickle.loads(pickle.dumps(chunk)).items())
        assert len(items) == chunk.n
        found += items
    return found


def write_lmdb(folder, contents, **options):
    with (
        lmdb.open(str(folder), map_size=1 << 24, **options) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, content in contents:
            transaction.put(key if isinstance(key, bytes) else key.encode(), content)
    return folder


def write_files(folder, contents):
    for name, content in contents.items():
        path = Path(folder, os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tar_of(contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in contents.items() if isinstance(contents, dict) else contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def refusal(archive):
    with pytest.raises(InputError) as caught:
        items_of(archive)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# LMDB


@pytest.fixture
def database(tmp_path):
    return write_lmdb(tmp_path / "bedroom_train_lmdb", CONTENTS.items())


@pytest.mark.parametrize("limit", [None, 1, 7, 99, 100, 101])
@pytest.mark.parametrize("items_a_chunk", [1, 7, 512])
@pytest.mark.parametrize("keys_a_map", [3, 8192])
def test_lmdb_in_key_order(database, monkeypatch, limit, items_a_chunk, keys_a_map):
    monkeypatch.setattr(archives, "ITEMS_A_CHUNK", items_a_chunk)
    monkeypatch.setattr(archives, "KEYS_A_MAP", keys_a_map)
    found = items_of(LmdbImages(folder=database), limit)
    assert [(item.key, item.content) for item in found] == sorted(CONTENTS.items())[:limit]
    assert all(item.label == -1 and not item.reason for item in found)


def test_lmdb_is_only_read(database):
    before = {path.name: path.stat().st_mtime_ns for path in database.iterdir()}
    items_of(LmdbImages(folder=database))
    assert {path.name: path.stat().st_mtime_ns for path in database.iterdir()} == before


def test_empty_lmdb(tmp_path):
    assert items_of(LmdbImages(folder=write_lmdb(tmp_path / "empty", []))) == []


@pytest.mark.parametrize("items_a_chunk", [1, 2, 3, 512])
@pytest.mark.parametrize("keys_a_map", [1, 2, 3, 8192])
def test_duplicate_keys_are_rejected(tmp_path, monkeypatch, items_a_chunk, keys_a_map):
    monkeypatch.setattr(archives, "ITEMS_A_CHUNK", items_a_chunk)
    monkeypatch.setattr(archives, "KEYS_A_MAP", keys_a_map)
    folder = tmp_path / "duplicates"
    write_lmdb(folder, [])
    with (folder / "data.mdb").open("r+b") as file:  # the binding cannot set MDB_DUPSORT on the main database
        for meta_page in (0, mmap.PAGESIZE):
            file.seek(meta_page + 92)
            file.write(b"\x04\0")
    entries = [("a", b"1"), ("b", b"1"), ("b", b"2"), ("b", b"3"), ("c", b"1"), ("d", b"1"), ("d", b"2")]
    write_lmdb(folder, entries)
    with lmdb.open(str(folder)) as environment:
        assert environment.stat()["entries"] == len(entries)
    found = [(item.key, item.content, item.reason) for item in items_of(LmdbImages(folder=folder))]
    assert [key for key, _, _ in found] == list("abbbcdd")
    assert [content for _, content, _ in found] == [b"1", b"1", None, None, b"1", b"1", None]
    assert [reason for *_, reason in found] == ["", "", *["duplicate key"] * 2, "", "", "duplicate key"]


def test_a_key_that_is_not_utf8(tmp_path):
    folder = write_lmdb(tmp_path / "x", [(b"a", b"1"), (b"b\xff", b"2")])
    assert [(item.key, item.content, item.reason) for item in items_of(LmdbImages(folder=folder))] == [
        ("a", b"1", ""),
        ("b\\xff", None, "name is not UTF-8"),
    ]


def test_no_lmdb(tmp_path, database):
    assert "no data.mdb; expected the folder of an LSUN database" in refusal(LmdbImages(folder=tmp_path))
    assert "no data.mdb" in refusal(LmdbImages(folder=tmp_path / "missing"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/data.mdb").write_text("not a database" * 1000)
    assert "cannot be read as an LMDB database" in refusal(LmdbImages(folder=tmp_path / "text"))
    assert str(tmp_path / "text") in refusal(LmdbImages(folder=tmp_path / "text"))


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 8191, 8192, 0.3, 0.9, -4096, -1])
def test_an_lmdb_cut_short(tmp_path, kept):
    """LMDB maps the file: reading on would be a bus error, which ends the process without a word."""
    folder = write_lmdb(tmp_path / "cut", [(f"{number:03d}", os.urandom(9000)) for number in range(40)])
    size = (folder / "data.mdb").stat().st_size
    os.truncate(
        folder / "data.mdb", int(size * kept) if isinstance(kept, float) else kept if kept >= 0 else size + kept
    )
    text = refusal(LmdbImages(folder=folder))
    assert "cut short" in text or "cannot be read as an LMDB database" in text
    assert str(folder / "data.mdb") in text


def test_an_lmdb_that_changes_during_the_run(database):
    chunks = LmdbImages(folder=database).chunks()
    with lmdb.open(str(database)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(chunks[3].first)
    with pytest.raises(InputError, match="changed during the run"):
        list(chunks[3].items())


# folders

TREE = {"n02/b.JPEG": b"1", "n02/a.jpg": b"2", "n01/z.png": b"3", "n01-x/y.webp": b"4", "n03/deep/er/c.jpeg": b"5"}


@pytest.mark.parametrize("items_a_chunk", [1, 2, 512])
def test_image_folder(tmp_path, monkeypatch, items_a_chunk):
    monkeypatch.setattr(archives, "ITEMS_A_CHUNK", items_a_chunk)
    write_files(tmp_path, TREE | {"n01/notes.txt": b"no photo", "stray.jpg": b"6", "n04/.keep": b""})
    write_files(tmp_path, {".ipynb_checkpoints/notes.txt": b"no class"})  # it would be the first
    archive = ImageFolder(folder=tmp_path)
    assert archive.class_names() == ("n01", "n01-x", "n02", "n03", "n04")
    found = items_of(archive)
    assert [item.key for item in found] == sorted([*TREE, "stray.jpg"])  # as whole paths: n01-x/ before n01/
    assert {item.key: item.label for item in found} == {
        "n01/z.png": 0,
        "n01-x/y.webp": 1,
        "n02/a.jpg": 2,
        "n02/b.JPEG": 2,
        "n03/deep/er/c.jpeg": 3,
        "stray.jpg": -1,
    }
    assert {item.key: item.content for item in found if not item.reason} == TREE
    assert [item.reason for item in found if item.reason] == ["not in a class folder"]
    assert [item.key for item in items_of(archive, limit=2)] == sorted(TREE)[:2]


def test_classes_of_another_part(tmp_path):
    write_files(tmp_path, {"n02/a.jpg": b"1"})
    found = items_of(ImageFolder(folder=tmp_path, classes=("n01", "n02", "n03")))
    assert [item.label for item in found] == [1]
    assert "class n02 is not one of the 2 classes of the training part" in refusal(
        ImageFolder(folder=tmp_path, classes=("n01", "n03"))
    )


def test_no_classes(tmp_path):
    write_files(tmp_path, {"a.jpg": b"1"})
    assert "no class folders" in refusal(ImageFolder(folder=tmp_path))


def test_photo_folder(tmp_path):
    write_files(tmp_path, {"b.jpg": b"1", "a/c.PNG": b"2", "a/d.gif": b"3", "index.csv": b"4", "a.jpg": b"5"})
    found = [(item.key, item.content) for item in items_of(PhotoFolder(folder=tmp_path))]
    assert found == [("a.jpg", b"5"), ("a/c.PNG", b"2"), ("a/d.gif", b"3"), ("b.jpg", b"1")]


def test_photo_listing(tmp_path):
    write_files(tmp_path / "in", {"b.jpg": b"1", "a/c.jpg": b"2"})
    write_files(tmp_path, {"secret.jpg": b"3"})
    out_of_it = ("../secret.jpg", "a/../../secret.jpg", "a/..", str(tmp_path / "secret.jpg"))
    keys = ("b.jpg", "a/c.jpg", "missing.jpg", "b.jpg", *out_of_it, "a", "x\0y")
    found = items_of(PhotoListing(folder=tmp_path / "in", keys=keys))
    assert [item.key for item in found] == [*keys[:-1], "x\\0y"]
    assert [item.content for item in found] == [b"1", b"2", *[None] * 8]
    outside = "leads out of the folder"
    gone = "cannot be read: No such file or directory"
    assert [item.reason for item in found[2:]] == [gone, "duplicate key", *[outside] * 4, "not a file", outside]
    assert len(items_of(PhotoListing(folder=tmp_path / "in", keys=keys), limit=2)) == 2


def test_a_listed_name_that_is_no_text_is_the_reason(tmp_path):
    """A table names such a file by its escaped text, by which no file is found."""
    (tmp_path / "in").mkdir()
    name = os.fsencode(tmp_path / "in") + b"/caf\xe9.jpg"
    with open(name, "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"1")
    keys = ("caf\\xe9.jpg", "gone\\xe9.jpg")
    found = items_of(PhotoListing(folder=tmp_path / "in", keys=keys))
    assert [item.reason for item in found] == ["name is not UTF-8", "cannot be read: No such file or directory"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_files(root, {"n01/a.jpg": b"1"})
    write_files(elsewhere, {"b.jpg": b"2"})
    (root / "n02").symlink_to(elsewhere)  # a class put together by a link
    (root / "n01/up").symlink_to(root)
    (root / "n01/self").symlink_to("self")
    (root / "n01/self.jpg").symlink_to("self.jpg")
    (root / "n01/gone.jpg").symlink_to("nowhere.jpg")
    (root / "n01/linked.jpg").symlink_to(elsewhere / "b.jpg")
    found = {item.key: item.content or item.reason for item in items_of(ImageFolder(folder=root))}
    assert found == {
        "n01/a.jpg": b"1",
        "n01/gone.jpg": "cannot be read: No such file or directory",
        "n01/linked.jpg": b"2",
        "n01/self.jpg": "cannot be read: Too many levels of symbolic links",
        "n01/up": "link to a folder above it",
        "n02/b.jpg": b"2",
    }


def test_a_link_to_the_folder_around_the_archive_is_not_entered(tmp_path):
    write_files(tmp_path, {"in/a.jpg": b"1", "sibling.jpg": b"2"})
    (tmp_path / "in/up").symlink_to(tmp_path)
    found = [(item.key, item.reason) for item in items_of(PhotoFolder(folder=tmp_path / "in"))]
    assert found == [("a.jpg", ""), ("up", "link to a folder above it")]


def test_a_pipe_does_not_hang(tmp_path):
    write_files(tmp_path, {"a.jpg": b"1"})
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()  # an empty folder, whatever its name
    found = [(item.key, item.reason) for item in items_of(PhotoFolder(folder=tmp_path))]
    assert found == [("a.jpg", ""), ("pipe.jpg", "not a file")]


def test_names_that_are_not_utf8(tmp_path):
    write_files(tmp_path, {b"n01/a\xff.jpg": b"1", "n01/ü.jpg": b"2", b"n\xfe/b.jpg": b"3"})
    found = {item.key: item.content or item.reason for item in items_of(ImageFolder(folder=tmp_path))}
    assert found == {
        "n01/a\\xff.jpg": "name is not UTF-8",
        "n01/ü.jpg": b"2",
        "n\\xfe/b.jpg": "name is not UTF-8",
    }


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    write_files(tmp_path, TREE)
    scandir = os.scandir

    def refuse(path):
        if os.fsencode(path).endswith(b"n02"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(ImageFolder(folder=tmp_path)).startswith(f"{tmp_path}/n02: the folder cannot be read (Permission")
    assert "No such file" in refusal(PhotoFolder(folder=tmp_path / "missing"))


def test_an_unreadable_file_is_rejected(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    chunks = PhotoFolder(folder=tmp_path).chunks()
    (tmp_path / "a.jpg").unlink()
    found = [item for chunk in chunks for item in chunk.items()]
    assert [(item.content, item.reason) for item in found] == [
        (None, "cannot be read: No such file or directory"),
        (b"2", ""),
    ]


# the ILSVRC tar

CLASSES = {
    "n02": {"n02_2.JPEG": b"a" * 700, "n02_1.JPEG": b"b"},
    "n01": {f"n01_{number}.JPEG": b"%d" % number * 300 for number in range(9)},
    "n03": {},
    "n04": {"x" * 150 + ".JPEG": b"long name"},
}


@pytest.fixture
def ilsvrc(tmp_path):
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_of({f"{name}.tar": tar_of(photos) for name, photos in CLASSES.items()}))
    return path


@pytest.mark.parametrize("items_a_chunk", [4, 8, 512])
@pytest.mark.parametrize("limit", [None, 1, 9, 10, 100])
def test_ilsvrc_tar(ilsvrc, monkeypatch, items_a_chunk, limit):
    monkeypatch.setattr(archives, "ITEMS_A_CHUNK", items_a_chunk)
    archive = IlsvrcTar(file=ilsvrc)
    assert archive.class_names() == ("n01", "n02", "n03", "n04")
    expected = [
        (f"{name}/{photo}", label, content)
        for label, name in enumerate(sorted(CLASSES))
        for photo, content in CLASSES[name].items()
    ]
    assert [(item.key, item.label, item.content) for item in items_of(archive, limit)] == expected[:limit]


def test_ilsvrc_tar_equals_the_unpacked_folder(ilsvrc, tmp_path):
    folder = tmp_path / "train"
    for name, photos in CLASSES.items():
        (folder / name).mkdir(parents=True)
        write_files(folder / name, photos)
    unpacked = {(item.key, item.label, item.content) for item in items_of(ImageFolder(folder=folder))}
    assert {(item.key, item.label, item.content) for item in items_of(IlsvrcTar(file=ilsvrc))} == unpacked


def test_a_photo_given_twice_in_its_class_is_rejected(tmp_path, monkeypatch):
    """In its class folder the later one would have replaced the earlier; here nothing is lost in silence."""
    monkeypatch.setattr(archives, "ITEMS_A_CHUNK", 4)
    twice = tar_of([("a.JPEG", b"1"), ("b.JPEG", b"2"), ("a.JPEG", b"3")])
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"n01.tar": twice, "n02.tar": tar_of({"a.JPEG": b"4"})}))
    found = [(item.key, item.content, item.reason) for item in items_of(IlsvrcTar(file=path))]
    first, second = [("n01/a.JPEG", b"1", ""), ("n01/b.JPEG", b"2", "")], ("n01/a.JPEG", None, "duplicate key")
    assert found == [*first, second, ("n02/a.JPEG", b"4", "")]


def test_a_class_archive_given_twice_is_refused(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of([(f"{folder}/n01.tar", tar_of({"a.JPEG": b"1"})) for folder in "ab"]))
    assert "holds the archive of class n01 twice" in refusal(IlsvrcTar(file=path))


def test_inner_tars_without_closing_zeros(tmp_path):
    path = tmp_path / "x.tar"
    bare = {
        name: tar_of({f"{name}_1.JPEG": name.encode()})[:1024] for name in ("n01", "n02")
    }  # a header and a block, then at once the next member of the outer archive
    path.write_bytes(tar_of({f"{name}.tar": content for name, content in bare.items()}))
    assert [item.content for item in items_of(IlsvrcTar(file=path))] == [b"n01", b"n02"]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.8])
def test_a_tar_cut_short(ilsvrc, share):
    # behind the last photo there are only zeros
    os.truncate(ilsvrc, int(ilsvrc.stat().st_size * share * 0.6))
    assert str(ilsvrc) in refusal(IlsvrcTar(file=ilsvrc))


def test_a_damaged_header_is_not_the_end(ilsvrc):
    content = bytearray(ilsvrc.read_bytes())
    place = content.index(b"n01_4.JPEG")
    content[place] ^= 0xFF
    ilsvrc.write_bytes(content)
    assert "damaged header at byte" in refusal(IlsvrcTar(file=ilsvrc))


def test_no_tar(tmp_path):
    path = tmp_path / "x.tar"
    assert "No such file" in refusal(IlsvrcTar(file=path))
    path.write_bytes(tar_of({"n01_1.JPEG": b"1"}))
    assert "holds no class archives" in refusal(IlsvrcTar(file=path))
    path.write_bytes(tar_of({"n01.tar": b"not a tar archive" * 100}))
    assert "cannot be read as a tar archive" in refusal(IlsvrcTar(file=path))


def test_a_file_too_large_for_a_photograph_is_not_read(tmp_path):
    """Sparse: it takes no room on the disk, and would take all of the memory."""
    (tmp_path / "train/a").mkdir(parents=True)
    with (tmp_path / "train/a/1.jpg").open("wb") as file:
        file.truncate(archives.MOST_BYTES + 1)
    (item,) = [item for chunk in ImageFolder(folder=tmp_path / "train").chunks() for item in chunk.items()]
    assert item.content is None
    assert item.reason == f"{archives.MOST_BYTES + 1} bytes, at most {archives.MOST_BYTES}"
