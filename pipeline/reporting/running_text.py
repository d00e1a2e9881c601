"""What this profile has of the numbers in the papers' running text: counts, sizes of experiments, votes.

What is measured comes from the results of other stages and from the params that they ran with. The published numbers
give places and, in notes, a yardstick; table ``text_numbers`` sets the two side by side.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import papers
from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.papers import Published
from pipeline.reporting.result_files import table, why_nothing
from pipeline.reporting.rows import NOT_RUN, Extra
from pipeline.turing import published as turing

NO_TRUTH = "no truth comes with these images: a person judges the sheet of collisions"
NO_NAMES = "not counted: no image set here says who is shown"
NOT_COUNTED = "not recorded by the stage that made the figure"
# DCGAN's first and second reading of "the second highest layer"; its 8 x 8 one has 512 maps at the paper's width.
LAYER, OTHER_LAYER, PAPER_MAPS = "8x8", "16x16", 512


# ---- what is in force -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of experiments that their results do not repeat; each under the address that ADDRESSES gives.

    Attributes
    ----------
    n_labelled : samples in which windows are marked
    n_points : random z that the walk goes through
    noise : half the width of the noise about a result of the arithmetic
    """

    n_labelled: int
    n_points: int
    noise: float


ADDRESSES = {
    "n_labelled": "internals.forget_windows.n_labelled",
    "n_points": "internals.walk.n_points",
    "noise": "internals.arithmetic.noise",
}


def read_settings(params_file: Path) -> Settings:
    """The settings in force; the stages that use them have checked the rest of their sections.

    Raises
    ------
    InputError
        If one is missing or no positive number.
    """
    values = params.read(params_file)
    found = {name: _setting(values, address, params_file) for name, address in ADDRESSES.items()}
    return Settings(**found)


def _setting(values: Mapping[str, Any], address: str, params_file: Path) -> Any:
    found: Any = values
    for key in address.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
        message = f"{params_file}, {address}: expected a positive number, found {found!r}"
        raise InputError(message)
    return found


