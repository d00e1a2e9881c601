"""Do the committed embedded reports come out of a run from nothing? The same bytes, or the same within a tolerance.

GAN training is chaotic: another instruction set rounds otherwise, and after some thousand steps the networks differ.
So bytes are demanded on a machine of the same kind, elsewhere every metric within three times its seed spread.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.project import lock
from pipeline.project.git import environment, git

REPORTS = Path("reports/embedded")
SOURCES = (REPORTS / "tables/claims.csv", REPORTS / "tables/claims.md")  # from experiments: no stage writes them
PROVENANCE = Path("metrics/provenance.json")
KEPT = Path(".work/verify")  # where a rerun that differs is kept for a look

SPREADS = 3.0
# Added to three spreads, in the unit of the metrics: three seeds estimate a spread badly, and it can be zero by chance.
# The wide ones are about twice the largest difference beyond three spreads that a rerun from nothing on avx512+bf16 had
# to the reports of avx512+amx+bf16. By table; or by "row/column" in it, where the first pattern that fits counts, and 0
# where none does.
FLOORS: dict[str, float | dict[str, float]] = {
    "dcgan_table3": 1.0,  # % of 1,000 test digits: a binomial standard error is 0.7 at 5 % error
    # features of a GAN that another machine trains to other weights, judged on 2,000 test images
    "dcgan_table1": {"*/max_feature_units": 0.0, "dcgan_trained_on_cifar_10_*": 10.0, "*": 4.0},  # %
    "dcgan_table2": {"*/trials": 0.0, "*": 6.0},  # %; the best of few supervised trials varies most
    # of 1,000 or 2,000 test images; one network, or the ensemble of one split, has no spread
    # the minibatch network learns in one or two epochs with one rounding, and has not begun with another
    "improved_table1": {"*/labels_20": 600.0, "minibatch_*": 4500.0, "*": 400.0},  # errors of 10,000
    "improved_table2": {"minibatch_*": 6.0, "*": 13.0},  # %
    "improved_svhn": {"minibatch_*": 14.0, "*": 4.0},  # %
    # another setting may be the best by a hair: any of the params' is accepted
    "table1_probes": {"*/setting": 1.0, "*": 6.0},  # %
    "table2_probes": {"*/n_trials": 0.0, "*/setting": 10.0, "*": 8.0},  # %
    **{f"samples_{run}": 0.0 for run in ("dcgan_lsun", "dcgan_faces", "dcgan_imagenet", "dcgan_cifar10", "dcgan_svhn")},
    "error_over_n": 3.0,  # % likewise; its spreads stand in the picture alone, and are widest at 1,000 digits
    "datasets": {  # OpenCV and the autoencoder round otherwise on another machine; what they do not touch must be equal
        "*/false_positives*": 1.0,  # %
        "*/*_units": 2.0,
        "*/all_zero_share": 0.01,
        "*/largest_group": 2.0,
        "lsun_bedrooms_deduplicated/in": 0.0,
        "lsun_bedrooms_deduplicated/*": 60.0,  # images of 6,900
        "faces/photos": 0.0,
        "faces/*": 60.0,  # detections of 2,100
    },
    "text_numbers": {  # what OpenCV, the autoencoder and trained networks count; all other sizes must be equal
        "lsun_bedrooms_deduplicated/duplicates": 60.0,  # images of 6,900
        "lsun_bedrooms_deduplicated/*": 1.0,  # %
        "faces/out": 60.0,  # detections of 2,100
        "faces/faces_per_photo": 0.05,
        "windows/boxes": 60.0,
        "windows/maps_dropped_percent": 20.0,
        "windows/maps_dropped*": 12.0,  # of 64 and 32
        "*": 0.0,
    },
    "duplicates": {
        "*/offsets": 0.0,
        "*/radius": 1.0,
        "*/false_pairs": 5.0,
        "*/wrongly_removed_percent": 2.0,
        "*/precision_percent": 1.0,
        "*": 8.0,  # % of about 250 altered images
    },
    "faces": {"*/n_true": 0.0, "*": 4.0},  # % of about 150 faces, and faces
    # GANs that another machine trains to other weights, looked at through detectors that it trains likewise
    # counts; but how far a picture's colours are reduced depends on the picture
    **{f"dcgan_fig{n}": {"n_colours": 200.0, "scale": 1.0, "*": 0.0} for n in (2, 3, 10, 11)},
    # % and distances in features
    **{f"dcgan_fig4{run}": {"n_colours": 200.0, "scale": 1.0, "n_*": 0.0, "*": 25.0} for run in ("", "_faces")},
    "dcgan_fig5": {"n_colours": 200.0, "scale": 1.0, "n_*": 0.0, "*": 15.0},  # %
    "dcgan_fig6": {  # images of 400 with a detection, maps of 64 and 32
        "n_colours": 200.0,
        "scale": 1.0,
        **dict.fromkeys(("n_shown", "*/n_images", "*/n_maps", "*/n_draws"), 0.0),
        "detector/*/n_true": 0.0,
        "detector/*/n_without": 0.0,
        "detector/*/mean_iou": 0.1,
        "detector/*": 30.0,
        "*/n_boxes": 60.0,
        "layer_8x8/classifier_matched/n_positive_weights": 50.0,
        "*/n_positive_weights": 20.0,
        "*/n_dropped": 12.0,
        "layer_8x8/classifier*/n_*": 500.0,
        "layer_16x16/classifier*/n_*": 2000.0,
        "*/accuracy_percent": 12.0,
        "*/guessing_percent": 12.0,
        "*/pixel_change": 0.12,
        "*/windows_fall_percent": 50.0,
        "*/beds_fall_percent": 90.0,
        "*/beds*": 270.0,
        "*": 150.0,
    },
    "dcgan_fig7": {  # % of 200 problems
        "n_colours": 200.0,
        "scale": 1.0,
        **dict.fromkeys(("n_shown", "n_kinds", "*/n_problems", "attributes/*/n_images"), 0.0),
        "n_kinds_left_out": 12.0,
        "*/correlation": 0.1,
        "*/mean_absolute_error_deg": 2.0,
        "attributes/*": 8.0,
        "*/n_gained": 40.0,
        "*/n_lost": 40.0,
        "*": 20.0,
    },
    "dcgan_fig8": {  # degrees
        "n_colours": 200.0,
        "scale": 1.0,
        "n_*": 0.0,
        "correlation*": 0.25,
        "*_percent": 25.0,
        "*": 12.0,
    },
    "sample_distances": {
        **dict.fromkeys(("*/n_samples", "*/n_held_out", "*/n_images/*"), 0.0),
        "*/ratio_of_medians": 1.1,
        "*/n_nearer_than_any_held_out": 5.0,
        "*/pixels/*": 8.0,
        "*/mean_distance/*": 5.0,
        "*": 45.0,
    },
    # errors of the same networks in %, without spreads; the mean of three networks or nine, the best and the worst
    "semisup_errors": {
        **dict.fromkeys(("*/n_labels", "*/n_networks", "*/n_splits", "*/n_steps", "*/n_test_images"), 0.0),
        "cifar10/*/n_gained": 2.0,  # of three networks
        "*/n_gained": 1.0,
        "*/n_collapsed": 1.0,
        "*/n_d_won": 1.0,
        "*/mb_*/lowest_unsupervised_loss": 0.18,
        "*/lowest_unsupervised_loss": 0.03,
        "mnist/mnist_20/*": 10.0,
        "mnist/mb_*": 45.0,
        "*/mb_*": 14.0,
        "cifar10/*": 24.0,  # two epochs of schedules that had hundreds
        "*": 9.0,
    },
    **{  # grey levels between samples: about 40 % of what they are
        f"improved_fig{n}": {
            "n_colours": 200.0,
            "scale": 1.0,
            "*/n_images": 0.0,
            "*/side_px": 0.0,
            "*/duplicates_percent": 10.0,
            "feature_matching/nearest_other": matching,
            "minibatch_discrimination/nearest_other": minibatch,
        }
        for n, matching, minibatch in ((3, 300.0, 450.0), (4, 1100.0, 190.0), (5, 860.0, 770.0))
    },
    # samples of GANs that another machine trains to other weights, judged by a classifier that it trains likewise
    "improved_table3": {
        "*/classifier_accuracy": 3.0,  # %
        "*/*_split_spread": 0.3,
        "*/*_score": 1.0,  # from 1 to 10
        "*/*_frechet": 20.0,
        "*/*_kernel": 100.0,  # thousandths
        "*/*_density": 0.5,
        "*": 0.25,  # shares
    },
    "improved_table3_scores": {
        **dict.fromkeys(("*/n_images", "*/*_n_seeds"), 0.0),
        "*_sd": 1.4,
        "*": 2.7,  # of 1 to 10
    },
    "score_over_steps": {"*": 2.8},  # of 1 to 10
    "improved_table3_samples": {  # grey levels
        "n_colours": 200.0,
        "scale": 1.0,
        **dict.fromkeys(("real/*", "*/n_images", "*/side_px"), 0.0),
        "*/duplicates_percent": 10.0,
        "*/diversity": 0.5,
        "*/nearest_other": 550.0,  # committed ones are 50 to 400
        "*": 2400.0,
    },
    "improved_fig6": {  # grey levels, of images of 128 x 128
        "n_colours": 200.0,
        "scale": 1.0,
        **dict.fromkeys(("*/epoch", "*/n_images", "*/side_px"), 0.0),
        "*/duplicates_percent": 10.0,
        "dcgan/nearest_other": 1000.0,
        "dcgan/*": 4000.0,
        "*/nearest_other": 10000.0,
        "*": 15000.0,
    },
    # which images are shown is drawn by the deck's checksum
    "improved_fig2": {"n_colours": 200.0, "n_generated": 1.0, "*": 0.0},
    "samples_imagenet128_dcgan": {"n_colours": 200.0, "scale": 1.0, "*": 0.0},
    "turing": 0.0,  # of votes, which are source
    "toy_games": 0.0,  # sums and products of float64 alone
    "dcgan_fig9": 15.0,  # % of 70 digits of one seed: the standard error of a difference is 6 at 85 %
}

Values = dict[tuple[str, ...], Any]  # (row, column) -> number


@dataclass(frozen=True)
class Comparison:
    """Committed reports beside rerun ones: a line or more for each table, figure or curve."""

    committed_on: str  # instruction set, or "unknown"
    rerun_on: str
    lines: list[str]
    agrees: bool
    different: list[str]  # names whose bytes differ, within the tolerance or not

    @property
    def same_machine(self) -> bool:
        """Whether the same bytes may be demanded."""
        return self.committed_on == self.rerun_on


def verify(root: Path = Path()) -> Comparison:
    """Run the embedded graph in a temporary clone with an empty cache, and compare its reports and lock with ours.

    The clone is of the working tree as it stands, so that an uncommitted edit of a report is seen too.

    Raises
    ------
    InputError
        If this is no Git checkout, or the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="gan-tables-verify-") as name:
        clone = Path(name).resolve() / "project"
        copy_working_tree(root, clone)
        _remove_what_stages_write(clone)
        (clone / "dvc.lock").unlink(missing_ok=True)
        _rerun(clone, Path(name).resolve())
        found = with_lock(compare(root / REPORTS, clone / REPORTS), root / "dvc.lock", clone / "dvc.lock")
        if found.agrees:
            return found
        kept = root / KEPT
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(clone / REPORTS, kept / REPORTS)
        shutil.copyfile(clone / "dvc.lock", kept / "dvc.lock")
    return Comparison(
        found.committed_on, found.rerun_on, [*found.lines, f"the rerun's files: {KEPT}"], found.agrees, found.different
    )


