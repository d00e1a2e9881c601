"""Decks of the visual Turing test (Improved GAN, section 4): half real, half generated images, shuffled.

A deck is a folder: ``images.npy``, the truth in ``truth.parquet``, and ``deck.json``. The sha256 over images and truth
names it; votes are for that very deck. The truth never leaves the machine on which people are asked.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from pipeline.core import params, seeding
from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory, write_text
from pipeline.core.params import section
from pipeline.core.records import read_parquet
from pipeline.core.store import ImageSet, memory_map, read_arrays
from pipeline.turing.published import SENTENCES

NAME = "[A-Za-z0-9_.-]{1,60}"  # of a deck, of a model
LEAST_A_KIND = 5  # a screen shows up to five generated, or up to five real ones, each once
MADE_BY = "dvc repro turing_deck@{name} (of another profile: dvc repro profiles/PROFILE/dvc.yaml:turing_deck@{name})"


@section
class DeckParams:
    """``turing.decks.NAME``: what a deck is made of.

    Attributes
    ----------
    title : what people read, such as ``MNIST digits``
    real : image set whose test images are the real ones
    generated : file of samples below the results, without ``.npz``; its last part is the name of the model
    part : ``images`` = the samples of the first network, ``top`` = its best by KL(p(y|x) || p(y))
    n_images : real and generated together, an even number; null = as many as there are
    seed : ``turing.seed``, of the decks and of the screens
    """

    seed: int
    title: str
    real: str
    generated: str
    part: Literal["images", "top"]
    n_images: Annotated[int, Ge(2 * LEAST_A_KIND)] | None


@section
class _Turing:
    seed: int
    decks: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Deck:
    """A deck opened for reading.

    Attributes
    ----------
    paper : what the paper found with such a deck, a sentence; empty if nothing
    sha256 : of images and truth, hexadecimal
    images : uint8 memory map (N, H, W, C), RGB or grey; generated and real ones mixed
    generated : bool (N,)
    """

    name: str
    title: str
    model: str
    dataset: str
    paper: str
    sha256: str
    images: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Generated images that a deck may show.

    Attributes
    ----------
    images : uint8 (n, H, W, C)
    keys : a name each, such as ``mb_mnist/0/17``: model, network, index
    """

    model: str
    images: np.ndarray
    keys: list[str]


def deck_sha256(images: np.ndarray, generated: np.ndarray) -> str:
    """The sha256 of shape, pixels (uint8) and truth (bool)."""
    digest = hashlib.sha256(f"{images.shape}\n".encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(generated, dtype=np.bool_).tobytes())
    return digest.hexdigest()


def read_seed(params_file: Path) -> int:
    """``turing.seed``: of the decks and of the screens.

    Raises
    ------
    InputError
        If the section is not ``seed`` and ``decks``.
    """
    return params.load(params_file, _Turing, own="turing").seed


def read_samples(path: Path, part: str) -> Samples:
    """The first network's samples in a file ``MODEL.npz``, or its best ones.

    Raises
    ------
    InputError
        If the file is missing, damaged, or has no such array of images.
    """
    if not path.is_file():
        message = f"{path}: missing; run the stage that keeps these samples (dvc repro)"
        raise InputError(message)
    found = read_arrays(path, "remove it and run dvc repro").get(part)
    dimensions = 5 if part == "images" else 4
    if found is None or found.dtype != np.uint8 or found.ndim != dimensions or not len(found):
        shape = "none" if found is None else f"{found.dtype} of shape {found.shape}"
        message = f"{path}, {part}: found {shape}; expected uint8 images with {dimensions} dimensions; run dvc repro"
        raise InputError(message)
    first = found[0] if part == "images" else found
    kind = "0" if part == "images" else "0/top"
    return Samples(model=path.stem, images=first, keys=[f"{path.stem}/{kind}/{index}" for index in range(len(first))])


def write_deck(out: Path, config: DeckParams, *, name: str, real: ImageSet, samples: Samples, where: str) -> None:
    """Draw a deck and write it whole: real ones from the test images, all drawn and shuffled by seed.

    Parameters
    ----------
    where : address of the params, such as ``params.yaml, turing.decks.mnist``, for messages

    Raises
    ------
    InputError
        If there are fewer images than asked for, real and generated ones differ in size or colours, or a name is none.
    """
    for what, text in (("name", name), ("name of the samples", samples.model)):
        if not re.fullmatch(NAME, text):
            message = f"{where}: found the {what} {text!r}, expected at most 60 letters, digits, '_', '-' and '.'"
            raise InputError(message)
    test = real.rows("test")
    if real.images.shape[1:] != samples.images.shape[1:]:
        message = f"{where}: images of {config.real} are {real.images.shape[1:]}, those of {config.generated} "
        message += f"{samples.images.shape[1:]} (height, width, channels); expected the same"
        raise InputError(message)
    half = _half(config, n_real=len(test), n_generated=len(samples.images), where=where)
    rows = np.sort(seeding.numpy_stream(config.seed, f"turing/deck/{name}/real").permutation(test)[:half])
    drawn = _drawn_samples(samples, half, config, name)
    order = seeding.numpy_stream(config.seed, f"turing/deck/{name}/order").permutation(2 * half)
    images = np.concatenate([real.images[rows], samples.images[drawn]])[order]
    keys = [*real.index["key"].to_numpy()[rows], *(samples.keys[index] for index in drawn)]
    truth = pd.DataFrame(
        {"row": np.arange(2 * half), "generated": order >= half, "key": [str(keys[index]) for index in order]}
    )
    about = {
        "name": name,
        "title": config.title,
        "model": samples.model,
        "dataset": config.real,
        "n_images": 2 * half,
        "sha256": deck_sha256(images, truth["generated"].to_numpy()),
        "paper": SENTENCES.get(name),
    }
    with whole_directory(out) as partial:
        with (partial / "images.npy").open("wb") as file:
            np.save(file, images)
        truth.to_parquet(partial / "truth.parquet", index=False)
        write_text(partial / "deck.json", json.dumps(about, indent=2) + "\n")


