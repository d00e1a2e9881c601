"""What z means: walks between random z, arithmetic on z, and a direction that turns heads."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.records import slug
from pipeline.reporting import mosaic, result_files
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty
from pipeline.reporting.result_files import NOT_KNOWN
from pipeline.reporting.rows import NOT_RUN

FRAMES_A_ROW = 10  # where no table tells
SIGNS, ROW_GAP_PX = "-+=", 6  # of the arithmetic; its font has no minus sign
PLOT_INCHES = 2.6  # height
WALK = ("kind", "number", "segment", "distance", "pixel_distance")
SPACES = {"features": "distance", "pixels": "pixel_distance"}
ARITHMETIC = (
    *("space", "n_exemplars", "n_problems", "n_right", "share", "low", "high"),
    *("n_gained", "n_lost", "n_kinds", "n_kinds_left_out"),
)
ATTRIBUTES = ("attribute", "n_images", "accuracy", "majority", "correlation", "mean_absolute_error")
SOLVED = {"z": ("C0", "arithmetic on z"), "pixels": ("C1", "arithmetic on pixels")}
CONTROLS = {
    "start": (":", "control: G(mean z of C) as it is"),
    "chance": ("--", "control: random samples"),
}
OTHERS = ("smile", "glasses", "light_hair")  # what a turn should leave as it is
TURN = ("draw", "sample", "coefficient", "yaw", *OTHERS)
TURNED = ("coefficient", "n_samples", "yaw_mean", "yaw_sd")


def walk(results: Path, *, run: str) -> Drawn:
    """DCGAN, Figure 4: a walk between random z, a row a segment; below, how far D's features move at each step.

    The steps are set against pairs of independent z: a generator that jumps from one remembered image to the next has
    steps as large as those.
    """
    found = result_files.arrays(results / f"{run}.npz", frames=4)
    moves = result_files.table(results / f"{run}.parquet", WALK)
    if found is None or moves is None or not len(found["frames"]):
        return empty(NOT_RUN, WALK)
    frames = found["frames"]
    steps, pairs = (moves[moves["kind"] == kind].sort_values("number", kind="stable") for kind in ("step", "random"))
    columns = len(frames) // (int(steps["segment"].max()) + 1) if len(steps) else FRAMES_A_ROW
    n_rows = -(-len(frames) // columns)
    title = f"{run}: {n_rows} segments between {n_rows + 1} random z, {columns} frames each"

    def layout(scale: float) -> mosaic.Canvas:
        sheet = mosaic.tiles(frames, columns=columns, scale=scale)
        return mosaic.titled(title, sheet, _walk_plot(steps, pairs, columns, sheet.shape[1]))

    made = mosaic.fitted(layout, scale=1)
    metrics: Metrics = {"n_frames": len(frames), "n_random_pairs": len(pairs)} | made.size()
    if len(steps) and len(pairs):
        metrics |= {space: _smoothness(steps[name], pairs[name]) for space, name in SPACES.items()}
    return Drawn(figure=made.picture, metrics=metrics, numbers=moves)


def _smoothness(steps: pd.Series, pairs: pd.Series) -> Metrics:
    """Largest and median step, beside the median random pair and as a share of it."""
    largest, median, random = float(steps.max()), float(steps.median()), float(pairs.median())
    found = {"largest_step": round(largest, 4), "median_step": round(median, 4), "median_random_pair": round(random, 4)}
    if not random:
        return found
    return found | {
        "largest_step_percent": round(100 * largest / random, 2),
        "median_step_percent": round(100 * median / random, 2),
    }


def _walk_plot(steps: pd.DataFrame, pairs: pd.DataFrame, columns: int, width: int) -> mosaic.Canvas:
    figure, (axis,) = canvas(columns=1, size=(mosaic.inches(width), PLOT_INCHES))
    axis.plot(
        steps["number"] + 1, steps["distance"], ".-", color="C0", markersize=4, linewidth=1, label="to the next frame"
    )
    if len(pairs):
        axis.axhline(pairs["distance"].median(), color="C3", linestyle="--", label="between two random z, median")
    for start in range(columns, len(steps) + 1, columns):
        axis.axvline(start + 0.5, color="0.8", linewidth=0.8, zorder=0)
    axis.set_xlabel("frame (grey: a new row)", fontsize=8)
    axis.set_ylabel("distance in D's features", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.margins(x=0.01)
    axis.tick_params(labelsize=8)
    axis.legend(frameon=False, fontsize=8)
    return mosaic.plotted(figure)


def arithmetic(results: Path) -> Drawn:
    """DCGAN, Figure 7: A - B + C of mean z of exemplars, and of their mean pixels; below, the share that is right.

    Right is a result in which a classifier sees both attributes that it should have.
    """
    found = result_files.arrays(
        results / "pictures.npz",
        concepts=2,
        exemplars=6,
        means=5,
        results=5,
        pixel_means=5,
        pixel_results=4,
    )
    solved = result_files.table(results / "arithmetic.parquet", ARITHMETIC)
    if found is None or solved is None:
        return empty(NOT_RUN, ARITHMETIC)
    if not len(found["results"]) and not len(solved):
        return _not_known(ARITHMETIC)
    solved = solved.sort_values(["space", "n_exemplars"], kind="stable", ignore_index=True)
    n_shown = len(found["results"])
    title = "A - B + C of mean z (Figure 7), and of mean pixels in the last row of each"

    def layout(scale: float) -> mosaic.Canvas:
        parts = [_problem(found, number, scale) for number in range(n_shown)]
        width = max((part.shape[1] for part in parts), default=700)
        return mosaic.titled(title, *parts, *([_arithmetic_plot(solved, width)] if len(solved) else []))

    made = mosaic.fitted(layout, scale=2)
    metrics: Metrics = {"n_shown": n_shown} | made.size()
    for space, rows in solved.groupby("space", sort=False):
        metrics[str(space)] = {f"exemplars_{row['n_exemplars']}": _share(row) for row in rows.to_dict("records")}
    if len(solved):
        metrics |= {name: int(solved[name].iloc[0]) for name in ("n_kinds", "n_kinds_left_out")}
    attributes = result_files.table(results / "attributes.parquet", ATTRIBUTES)
    if attributes is not None and len(attributes):
        metrics["attributes"] = {slug(row["attribute"]): _accuracy(row) for row in attributes.to_dict("records")}
    return Drawn(figure=made.picture, metrics=metrics, numbers=solved)


def _share(row: dict[Any, Any]) -> Metrics:
    """In %; and how many of the problems became right, or wrong, against the fewest exemplars of the same space."""
    counts = {name: int(row[name]) for name in ("n_problems", "n_gained", "n_lost")}
    shares = {f"{name}_percent": round(100 * float(row[name]), 2) for name in ("share", "low", "high")}
    return counts | shares


def _accuracy(row: dict[Any, Any]) -> Metrics:
    """Of an attribute or, in degrees, of the yaw; a number that the other kind has is left out."""
    found: Metrics = {"n_images": int(row["n_images"])}
    found |= {f"{name}_percent": round(100 * row[name], 2) for name in ("accuracy", "majority") if pd.notna(row[name])}
    names = {"correlation": "correlation", "mean_absolute_error": "mean_absolute_error_deg"}
    return found | {key: round(float(row[name]), 4) for name, key in names.items() if pd.notna(row[name])}


def _problem(found: dict[str, np.ndarray], number: int, scale: float) -> mosaic.Canvas:
    """Columns A, B and C (exemplars, mean of z, mean of pixels) and the results; the two lowest rows are the sums."""

    def column(images: np.ndarray) -> mosaic.Canvas:
        return mosaic.tiles(images, columns=1, scale=scale)

    parts: list[mosaic.Canvas] = []
    for index, (letter, sign) in enumerate(zip("ABC", SIGNS, strict=True)):
        images = (found[name][number, index] for name in ("exemplars", "means", "pixel_means"))
        exemplars, mean, pixel_mean = (column(one.reshape(-1, *one.shape[-3:])) for one in images)
        side = len(mean)
        head = mosaic.words(f"{letter}: {found['concepts'][number, index]}", width=side, size=13)
        parts.append(mosaic.below(head, exemplars, mean, pixel_mean, gap_px=ROW_GAP_PX))
        signs = [mosaic.words(sign, width=30, height=side, size=36)] * 2
        parts.append(mosaic.below(*signs, gap_px=ROW_GAP_PX))
    result = mosaic.tiles(found["results"][number], columns=3, scale=scale)
    crude = column(found["pixel_results"][number, np.newaxis])
    parts.append(mosaic.below(result, crude, gap_px=ROW_GAP_PX, align="middle"))
    return mosaic.beside(*parts, align="end")


def _arithmetic_plot(solved: pd.DataFrame, width: int) -> mosaic.Canvas:
    figure, (axis,) = canvas(columns=1, size=(mosaic.inches(width), 3.6))
    _draw_arithmetic(axis, solved)
    return mosaic.plotted(figure)


def _draw_arithmetic(axis: Any, solved: pd.DataFrame) -> None:
    for space, (colour, label) in SOLVED.items():
        rows = solved[solved["space"] == space]
        share = 100 * rows["share"].to_numpy()
        bars = np.abs(100 * rows[["low", "high"]].to_numpy().T - share)
        axis.errorbar(rows["n_exemplars"], share, yerr=bars, color=colour, marker="o", capsize=3, label=label)
    for space, (style, label) in CONTROLS.items():
        rows = solved[solved["space"] == space]
        if len(rows) > 1:
            axis.plot(rows["n_exemplars"], 100 * rows["share"], style, color="0.4", marker=".", label=label)
        elif len(rows):  # it has no exemplars
            axis.axhline(100 * rows["share"].iloc[0], linestyle=style, color="0.4", label=label)
    axis.set_xscale("log")
    ticks = sorted(solved.loc[solved["space"].isin(list(SOLVED)), "n_exemplars"].unique())
    axis.set_xticks(ticks, ticks)
    axis.minorticks_off()
    axis.set_xlabel("exemplars a concept")
    axis.set_ylabel("right, % (bars: 95 % intervals)")
    axis.set_ylim(-3, 102)  # so that a control at 0 is seen
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def turn(results: Path) -> Drawn:
    """DCGAN, Figure 8: samples moved along the turn vector, the sample itself in the middle; below, the yaw seen."""
    found = result_files.arrays(results / "pictures.npz", images=5, coefficients=1)
    turned = result_files.table(results / "turn.parquet", TURN)
    if found is None or turned is None:
        return empty(NOT_RUN, TURNED)
    if not len(found["images"]):
        return _not_known(TURNED)
    images, coefficients = found["images"], found["coefficients"]
    curve = _yaw_curve(turned)

    def layout(scale: float) -> mosaic.Canvas:
        n_rows, n_columns = images.shape[:2]
        sheet = mosaic.tiles(images.reshape(-1, *images.shape[2:]), columns=n_columns, rows=n_rows, scale=scale)
        side = (sheet.shape[1] + mosaic.GAP_PX) // n_columns
        heads = [
            mosaic.words(f"{coefficient:+.1f}" if round(coefficient, 1) else "0", width=side, size=12)
            for coefficient in coefficients
        ]
        plot = [_turn_plot(curve, sheet.shape[1])] if len(turned) else []
        return mosaic.titled("Samples moved along the turn vector", mosaic.below(mosaic.beside(*heads), sheet), *plot)

    made = mosaic.fitted(layout, scale=1)
    metrics: Metrics = {"n_shown": len(images)} | made.size()
    if len(turned):
        metrics |= _yaw_metrics(turned, curve) | {"changed": _changed(turned)}
    return Drawn(figure=made.picture, metrics=metrics, numbers=curve)


def _yaw_curve(turned: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation of the yaw over the samples, a line a coefficient."""
    yaw = turned.groupby("coefficient", sort=True)["yaw"]
    curve = pd.DataFrame({"n_samples": yaw.count(), "yaw_mean": yaw.mean(), "yaw_sd": yaw.std(ddof=1)})
    return curve.reset_index()[list(TURNED)]