def _remove_what_stages_write(clone: Path) -> None:
    sources = {path: (clone / path).read_bytes() for path in SOURCES if (clone / path).is_file()}
    shutil.rmtree(clone / REPORTS, ignore_errors=True)
    for path, content in sources.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_bytes(content)


def copy_working_tree(root: Path, clone: Path) -> None:
    """Clone the repository, then lay over it all files that Git tracks or would track, as they stand."""
    git("clone", "--quiet", "--shared", str(root.resolve()), str(clone), root=root)
    listing = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", root=root)
    for name in filter(None, listing.decode().split("\0")):
        source, target = root / name, clone / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
        else:
            target.unlink(missing_ok=True)  # deleted, and not yet committed


def _rerun(clone: Path, temporary: Path) -> None:
    local = "[core]\n    analytics = false\n[cache]\n    dir = cache\n"  # relative to .dvc; no other cache is asked
    (clone / ".dvc" / "config.local").write_text(local, encoding="utf-8")
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "dvc.yaml"]
    print(f"running the embedded graph from nothing in {clone}", flush=True)
    finished = subprocess.run(command, cwd=clone, env=_clean_environment(temporary), check=False)
    if finished.returncode:
        message = f"verify: `dvc repro` in a fresh clone ended with status {finished.returncode}; its message is above"
        raise InputError(message)
    lock.order_lock(clone)