# ---- what was found -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number as this profile has it.

    Attributes
    ----------
    unit : of a number of our own; that of a published one stands with it
    measured : None where there is none, and ``note`` says why
    dataset, run : names in ``report.datasets`` and ``report.notes``; ``run`` is empty where no note belongs to it
    """

    row: str
    column: str
    unit: str = ""
    measured: float | None = None
    spread: float | None = None
    spread_over: str = ""
    n_images: int | None = None
    dataset: str
    run: str = ""
    note: str = ""


TYPES = {
    **dict.fromkeys((field.name for field in fields(Number)), "str"),
    **dict.fromkeys(("measured", "spread"), "float64"),
    "n_images": "Int64",
}


def gather(results: Path, votes: Path, settings: Settings) -> pd.DataFrame:
    """A row a number, columns as :class:`Number`; what has not run in this profile has an empty ``measured``.

    Parameters
    ----------
    results : folder with the folders ``datasets``, ``dcgan_table1`` and ``figures``
    votes : CSV of table ``turing``

    Raises
    ------
    InputError
        If a file is damaged or has another form.
    """
    found = [
        *_image_sets(results / "datasets"),
        *_features(results / "dcgan_table1"),
        *_figures(results / "figures", settings),
        *_votes(votes),
    ]
    return pd.DataFrame([asdict(number) for number in found], columns=list(TYPES)).astype(TYPES)


def _of(place: Published | Extra, measured: float | None, *, dataset: str, note: str = "", **more: Any) -> Number:
    """Without a measured number nothing else is said than why."""
    unit = "" if isinstance(place, Published) else place.unit
    if measured is None:
        return Number(row=place.row, column=place.column, unit=unit, dataset=dataset, note=note or NOT_RUN)
    return Number(
        row=place.row, column=place.column, unit=unit, measured=float(measured), dataset=dataset, note=note, **more
    )


# ---- image sets and features ----------------------------------------------------------------------------------------


def _counts(path: Path) -> dict[str, float]:
    """quantity -> value; empty if the stage has not run."""
    found = table(path, ("quantity", "value"))
    return {} if found is None else dict(zip(found["quantity"], found["value"].astype(float), strict=True))


def _image_sets(results: Path) -> list[Number]:
    names = ("lsun", "lsun_dedup", "dedup", "faces", "svhn", "mnist", "imagenet128")
    counts = {name: _counts(results / f"{name}.parquet") for name in names}
    if counts["lsun_dedup"] and "false_positive_percent" in counts["dedup"]:
        counts["lsun_dedup"]["false_positives"] = counts["dedup"]["false_positive_percent"]
    places = {
        "lsun": papers.DATASETS[:1],
        "lsun_dedup": papers.DATASETS[1:3],
        "faces": papers.DATASETS[3:],
        "svhn": (papers.SVHN_VALIDATION,),
        "mnist": (papers.MNIST_VALIDATION,),
        "imagenet128": (papers.IMAGENET_CLASSES,),
    }
    found = [_count(place, name, counts[name]) for name, several in places.items() for place in several]
    found.append(_of(papers.PEOPLE, None, dataset="faces", note=NO_NAMES))
    return [*found, *_ratios(counts)]


def _count(place: Published, name: str, counts: Mapping[str, float]) -> Number:
    value, n_images = counts.get(place.column), counts.get("in")
    note = ""
    if value is None and counts:
        note = NO_TRUTH if place.column == "false_positives" else f"the set has no {place.column}"
    # photos, detections and images are counted apart: beside a number of photos a number of images would mislead
    of = None if n_images is None or place.unit == "photos" else int(n_images)
    return _of(place, value, dataset=name, note=note, run=name, n_images=of)


def _ratios(counts: Mapping[str, Mapping[str, float]]) -> list[Number]:
    """What can be set beside the paper's counts whatever the size of the set."""
    found, dedup, faces = [], counts["dedup"], counts["faces"]
    images, removed, _, photos, kept = (printed.value for printed in papers.DATASETS)
    if dedup.get("n_in"):
        place = Extra(row=papers.LSUN_DEDUP, column="duplicates_percent", unit="percent")
        share, note = (
            100 * dedup["n_removed"] / dedup["n_in"],
            f"the paper's counts come to {100 * removed / images:.1f} %",
        )
        n_images = int(dedup["n_in"])
        found.append(_of(place, share, dataset="lsun_dedup", run="lsun_dedup", n_images=n_images, note=note))
    if faces.get("photos"):
        place = Extra(row=papers.FACES, column="faces_per_photo", unit="ratio")
        share, note = faces["out"] / faces["photos"], f"the paper's counts come to {kept / photos:.2f}"
        found.append(_of(place, share, dataset="faces", run="faces", note=note))
    return found


def _features(results: Path) -> list[Number]:
    """Length of the vector that a CIFAR-10 classifier was fitted on: of D trained on ImageNet, the paper's, or not."""
    own = Extra(row="DCGAN trained on CIFAR-10 + L2-SVM", column=papers.N_FEATURES.column, unit="count")
    sources = ((papers.N_FEATURES, "cifar10", "dcgan_imagenet"), (own, "cifar10_dcgan_cifar10", "dcgan_cifar10"))
    found = []
    for place, name, run in sources:
        rows = table(results / f"{name}.parquet", ("n_features",))
        if rows is not None and len(rows):
            n_features = int(rows["n_features"].iloc[0])
            found.append(_of(place, n_features, dataset="cifar10", run=run, note=f"D of run {run}"))
        elif place is papers.N_FEATURES:
            found.append(_of(place, None, dataset="cifar10"))
    return found


# ---- figures --------------------------------------------------------------------------------------------------------


SAMPLES = {"dcgan_fig2": papers.FIRST_SAMPLES, "dcgan_fig3": papers.LAST_SAMPLES}


def _figures(folder: Path, settings: Settings) -> list[Number]:
    return [
        *(_epoch(place, _metrics(folder, figure)) for figure, place in SAMPLES.items()),
        *_trials(_metrics(folder, "table2_probes")),
        *_walk(_metrics(folder, "dcgan_fig4"), settings),
        *_guided(_metrics(folder, "dcgan_fig5")),
        *_windows(_metrics(folder, "dcgan_fig6"), settings),
        *_arithmetic(_metrics(folder, "dcgan_fig7"), settings),
        *_scores(_metrics(folder, "improved_table3_scores")),
        *_subsets(_metrics(folder, "semisup_errors")),
    ]


