"""Where each raw data set comes from: rendered here, taken from its official archive, or left in place and pinned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.datasets import sources
from pipeline.datasets.embedded.heads import RenderedHeads, write_heads
from pipeline.datasets.embedded.house_numbers import HouseNumbers, write_house_numbers
from pipeline.datasets.embedded.near_duplicates import NearDuplicates, write_near_duplicates
from pipeline.datasets.embedded.photos import PhotoPatches, PhotoWindows, write_photo_patches, write_photo_windows
from pipeline.datasets.embedded.rooms import RenderedRooms, write_rooms
from pipeline.datasets.in_place import InPlace, fetch_in_place
from pipeline.datasets.photo_tables import photo_tables, read_csv


def _exactly_one(**choices: object) -> None:
    given = [name for name, choice in choices.items() if choice is not None]
    if len(given) != 1:
        message = (
            f"exactly one of {', '.join(choices)} must be given, the others null; found {', '.join(given) or 'none'}"
        )
        raise ValueError(message)


@section
class Cifar10:
    """``fetch.cifar10``."""

    rendered: PhotoPatches | None
    official: sources.Cifar10Archive | None

    def __post_init__(self) -> None:
        _exactly_one(rendered=self.rendered, official=self.official)


@section
class Svhn:
    """``fetch.svhn``."""

    rendered: HouseNumbers | None
    official: sources.SvhnArchive | None

    def __post_init__(self) -> None:
        _exactly_one(rendered=self.rendered, official=self.official)


@section
class Lsun:
    """``fetch.lsun``."""

    rendered: RenderedRooms | None
    in_place: InPlace | None

    def __post_init__(self) -> None:
        _exactly_one(rendered=self.rendered, in_place=self.in_place)


@section
class Imagenet:
    """``fetch.imagenet``."""

    rendered: PhotoWindows | None
    in_place: InPlace | None

    def __post_init__(self) -> None:
        _exactly_one(rendered=self.rendered, in_place=self.in_place)


@section
class Faces:
    """``fetch.faces``; ``split_seed`` parts photographs with true boxes into a half to tune on and one to report."""

    rendered: RenderedHeads | None
    in_place: InPlace | None
    split_seed: int

    def __post_init__(self) -> None:
        _exactly_one(rendered=self.rendered, in_place=self.in_place)
        parts = self.in_place.parts if self.in_place else {}
        tars = [name for name, part in parts.items() if part.layout == "ilsvrc_tar"]
        if tars:  # left-out crops are cut again from single photos, and a tar has no way to one
            message = f"part {tars[0]} has layout ilsvrc_tar; expected photos, image_folder or lmdb: unpack the archive"
            raise ValueError(message)


@section
class Neardup:
    """``fetch.neardup``."""

    rendered: NearDuplicates | None
    in_place: InPlace | None

    def __post_init__(self) -> None:
        _exactly_one(rendered=self.rendered, in_place=self.in_place)


def fetch_cifar10(out: Path, source: Cifar10) -> None:
    """Patches of photographs, or the official batches; both in torchvision's layout."""
    if source.rendered:
        write_photo_patches(out, source.rendered)
    elif source.official:
        sources.fetch_cifar10(out, source.official)


def fetch_svhn(out: Path, source: Svhn) -> None:
    """Digits over patches of photographs, or the official .mat files."""
    if source.rendered:
        write_house_numbers(out, source.rendered)
    elif source.official:
        sources.fetch_svhn(out, source.official)


def fetch_lsun(out: Path, source: Lsun) -> None:
    """Rendered rooms, or LSUN's databases below GAN_DATA; both in LSUN's layout."""
    if source.rendered:
        write_rooms(out, source.rendered)
    elif source.in_place:
        fetch_in_place(out, source.in_place)


def fetch_imagenet(out: Path, source: Imagenet) -> None:
    """Windows of photographs, or ImageNet below GAN_DATA."""
    if source.rendered:
        write_photo_windows(out, source.rendered)
    elif source.in_place:
        fetch_in_place(out, source.in_place)


def fetch_faces(out: Path, source: Faces) -> None:
    """Rendered heads, or collections of photographs below GAN_DATA; both with tables of photos and true boxes."""
    if source.rendered:
        write_heads(out, source.rendered)
    elif source.in_place:
        names = sorted(source.in_place.parts)

        def add_tables(folder: Path, partial: Path) -> None:
            tables = [photo_tables(folder / name, seed=source.split_seed) for name in names]
            for file, parts in zip(("photos.parquet", "boxes.parquet"), zip(*tables, strict=True), strict=True):
                for name, part in zip(names, parts, strict=True):
                    part["photo"] = f"{name}/" + part["photo"]
                pd.concat(parts, ignore_index=True).to_parquet(partial / file, index=False)

        only_photos = all(part.layout == "photos" for part in source.in_place.parts.values())
        fetch_in_place(out, source.in_place, add=add_tables if only_photos else None)  # an LMDB lists itself


def fetch_neardup(out: Path, source: Neardup) -> None:
    """Windows of photographs in many versions, or such a collection below GAN_DATA, with its groups."""
    if source.rendered:
        write_near_duplicates(out, source.rendered)
    elif source.in_place:

        def add_truth(folder: Path, partial: Path) -> None:
            truth = read_csv(folder / "ground_truth.csv", ["file", "group", "transform"])
            truth = truth.rename(columns={"file": "key", "transform": "alteration"})
            truth["group"] = _whole_numbers(truth["group"], folder / "ground_truth.csv")
            truth["group"] = truth["group"].clip(lower=-1)  # each distractor has a negative number of its own
            truth[["key", "group", "alteration"]].to_parquet(partial / "truth.parquet", index=False)

        fetch_in_place(out, source.in_place, add=add_truth)


def _whole_numbers(column: pd.Series, file: Path) -> pd.Series:
    """A column of a table of truth as int64; InputError naming the first row that holds something else."""
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers % 1 == 0)))
    if len(wrong):
        found = "nothing" if pd.isna(column.iloc[wrong[0]]) else repr(column.iloc[wrong[0]])
        message = f"{file}: row {wrong[0] + 1}, column {column.name}: found {found}, expected a whole number"
        raise InputError(message)
    return numbers.astype(np.int64)


# name -> its params section, and the function that makes the raw folder
FETCH: dict[str, tuple[type[Any], Callable[[Path, Any], None]]] = {
    "mnist": (sources.MnistSource, sources.fetch_mnist),
    "cifar10": (Cifar10, fetch_cifar10),
    "svhn": (Svhn, fetch_svhn),
    "lsun": (Lsun, fetch_lsun),
    "imagenet": (Imagenet, fetch_imagenet),
    "faces": (Faces, fetch_faces),
    "neardup": (Neardup, fetch_neardup),
}