def _clean_environment(temporary: Path) -> dict[str, str]:
    """Nothing of this checkout or of the user's DVC settings reaches the clone."""
    ours = ("DVC_", "PYTHONPATH", "PYTHONSAFEPATH", "GAN_SCRATCH", "GAN_LAUNCH")
    kept = {key: value for key, value in environment().items() if not key.startswith(ours)}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "SHELL": "/bin/sh",
        "DVC_SITE_CACHE_DIR": str(temporary / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(temporary / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(temporary / "system"),
    }


def compare(committed: Path, rerun: Path, floors: Mapping[str, float | dict[str, float]] = FLOORS) -> Comparison:
    """Compare two folders of reports.

    Parameters
    ----------
    committed, rerun : folders like ``reports/embedded``; ``metrics/provenance.json`` in each names its instruction set
    floors : by table, what is allowed beyond three spreads, in the table's unit

    Returns
    -------
    Comparison
        Files of one name in several formats share a line. On the same instruction set all bytes have to be equal. On
        another one the numbers in ``metrics/*.json`` and the ``measured`` ones in ``tables/*.csv`` have to be within
        three spreads (the larger of both sides') plus the floor, and the other files only have to exist.
    """
    committed_on, rerun_on = _instruction_set(committed), _instruction_set(rerun)
    by_name: dict[str, list[Path]] = {}
    for path in sorted(_files(committed) | _files(rerun)):
        by_name.setdefault(path.stem, []).append(path)
    lines, agrees, different = [], True, []
    for name, paths in sorted(by_name.items()):
        allowed = None if committed_on == rerun_on else _Tolerance(name, committed, rerun, floors.get(name, 0.0))
        bad, good = _compare_one(paths, committed, rerun, allowed)
        lines += [f"{name}: DIFFERS: {what}" for what in bad] or [f"{name}: {good}"]
        agrees = agrees and not bad
        if bad or good != IN_BYTES:
            different.append(name)
    if not by_name:
        lines, agrees = [f"{committed}: no reports, neither committed nor from the rerun"], False
    return Comparison(committed_on, rerun_on, lines, agrees, different)


IN_BYTES = "agrees in bytes"


class _Tolerance:
    """How far a number of one table may be off on a machine of another kind."""

    def __init__(self, table: str, committed: Path, rerun: Path, floor: float | dict[str, float]) -> None:
        self._floors = floor if isinstance(floor, dict) else {"*": floor}
        self._spreads: dict[tuple[str, ...], float] = {}
        for folder in (committed, rerun):
            for key, spread in _column(folder / "tables" / f"{table}.csv", "spread").items():
                if isinstance(spread, float):
                    self._spreads[key] = max(spread, self._spreads.get(key, 0.0))

    def of(self, key: tuple[str, ...]) -> float:
        place = "/".join(key)
        floor = next((floor for pattern, floor in self._floors.items() if fnmatchcase(place, pattern)), 0.0)
        return SPREADS * self._spreads.get(key, 0.0) + floor


def _compare_one(
    paths: list[Path], committed: Path, rerun: Path, tolerance: _Tolerance | None
) -> tuple[list[str], str]:
    """What differs, and what to say if nothing does."""
    bad: list[str] = []
    good = IN_BYTES
    largest: tuple[float, float] | None = None  # difference, allowed
    for path in paths:
        missing = next((side for side in (committed, rerun) if not (side / path).is_file()), None)
        if missing:
            bad.append(f"{path.as_posix()} is missing {'from the rerun' if missing == rerun else 'in the checkout'}")
            continue
        if (committed / path).read_bytes() == (rerun / path).read_bytes():
            continue
        good = "exists, with other bytes"
        ours, theirs = _values(committed, path), _values(rerun, path)
        differences = {key: _difference(ours.get(key), theirs.get(key)) for key in ours | theirs}
        allowed = {key: tolerance.of(key) if tolerance else 0.0 for key in differences}
        over = [key for key in differences if differences[key] > allowed[key]]
        bad += [_say(key, ours, theirs, allowed[key]) for key in over]
        if tolerance is None and not over:
            bad.append(f"{path.as_posix()} has other bytes")
        for key, difference in differences.items():
            largest = max(largest or (0.0, 0.0), (difference, allowed[key]))
    if largest:
        good = f"agrees within tolerance (largest difference {largest[0]:.4g}, allowed {largest[1]:.4g})"
    return list(dict.fromkeys(bad)), good  # the same number stands in the .json and in the .csv


def _say(key: tuple[str, ...], ours: Values, theirs: Values, allowed: float) -> str:
    committed, rerun = ours.get(key, "nothing"), theirs.get(key, "nothing")
    return f"{' / '.join(key)}: committed {committed}, rerun {rerun}, allowed difference {allowed:.4g}"


def _equal(ours: Any, theirs: Any) -> bool:
    return repr(ours) == repr(theirs)  # NaN is equal to NaN here


def _difference(ours: Any, theirs: Any) -> float:
    if _equal(ours, theirs):
        return 0.0
    if not isinstance(ours, float) or not isinstance(theirs, float):
        return float("inf")  # one of them is missing or is text
    return abs(ours - theirs) if ours == ours and theirs == theirs else float("inf")  # noqa: PLR0124 - NaN


def _instruction_set(folder: Path) -> str:
    try:
        found = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return "unknown"
    return str(found.get("instruction_set", "unknown")) if isinstance(found, dict) else "unknown"


def _files(folder: Path) -> set[Path]:
    """What stages write; claims come from experiments, and a rerun leaves them as they are."""
    sources = {path.relative_to(REPORTS) for path in SOURCES}
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} - sources