def _yaw_metrics(turned: pd.DataFrame, curve: pd.DataFrame) -> Metrics:
    """Correlation over all samples and coefficients, and within a sample, where the samples' own yaw plays no part."""
    table = _by_sample(turned, "yaw")
    by_sample = table.to_numpy()
    place = curve["coefficient"].to_numpy() - curve["coefficient"].mean()
    moved = by_sample - by_sample.mean(axis=1, keepdims=True)
    length = np.sqrt((moved**2).sum(axis=1) * (place**2).sum())
    within = moved @ place / np.where(length > 0, length, 1)
    rise = (table.iloc[:, -1] - table.iloc[:, 0]).groupby("draw").mean()
    metrics: Metrics = {
        "n_samples": len(by_sample),
        "n_vectors": len(rise),
        "correlation": round(float(turned["yaw"].corr(turned["coefficient"])), 4),
        "correlation_within_samples": round(float(within.mean()), 4),
        "yaw_rises_percent": round(100 * float((by_sample[:, -1] > by_sample[:, 0]).mean()), 2),
        "yaw_rise": {"mean_deg": round(float(rise.mean()), 2)},
    }
    if len(rise) > 1:
        metrics["yaw_rise"]["sd_over_vectors_deg"] = round(float(rise.std(ddof=1)), 2)
    for name, coefficient in (("minus_1", -1), ("0", 0), ("1", 1)):
        at = curve[np.isclose(curve["coefficient"], coefficient)]
        if len(at):
            numbers = {"mean_deg": at["yaw_mean"].iloc[0], "sd_deg": at["yaw_sd"].iloc[0]}
            metrics[f"yaw_at_{name}"] = {
                key: round(float(value), 2) for key, value in numbers.items() if pd.notna(value)
            }
    return metrics