def _metrics(folder: Path, figure: str) -> dict[str, Any]:
    """The metrics of a figure; empty if it has not run, or shows nothing because nothing before it has."""
    path = folder / f"{figure}.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = f"{path}: no JSON ({error}); run figure@{figure} again"
        raise InputError(message) from error
    if not isinstance(found, dict):
        message = f"{path}: expected an object, found {type(found).__name__}; run figure@{figure} again"
        raise InputError(message)
    return {} if found == {"n_results": 0} else found


def _at(metrics: Mapping[str, Any], *keys: str) -> float | None:
    """The number at the end of the keys, None if one of them is missing."""
    found: Any = metrics
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float) else None


def _why(metrics: Mapping[str, Any]) -> str:
    """Why a figure has no such number."""
    if not metrics:
        return NOT_RUN
    reason = why_nothing(metrics)
    return NOT_COUNTED if reason is None else reason[0].lower() + reason[1:].rstrip(".")


def _shown(metrics: Mapping[str, Any]) -> bool:
    return bool(metrics.get("n_shown"))


def _epoch(place: Published, metrics: Mapping[str, Any]) -> Number:
    epoch = _at(metrics, "epoch")
    note = _why(metrics) if epoch is None else "of the samples shown"
    return _of(place, epoch, dataset="lsun", run="dcgan_lsun", note=note)


def _trials(metrics: Mapping[str, Any]) -> list[Number]:
    run = "supervised_cnn"
    return [_of(papers.TRIALS, _at(metrics, run, "n_trials"), dataset="svhn", run=run)]


def _walk(metrics: Mapping[str, Any], settings: Settings) -> list[Number]:
    n_frames, note = _at(metrics, "n_frames"), _why(metrics)
    if n_frames is not None:
        note = f"{n_frames:,.0f} frames; the released picture has ten rows, one a line from point to point"
    n_points = None if n_frames is None else settings.n_points
    return [_of(papers.WALK_POINTS, n_points, dataset="lsun", run="dcgan_lsun", note=note)]


def _guided(metrics: Mapping[str, Any]) -> list[Number]:
    n_shown, note = (metrics["n_shown"] if _shown(metrics) else None), _why(metrics)
    if n_shown is not None:
        note = f"of {metrics['n_features']:,} in D's last convolution" if "n_features" in metrics else ""
    return [_of(papers.GUIDED_FEATURES, n_shown, dataset="lsun", run="dcgan_lsun", note=note)]


def _windows(metrics: Mapping[str, Any], settings: Settings) -> list[Number]:
    """Samples, boxes and maps; what the maps are a share of, and those of the other reading of the layer, are ours."""
    of: dict[str, Any] = {"dataset": "lsun", "run": "dcgan_lsun"}
    layers = {name: metrics.get(f"layer_{name}", {}) for name in (LAYER, OTHER_LAYER)}
    n_boxes = _at(layers[LAYER], "classifier_random", "n_boxes")
    if n_boxes is None:
        places = (papers.WINDOW_SAMPLES, papers.WINDOW_BOXES, papers.WINDOW_MAPS)
        return [_of(place, None, dataset=of["dataset"], note=_why(metrics)) for place in places]
    marked = "drawn by a person, or found by the part detector where nobody drew any"
    found = [
        _of(papers.WINDOW_SAMPLES, settings.n_labelled, note="looked through for windows", **of),
        _of(papers.WINDOW_BOXES, n_boxes, note=marked, n_images=settings.n_labelled, **of),
    ]
    return [*found, *_maps(layers, n_images=settings.n_labelled, **of)]


def _maps(layers: Mapping[str, Mapping[str, Any]], **of: Any) -> list[Number]:
    """Maps that the paper's rule drops, by layer; of the one that is taken for the paper's, their share of all, too."""
    row, column, unit = papers.WINDOW_MAPS.row, papers.WINDOW_MAPS.column, papers.WINDOW_MAPS.unit
    places = {LAYER: papers.WINDOW_MAPS, OTHER_LAYER: Extra(row=row, column=f"{column}_{OTHER_LAYER}", unit=unit)}
    found = []
    for name, place in places.items():
        dropped, n_maps = _at(layers[name], "classifier_random", "n_positive_weights"), _at(layers[name], "n_maps")
        if dropped is None:
            continue
        found.append(_of(place, dropped, note=_of_maps(name, n_maps), **of))
        if name == LAYER and n_maps:
            share = Extra(row=row, column=f"{column}_percent", unit="percent")
            theirs = 100 * papers.WINDOW_MAPS.value / PAPER_MAPS
            note = f"{papers.WINDOW_MAPS.value:.0f} of the {PAPER_MAPS} of the paper's width are {theirs:.0f} %"
            found.append(_of(share, 100 * dropped / n_maps, note=note, **of))
    return found