def _values(folder: Path, path: Path) -> Values:
    """The numbers that a metrics file or a table holds; empty for other files."""
    if path == PROVENANCE:
        return {}
    if path.parent.name == "metrics" and path.suffix == ".json":
        return _flat(json.loads((folder / path).read_text(encoding="utf-8")))
    if path.parent.name == "tables" and path.suffix == ".csv":
        return _column(folder / path, "measured")
    return {}


def _flat(node: Any, above: tuple[str, ...] = ()) -> Values:
    if isinstance(node, dict):
        return {key: value for name, child in node.items() for key, value in _flat(child, (*above, name)).items()}
    return {above: _number(node)}


def _column(table: Path, column: str) -> Values:
    """One column of a table's CSV, by the slugs of row and column that its metrics have."""
    from pipeline.core.records import slug

    if not table.is_file():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        return {(slug(row["row"]), slug(row["column"])): _number(row.get(column)) for row in csv.DictReader(file)}


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def with_lock(found: Comparison, committed: Path, rerun: Path) -> Comparison:
    """Add what the two dvc.lock files say: they count where the reports' bytes do."""
    texts = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in (committed, rerun)]
    stages = _different_stages(*texts)
    agrees = found.agrees
    if texts[0] == texts[1]:
        line = IN_BYTES
    elif not stages:
        line = "agrees in every entry, with the stages in another order"
    elif found.same_machine:
        line, agrees = f"DIFFERS: stages {', '.join(stages)}", False
    else:
        line = f"differs, as it may on another instruction set: stages {', '.join(stages)}"
    lines = [*found.lines, f"dvc.lock: {line}"]
    return Comparison(found.committed_on, found.rerun_on, lines, agrees, found.different)