def _by_sample(turned: pd.DataFrame, values: str) -> pd.DataFrame:
    """A line a sample of a draw, a column a coefficient, ascending."""
    return turned.pivot_table(index=["draw", "sample"], columns="coefficient", values=values)


def _changed(turned: pd.DataFrame) -> Metrics:
    """The share of samples, in %, in which the judge sees an attribute at one end of the turn and not at the other."""
    has = {name: _by_sample(turned, name) >= 0.5 for name in OTHERS}
    shares = {name: (at.iloc[:, 0] != at.iloc[:, -1]).mean() for name, at in has.items()}
    return {f"{name}_percent": round(100 * float(share), 2) for name, share in shares.items()}


def _turn_plot(curve: pd.DataFrame, width: int) -> mosaic.Canvas:
    figure, (axis,) = canvas(columns=1, size=(mosaic.inches(width), 3.0))
    mean, sd = curve["yaw_mean"], curve["yaw_sd"].fillna(0)
    label = f"mean of {curve['n_samples'].max()} samples, ± one standard deviation"
    axis.errorbar(curve["coefficient"], mean, yerr=sd, color="C0", marker="o", capsize=3, label=label)
    axis.axhline(0, color="0.6", linewidth=0.8)
    axis.set_xlabel("coefficient of the turn vector")
    axis.set_ylabel("predicted yaw, degrees")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    return mosaic.plotted(figure)


def _not_known(columns: tuple[str, ...]) -> Drawn:
    """Of a profile whose images come without truth, and for which nobody has annotated samples."""
    drawn = empty(NOT_KNOWN, columns)
    return Drawn(figure=drawn.figure, metrics={"n_shown": 0}, numbers=drawn.numbers)