def _of_maps(layer: str, n_maps: float | None) -> str:
    of = "" if n_maps is None else f"of {n_maps:,.0f} maps "
    return f"{of}of {layer.replace('x', ' x ')}: those of positive weight"


def _arithmetic(metrics: Mapping[str, Any], settings: Settings) -> list[Number]:
    noise = settings.noise if _shown(metrics) else None
    note = "per coordinate, about a result" if _shown(metrics) else _why(metrics)
    return [_of(papers.NOISE, noise, dataset="faces", run="dcgan_faces", note=note)]


def _scores(metrics: Mapping[str, Any]) -> list[Number]:
    """Images of each seed that a generator's score rests on: the fewest of any row."""
    found = {name: n for name in metrics if name != "real" and (n := _at(metrics, name, "n_images")) is not None}
    note = f"of each seed, in {len(found)} rows of Table 3; what scores them, that table says" if found else ""
    return [_of(papers.SCORE_IMAGES, min(found.values(), default=None), dataset="cifar10", note=note)]


def _subsets(metrics: Mapping[str, Any]) -> list[Number]:
    """Labelled subsets of the runs of the feature matching tables; the fewest of any number of labels."""
    numbers = []
    for name, place in (("mnist", papers.MNIST_SUBSETS), ("cifar10", papers.CIFAR10_SUBSETS)):
        runs = metrics.get(name, {})
        found = {
            int(of_run["n_labels"]): int(of_run["n_splits"])
            for key, of_run in runs.items()
            if key.startswith(f"{name}_") and {"n_labels", "n_splits"} <= set(of_run)
        }
        labels = ", ".join(f"{n:,}" for n in sorted(found))
        note = f"of the runs with {labels} labels" if found else ""
        numbers.append(_of(place, min(found.values(), default=None), dataset=name, note=note))
    return numbers


# ---- votes ----------------------------------------------------------------------------------------------------------

VOTE_COLUMNS = ("row", "column", "measured", "spread", "spread_over", "n_images", "note")
DECKS = {
    "mnist": (turing.MNIST, papers.MNIST_VOTES),
    "cifar10": (turing.BEST, turing.BEST_ERROR, turing.TOP),
}


def _votes(path: Path) -> list[Number]:
    """The numbers of table ``turing``, which notes itself why one is missing."""
    cells = _vote_cells(path)
    found = []
    for dataset, places in DECKS.items():
        for place in places:
            cell = cells.get((place.row, place.column))
            headline = cells.get((place.row, turing.CORRECT), {})
            if cell is None or pd.isna(cell["measured"]):
                found.append(_of(place, None, dataset=dataset, note=_text((cell or headline).get("note"))))
                continue
            more = {} if pd.isna(cell["spread"]) else {"spread": float(cell["spread"])}
            n_images = None if pd.isna(cell["n_images"]) else int(cell["n_images"])
            note, over = _text(cell["note"]), _text(cell["spread_over"])
            found.append(
                _of(place, cell["measured"], dataset=dataset, note=note, spread_over=over, n_images=n_images, **more)
            )
    return found


def _vote_cells(path: Path) -> dict[tuple[str, str], dict[Any, Any]]:
    again = "run dvc repro turing_report"
    if not path.is_file():
        message = f"{path}: missing; {again}"
        raise InputError(message)
    try:
        read = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        message = f"{path}: no CSV table ({error}); {again}"
        raise InputError(message) from error
    missing = [name for name in VOTE_COLUMNS if name not in read]
    if missing:
        message = f"{path}: found columns {', '.join(map(str, read))}; expected also {', '.join(missing)}; {again}"
        raise InputError(message)
    return {(row["row"], row["column"]): row for row in read.to_dict("records")}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