def _different_stages(*texts: str) -> list[str]:
    from ruamel.yaml import YAML

    ours, theirs = ((YAML(typ="safe").load(text) or {}).get("stages", {}) for text in texts)
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]


def compare_with_head(root: Path = Path()) -> list[str]:
    """What `make repro` says when the embedded reports are not the committed ones; nothing where there is no Git."""
    reports = root / REPORTS
    with tempfile.TemporaryDirectory(prefix="gan-tables-head-") as name:
        committed = Path(name)
        if not reports.is_dir() or not _extract_head(root, committed):
            return []
        found = compare(committed, reports)
    if not found.different:
        return [f"{REPORTS}: the same bytes as in the last commit"]
    if found.same_machine:
        names = ", ".join(found.different)
        return [f"{REPORTS}: differs from the last commit in {names}; `git diff {REPORTS}` shows how"]
    verdict = (
        "every metric agrees within 3 x its seed spread plus the floor of its table"
        if found.agrees
        else "some differ by more than 3 x the seed spread plus the floor of the table"
    )
    machines = f"this machine ({found.rerun_on}) computes with other instructions than the committed reports' one"
    return [
        f"{REPORTS}: {machines} ({found.committed_on}), so dvc.lock and the reports have other bytes; {verdict}:",
        *(f"  {line}" for line in found.lines),
    ]


def _extract_head(root: Path, out: Path) -> bool:
    """The committed reports as files; false where Git or the commit does not have them."""
    try:
        tree = git("rev-parse", "--verify", "--quiet", f"HEAD:./{REPORTS}", root=root).decode().strip()
        archive = git("archive", "--format=zip", tree, root=root)
    except InputError:
        return False
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(out)
    return True