def _half(config: DeckParams, *, n_real: int, n_generated: int, where: str) -> int:
    there = f"{n_generated} generated images ({config.generated}, {config.part}) and {n_real} real test images "
    there += f"({config.real})"
    if config.n_images is not None and config.n_images % 2 == 1:
        message = f"{where}.n_images: found {config.n_images}, expected an even number: half are real"
        raise InputError(message)
    half = min(n_real, n_generated) if config.n_images is None else config.n_images // 2
    if half > min(n_real, n_generated):
        message = f"{where}.n_images: {config.n_images} are asked for, half of them real, but there are {there}; "
        message += f"lower it to {2 * min(n_real, n_generated)} or less, or write null for as many as there are"
        raise InputError(message)
    if half < LEAST_A_KIND:
        message = f"{where}: there are {there}; a screen needs at least {LEAST_A_KIND} of each: make more samples"
        raise InputError(message)
    return half


def _drawn_samples(samples: Samples, half: int, config: DeckParams, name: str) -> np.ndarray:
    """Which samples: of the best the very best, else any."""
    if config.part == "top":
        return np.arange(half)
    rng = seeding.numpy_stream(config.seed, f"turing/deck/{name}/generated")
    return np.sort(rng.permutation(len(samples.images))[:half])


# ---- reading ----


@section
class _DeckFile:
    name: str
    title: str
    model: str
    dataset: str
    n_images: int
    sha256: str
    paper: str | None


def read_deck(folder: Path) -> Deck:
    """Open a deck; its images stay on disk.

    Raises
    ------
    InputError
        If a file is gone or damaged, or images and truth are not those that were written.
    """
    again = f"remove {folder} and run {MADE_BY.format(name=folder.name)}"
    for name in ("deck.json", "images.npy", "truth.parquet"):
        if not (folder / name).is_file():
            message = f"{folder}: no {name}: this deck is not there, or not whole; {again}"
            raise InputError(message)
    about = _about(folder / "deck.json", again)
    images = memory_map(folder / "images.npy", again)
    truth = read_parquet(folder / "truth.parquet", again)
    try:
        rows, generated = truth["row"].to_numpy(), truth["generated"].to_numpy(dtype=np.bool_)
    except (KeyError, ValueError, TypeError) as error:
        message = f"{folder}/truth.parquet: expected row and generated ({error}); {again}"
        raise InputError(message) from error
    whole = images.dtype == np.uint8 and images.ndim == 4 and len(images) == about.n_images
    if not whole or not np.array_equal(rows, np.arange(len(images))):
        message = f"{folder}: found images {images.dtype} {images.shape} and {len(rows)} rows of truth, expected "
        message += f"{about.n_images} uint8 images and as many rows in order; {again}"
        raise InputError(message)
    if (sha256 := deck_sha256(images, generated)) != about.sha256:
        message = f"{folder}: images and truth have the sha256 {sha256[:12]}, deck.json says {about.sha256[:12]}; "
        message += f"something changed them; {again}"
        raise InputError(message)
    if min(generated.sum(), (~generated).sum()) < LEAST_A_KIND:
        message = f"{folder}: fewer than {LEAST_A_KIND} real or generated images; {again}"
        raise InputError(message)
    return Deck(
        name=about.name,
        title=about.title,
        model=about.model,
        dataset=about.dataset,
        paper=about.paper or "",
        sha256=sha256,
        images=images,
        generated=generated,
    )


def _about(path: Path, again: str) -> _DeckFile:
    try:
        return TypeAdapter(_DeckFile).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        message = f"{path}, {place}: {problem['msg']}; {again}"
    raise InputError(message)


def read_decks(folder: Path) -> dict[str, Deck]:
    """All decks of a profile, by name, in alphabetical order.

    Raises
    ------
    InputError
        If there is none, one is damaged, lies under another name, or two are the same.
    """
    folders = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not folders:
        message = f"{folder}: no deck there; run {MADE_BY.format(name='mnist')}"
        raise InputError(message)
    decks = {path.name: read_deck(path) for path in folders}
    by_sha: dict[str, str] = {}
    for name, deck in decks.items():
        if deck.name != name:
            message = f"{folder / name}: its deck.json calls it '{deck.name}'; rename the folder"
            raise InputError(message)
        if (twin := by_sha.setdefault(deck.sha256, name)) != name:
            message = f"{folder}: the decks {twin} and {name} are the same; remove one from turing.decks in the params"
            raise InputError(message)
    return decks
