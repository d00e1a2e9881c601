"""Figures of DCGAN's section 6 from made-up results: layout, numbers, and what is said where there is nothing."""

import hashlib
import json

import made_results as made
import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.records import slug, write_csv, write_metrics
from pipeline.internals import arithmetic, face_attributes, forgetting, guided_backprop, part_detector, turn
from pipeline.reporting import drawing, inside_figures, latent_figures, mosaic, sample_grids
from pipeline.reporting.drawing import canvas
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.mosaic import GAP_PX, MARGIN_PX
from pipeline.reporting.result_files import NOT_KEPT, NOT_KNOWN
from pipeline.reporting.rows import NOT_RUN


def write_trained(folder, run, n_images, side=8):
    np.savez(folder / f"{run}.npz", images=made.numbered(n_images, side))


def write_all_distances(folder):
    for run in sample_grids.RUNS:
        made.write_distances(folder, run)


WRITERS = {
    "dcgan_fig2": made.write_samples,
    "dcgan_fig3": made.write_samples,
    "dcgan_fig4": made.write_walk,
    "dcgan_fig4_faces": lambda folder: made.write_walk(folder, "dcgan_faces"),
    "dcgan_fig5": made.write_guided,
    "dcgan_fig6": made.write_forgetting,
    "dcgan_fig7": made.write_arithmetic,
    "dcgan_fig8": made.write_turn,
    "dcgan_fig10": lambda folder: write_trained(folder, "dcgan_faces", 196),
    "dcgan_fig11": lambda folder: write_trained(folder, "dcgan_imagenet", 400),
    "sample_distances": write_all_distances,
}
UNKNOWN = {
    "dcgan_fig6": lambda folder: made.write_forgetting(folder, pictures=False, judged=False, labelled=False),
    "dcgan_fig7": lambda folder: made.write_arithmetic(folder, pictures=False, judged=False),
    "dcgan_fig8": lambda folder: made.write_turn(folder, pictures=False, judged=False),
}


def shades(picture):
    """int (H, W): the red of every pixel; tiles of made_results.numbered are 1 to N_SHADES, paper 255."""
    return np.asarray(picture.convert("RGB")).astype(int)[..., 0]


def tiles_of(picture, *, rows, columns, side, left=MARGIN_PX):
    """The shade of each tile of a sheet whose rows begin ``left`` pixels from the edge."""
    seen = shades(picture)
    column = seen[:, left]
    tops = [
        y for y in range(1, len(column)) if column[y] != column[y - 1] and (seen[y : y + side, left] == column[y]).all()
    ]
    tops = [y for y in tops if 0 < column[y] <= made.N_SHADES][:rows]
    assert len(tops) == rows
    return [[seen[y, left + x * (side + GAP_PX)] for x in range(columns)] for y in tops]


def test_made_results_have_the_columns_that_the_stages_write():
    assert list(forgetting.CLASSIFIER_COLUMNS) == made.CLASSIFIER
    assert list(forgetting.FORGETTING_COLUMNS) == made.FORGETTING
    assert list(part_detector.COLUMNS) == made.DETECTOR
    assert ["network", "feature", "n_top", *guided_backprop.MEASURES] == made.GUIDED
    assert list(arithmetic.COLUMNS) == made.ARITHMETIC
    assert list(face_attributes.COLUMNS) == made.ATTRIBUTES
    assert list(turn.COLUMNS) == made.TURN
    assert [slug(name) for name in face_attributes.BINARY] == made.OTHERS


@pytest.mark.parametrize("name", WRITERS)
def test_same_results_same_bytes_under_500_kb_and_metrics_that_json_knows(tmp_path, name):
    WRITERS[name](tmp_path)
    hashes = set()
    for copy in ("a", "b"):
        drawn = FIGURES[name](tmp_path)
        drawing.save(drawn.figure, tmp_path / f"{copy}.png")
        write_csv(tmp_path / f"{copy}.csv", drawn.numbers)
        write_metrics(tmp_path / f"{copy}.json", drawn.metrics)
        content = b"".join((tmp_path / f"{copy}.{kind}").read_bytes() for kind in ("png", "csv", "json"))
        hashes.add(hashlib.sha256(content).hexdigest())
        assert (tmp_path / f"{copy}.png").stat().st_size < 500_000
    assert len(hashes) == 1

    def refuse(constant):
        pytest.fail(f"{constant} is no number of JSON")

    metrics = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    keys = [key for key, _ in flat(metrics)]
    assert all(part == part.lower() and part.replace("_", "").isalnum() for key in keys for part in key)


def flat(node, above=()):
    return (
        [pair for key, child in node.items() for pair in flat(child, (*above, key))]
        if isinstance(node, dict)
        else [(above, node)]
    )


@pytest.mark.parametrize("name", WRITERS)
def test_what_has_not_run_says_so_with_the_same_columns(tmp_path, name):
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    WRITERS[name](full)
    drawn = FIGURES[name](empty)
    assert drawn.metrics == {"n_results": 0}
    assert [text.get_text() for text in drawn.figure.axes[0].texts] == [NOT_RUN]
    assert drawn.numbers.empty
    assert list(drawn.numbers.columns) == list(FIGURES[name](full).numbers.columns)


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_nothing_is_known_one_sentence_says_how_to_annotate(tmp_path, name):
    UNKNOWN[name](tmp_path)
    drawn = FIGURES[name](tmp_path)
    assert [text.get_text() for text in drawn.figure.axes[0].texts] == [NOT_KNOWN]
    assert drawn.metrics == {"n_shown": 0}
    assert drawn.numbers.empty
    drawing.save(drawn.figure, tmp_path / "figure.png")


@pytest.mark.parametrize(("name", "first"), [("dcgan_fig2", 1), ("dcgan_fig3", 61)])
def test_samples_are_five_rows_of_ten(tmp_path, name, first):
    made.write_samples(tmp_path, side=16)
    drawn = FIGURES[name](tmp_path)
    sheet = tiles_of(drawn.figure, rows=5, columns=10, side=16)
    assert sheet == [[first + 10 * row + column for column in range(10)] for row in range(5)]
    assert drawn.figure.width == 10 * 16 + 9 * GAP_PX + 2 * MARGIN_PX
    epoch = 1 if name == "dcgan_fig2" else 5
    assert drawn.metrics == {"epoch": epoch, "n_images": 50, "side_px": 16, "scale": 1, "n_colours": 50}


def test_released_networks_kept_no_samples(tmp_path):
    made.write_samples(tmp_path, images=np.zeros((0, 0, 8, 8, 3), np.uint8), epochs=())
    drawn = FIGURES["dcgan_fig2"](tmp_path)
    assert [text.get_text() for text in drawn.figure.axes[0].texts] == [NOT_KEPT]
    assert drawn.metrics == {"n_epochs": 0}


@pytest.mark.parametrize(
    ("name", "run", "columns", "side"),
    [("dcgan_fig10", "dcgan_faces", 14, 64), ("dcgan_fig11", "dcgan_imagenet", 20, 32)],
)
def test_squares_of_samples_have_the_papers_size(tmp_path, name, run, columns, side):
    write_trained(tmp_path, run, columns**2 + 3, side)
    drawn = FIGURES[name](tmp_path)
    assert drawn.figure.width == columns * (side + GAP_PX) - GAP_PX + 2 * MARGIN_PX
    sheet = tiles_of(drawn.figure, rows=columns, columns=columns, side=side)
    assert sheet[0] == list(range(1, columns + 1))
    assert sheet[-1][-1] == (columns**2 - 1) % made.N_SHADES + 1
    n_colours = min(columns**2, made.N_SHADES)
    assert drawn.metrics == {"n_images": columns**2, "side_px": side, "scale": 1, "n_colours": n_colours}
    assert drawn.numbers["scale"].tolist() == [1]


def test_a_row_of_the_walk_is_a_segment(tmp_path):
    made.write_walk(tmp_path, frames=made.numbered(24, 32), columns=6)
    sheet = tiles_of(FIGURES["dcgan_fig4"](tmp_path).figure, rows=4, columns=6, side=32)
    assert sheet == [[1 + 6 * row + column for column in range(6)] for row in range(4)]


def test_steps_are_set_against_random_pairs(tmp_path):
    made.write_walk(tmp_path)
    assert FIGURES["dcgan_fig4"](tmp_path).metrics == {
        "n_frames": 100, "n_random_pairs": 9, "scale": 1, "n_colours": 100,
        "features": {
            "largest_step": 3.0, "median_step": 1.0, "median_random_pair": 14.0,
            "largest_step_percent": 21.43, "median_step_percent": 7.14,
        },
        "pixels": {
            "largest_step": 0.5, "median_step": 0.5, "median_random_pair": 5.0,
            "largest_step_percent": 10.0, "median_step_percent": 10.0,
        },
    }  # fmt: skip


def test_guided_panels_stand_random_left_trained_right(tmp_path):
    panels = {"random": np.full((6, 5, 61, 61, 3), 10, np.uint8), "trained": np.full((6, 5, 61, 61, 3), 200, np.uint8)}
    made.write_guided(tmp_path, panels=panels, known=False)
    seen = shades(FIGURES["dcgan_fig5"](tmp_path).figure)
    width = 5 * (61 + GAP_PX) - GAP_PX
    assert seen.shape[1] == 2 * width + 4 * MARGIN_PX
    y = seen.shape[0] - MARGIN_PX - 1
    left, right = seen[:, MARGIN_PX : MARGIN_PX + width], seen[:, -MARGIN_PX - width : -MARGIN_PX]
    assert [set(np.unique(half[y])) for half in (left, right)] == [{10, 255}, {200, 255}]
    assert (left == 10).sum() == (right == 200).sum() == 30 * 61**2


def test_shares_in_boxes_and_their_difference_have_intervals(tmp_path):
    made.write_guided(tmp_path)
    metrics = FIGURES["dcgan_fig5"](tmp_path).metrics
    assert metrics["n_features"] == 16
    trained, random = (metrics[name]["energy_in_boxes"] for name in ("trained", "random"))
    assert (trained["mean_percent"], random["mean_percent"]) == (57.5, 27.5)
    spread = 1.96 * np.arange(16).std() / 4  # of a mean of 16, in percent points
    assert trained["low_percent"] == pytest.approx(57.5 - spread, abs=0.4)
    assert trained["high_percent"] == pytest.approx(57.5 + spread, abs=0.4)
    for measure in inside_figures.MEASURES:
        difference = metrics["trained_minus_random"][measure]
        assert difference["mean_points"] == 30.0
        assert difference["low_points"] == pytest.approx(30 - 2**0.5 * spread, abs=0.4), "features are not paired"
        assert difference["high_points"] == pytest.approx(30 + 2**0.5 * spread, abs=0.4)
    assert metrics["trained"]["excess_in_boxes"]["mean_points"] == 57.5
    assert metrics["trained"]["area_of_boxes_percent"] == 25.0


def test_networks_of_different_size_are_compared(tmp_path):
    made.write_guided(tmp_path)
    frame = pd.read_parquet(tmp_path / "dcgan_lsun.parquet")
    frame[(frame["network"] == "trained") | (frame["feature"] < 8)].to_parquet(tmp_path / "dcgan_lsun.parquet")
    metrics = FIGURES["dcgan_fig5"](tmp_path).metrics
    assert metrics["random"]["energy_in_boxes"]["mean_percent"] == 23.5
    assert metrics["trained_minus_random"]["energy_in_boxes"]["mean_points"] == 34.0


def test_only_the_energy_has_a_line_at_chance(tmp_path):
    made.write_guided(tmp_path)
    known = pd.read_parquet(tmp_path / "dcgan_lsun.parquet")
    _, axes = canvas(columns=2, size=(6.0, 3.0))
    for axis, measure in zip(axes, ("centre_in_boxes", "energy_in_boxes"), strict=True):
        inside_figures._draw_shares(axis, known, measure)
    dotted = [[line for line in axis.lines if line.get_linestyle() == ":"] for axis in axes]
    assert [len(lines) for lines in dotted] == [0, 1]
    assert dotted[1][0].get_xdata()[0] == 25.0


def test_centres_of_all_or_no_responses_have_a_bin_of_their_own():
    known = pd.DataFrame({"network": "trained", "centre_in_boxes": [0.0, 0.1, 0.1, 1.0], "area_of_boxes": 0.2})
    _, (axis,) = canvas(columns=1, size=(6.0, 3.0))
    inside_figures._draw_shares(axis, known, "centre_in_boxes")
    counts, _ = np.histogram(100 * known["centre_in_boxes"], inside_figures.BINS["centre_in_boxes"])
    assert counts.tolist() == [1, 2, *[0] * 8, 1]
    outline = max(axis.patches, key=lambda patch: patch.get_xy()[:, 1].max()).get_xy()
    assert outline[outline[:, 1] == 2][:, 0].tolist() == [5, 15]


def test_guided_backprop_without_boxes_shows_the_panels_alone(tmp_path):
    made.write_guided(tmp_path, known=False)
    alone = FIGURES["dcgan_fig5"](tmp_path)
    assert alone.metrics == {"n_features": 16, "n_shown": 6, "scale": 1, "n_colours": 30}
    made.write_guided(tmp_path)
    assert FIGURES["dcgan_fig5"](tmp_path).figure.height > alone.figure.height + 200, "with boxes there is a plot"


def test_an_interval_leaves_out_what_is_not_known(tmp_path):
    made.write_guided(tmp_path)
    frame = pd.read_parquet(tmp_path / "dcgan_lsun.parquet")
    frame.loc[frame["feature"] > 2, "excess_in_bed"] = np.nan
    frame["excess_in_window"] = np.nan
    frame.to_parquet(tmp_path / "dcgan_lsun.parquet")
    metrics = FIGURES["dcgan_fig5"](tmp_path).metrics
    assert metrics["trained"]["excess_in_bed"]["mean_points"] == 51.0
    assert not any("excess_in_window" in metrics[name] for name in ("trained", "random", "trained_minus_random"))


def test_forgetting_shows_the_papers_rows_first(tmp_path):
    images = np.stack([np.full((10, 16, 16, 3), shade, np.uint8) for shade in (10, 20, 30, 40, 45)])
    made.write_forgetting(tmp_path, images=images, judged=False)
    seen = shades(FIGURES["dcgan_fig6"](tmp_path).figure)
    column = seen[:, MARGIN_PX + 4]
    assert [int(shade) for shade in dict.fromkeys(column) if 0 < shade < 50 and (column == shade).sum() >= 16] == [
        10,
        20,
        30,
        40,
        45,
    ]
    assert seen.shape[1] == 10 * 16 + 9 * GAP_PX + 2 * MARGIN_PX


def test_windows_fall_more_than_with_random_maps(tmp_path):
    made.write_forgetting(tmp_path)
    metrics = FIGURES["dcgan_fig6"](tmp_path).metrics
    own = metrics["layer_8x8"]
    assert own["before"] == {"windows": 100, "beds": 110}
    assert (own["n_maps"], own["windows_dropped"]["n_dropped"]) == (20, 7)
    assert own["windows_dropped"]["windows_fall_percent"] == 70.0
    assert own["windows_dropped"]["beds_fall_percent"] == 10.0
    random = own["random_dropped"]
    assert (random["windows"], random["n_draws"], random["windows_fall_percent"]) == (88.0, 4, 12.0)
    assert random["windows_sd"] == pytest.approx(np.std([85, 87, 89, 91], ddof=1), abs=0.01)
    assert own["classifier_random"] == {
        "n_boxes": 52, "n_positive": 300, "n_negative": 300, "n_positive_weights": 7, "accuracy_percent": 90.0,
        "guessing_percent": 50.0,
    }  # fmt: skip
    matched = own["classifier_matched"]
    assert (matched["accuracy_percent"], matched["guessing_percent"], matched["n_positive_weights"]) == (60.0, 75.0, 5)
    assert metrics["layer_16x16"]["n_maps"] == 12
    assert metrics["detector"]["counter"]["window"] == {
        "n_true": 150, "n_found": 140, "n_without": 50, "n_found_without": 6, "precision_percent": 90.0,
        "recall_percent": 84.0, "mean_iou": 0.75,
    }  # fmt: skip
    assert metrics["detector"]["labeller"]["bed"]["precision_percent"] == 80.0


def test_forgetting_with_drawn_boxes_and_no_detector_counts_nothing(tmp_path):
    made.write_forgetting(tmp_path, judged=False)
    drawn = FIGURES["dcgan_fig6"](tmp_path)
    assert list(drawn.metrics["layer_8x8"]) == ["classifier_random", "classifier_matched"]
    assert "detector" not in drawn.metrics
    assert drawn.numbers.empty


def test_nothing_detected_before_has_no_fall(tmp_path):
    made.write_forgetting(tmp_path)
    frame = pd.read_parquet(tmp_path / "forgetting.parquet")
    frame["windows"] = 0
    frame.to_parquet(tmp_path / "forgetting.parquet")
    own = FIGURES["dcgan_fig6"](tmp_path).metrics["layer_8x8"]["windows_dropped"]
    assert "windows_fall_percent" not in own
    assert own["beds_fall_percent"] == 10.0


def test_bars_of_forgetting_are_the_detections(tmp_path):
    made.write_forgetting(tmp_path)
    _, (axis,) = canvas(columns=1, size=(6.0, 3.0))
    inside_figures._draw_forgetting(axis, pd.read_parquet(tmp_path / "forgetting.parquet"))
    heights = [bar.get_height() for bar in axis.patches]
    assert heights == [
        shown for group in ((100, 110), (30, 99), (88, 104), (45, 108), (96, 109)) for shown in group * len(made.LAYERS)
    ]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "all maps", "paper's rule", "as many random maps", "our rule", "as many random maps as ours",
    ]  # fmt: skip
    assert axis.get_ylabel() == "images of 120 with one detected"


def test_arithmetic_shows_exemplars_means_and_results(tmp_path):
    made.write_arithmetic(tmp_path, faces=made.numbered(2, 30, 16), judged=False)
    drawn = FIGURES["dcgan_fig7"](tmp_path)
    side = 2 * 16
    column = tiles_of(drawn.figure, rows=10, columns=1, side=side)
    ours = [1, 2, 3, 10, 22]  # exemplars of A, their mean on z, and on pixels
    assert column == [[shade] for shade in [*ours, *(shade + 30 for shade in ours)]]
    middle = tiles_of(drawn.figure, rows=8, columns=1, side=side, left=MARGIN_PX + 3 * (side + 30) + side + GAP_PX)
    assert [shade for (shade,) in middle] == [14, 17, 20, 25, 44, 47, 50, 55]  # middle column of the nine; on pixels
    assert drawn.metrics == {"n_shown": 2, "scale": 2, "n_colours": 50}
    assert drawn.numbers.empty


def test_the_font_has_the_signs():
    missing = mosaic.words("\ue000", width=30, size=26)
    shown = [mosaic.words(sign, width=30, size=26) for sign in latent_figures.SIGNS]
    assert not any(np.array_equal(sign, missing) for sign in shown)


def test_arithmetic_is_a_share_by_space_and_number_of_exemplars(tmp_path):
    made.write_arithmetic(tmp_path)
    metrics = FIGURES["dcgan_fig7"](tmp_path).metrics
    assert metrics["z"]["exemplars_3"] == {
        "n_problems": 200, "n_gained": 50, "n_lost": 10, "share_percent": 60.0, "low_percent": 53.0,
        "high_percent": 67.0,
    }  # fmt: skip
    assert list(metrics["pixels"]) == ["exemplars_1", "exemplars_3", "exemplars_9"]
    assert metrics["chance"]["exemplars_0"]["share_percent"] == 10.0
    assert metrics["attributes"] == {
        "smile": {"n_images": 480, "accuracy_percent": 95.0, "majority_percent": 55.0},
        "yaw": {"n_images": 480, "correlation": 0.93, "mean_absolute_error_deg": 4.2},
    }


def test_the_curve_of_arithmetic_has_intervals_and_controls(tmp_path):
    made.write_arithmetic(tmp_path)
    _, (axis,) = canvas(columns=1, size=(6.0, 3.0))
    latent_figures._draw_arithmetic(axis, pd.read_parquet(tmp_path / "arithmetic.parquet"))
    z, pixels = axis.containers
    assert [list(line.lines[0].get_ydata()) for line in (z, pixels)] == [
        pytest.approx([40, 60, 80]), pytest.approx([30, 30, 40]),
    ]  # fmt: skip
    assert axis.get_ylim()[0] < 0, "a control at 0 is seen"
    assert z.lines[2][0].get_segments()[1][:, 1].tolist() == pytest.approx([53, 67])
    assert sorted(text.get_text() for text in axis.get_legend().get_texts()) == sorted(
        [
            *(label for _, label in latent_figures.SOLVED.values()),
            *(label for _, label in latent_figures.CONTROLS.values()),
        ]
    )


def test_turned_heads_are_five_rows_of_eleven_with_their_yaw(tmp_path):
    made.write_turn(tmp_path, images=made.numbered(5, 11, 32))
    drawn = FIGURES["dcgan_fig8"](tmp_path)
    sheet = tiles_of(drawn.figure, rows=5, columns=11, side=32)
    assert sheet == [[1 + 11 * row + column for column in range(11)] for row in range(5)]
    own = 2 * (np.arange(6) - 2.5)
    assert drawn.metrics["yaw_at_minus_1"] == {"mean_deg": -20.0, "sd_deg": round(own.std(ddof=1), 2)}
    assert drawn.metrics["yaw_at_0"]["mean_deg"] == 0.0
    assert drawn.metrics["yaw_at_1"]["mean_deg"] == 20.0
    assert drawn.metrics["correlation_within_samples"] == 1.0
    yaw = (20 * np.linspace(-1, 1, 11) + own[:, np.newaxis]).reshape(-1)
    together = np.corrcoef(yaw, np.tile(np.linspace(-1, 1, 11), 6))[0, 1]
    assert drawn.metrics["correlation"] == pytest.approx(together, abs=1e-4)
    assert drawn.metrics["yaw_rises_percent"] == 100.0
    assert drawn.numbers["yaw_mean"].tolist() == pytest.approx(np.linspace(-20, 20, 11))


def test_what_else_changes_along_the_turn_is_counted(tmp_path):
    made.write_turn(tmp_path)
    changed = {"smile_percent": 16.67, "glasses_percent": 33.33, "light_hair_percent": 0.0}  # 1, 2 and 0 of 6
    assert FIGURES["dcgan_fig8"](tmp_path).metrics["changed"] == changed


def test_samples_of_several_turn_vectors_are_kept_apart(tmp_path):
    made.write_turn(tmp_path, n_draws=3)
    metrics = FIGURES["dcgan_fig8"](tmp_path).metrics
    assert (metrics["n_samples"], metrics["n_vectors"]) == (18, 3)
    assert metrics["yaw_rise"] == {"mean_deg": 42.0, "sd_over_vectors_deg": 2.0}  # 40, 42, 44
    assert metrics["correlation_within_samples"] == 1.0
    made.write_turn(tmp_path)
    assert FIGURES["dcgan_fig8"](tmp_path).metrics["yaw_rise"] == {"mean_deg": 40.0}


def test_a_yaw_that_does_not_move_has_no_correlation_within_a_sample(tmp_path):
    made.write_turn(tmp_path)
    frame = pd.read_parquet(tmp_path / "turn.parquet")
    frame["yaw"] = frame["sample"].astype(float)
    frame.to_parquet(tmp_path / "turn.parquet")
    metrics = FIGURES["dcgan_fig8"](tmp_path).metrics
    assert (metrics["correlation_within_samples"], metrics["yaw_rises_percent"]) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["dcgan_fig7", "dcgan_fig8"])
def test_pictures_without_a_classifier_are_shown_without_numbers(tmp_path, name):
    writer = {"dcgan_fig7": made.write_arithmetic, "dcgan_fig8": made.write_turn}[name]
    writer(tmp_path, judged=False)
    drawn = FIGURES[name](tmp_path)
    assert list(drawn.metrics) == ["n_shown", "scale", "n_colours"]
    writer(tmp_path)
    assert FIGURES[name](tmp_path).figure.height > drawn.figure.height + 200, "with numbers there is a plot"


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_distances_are_over_the_number_of_samples(tmp_path, held_out):
    made.write_distances(tmp_path, "dcgan_faces", held_out=held_out)
    drawn = FIGURES["sample_distances"](tmp_path)
    metrics = drawn.metrics["dcgan_faces"]
    assert list(drawn.metrics) == ["dcgan_faces"]
    assert metrics["mean_distance"] == {
        "held_out": {"n_100": 10.0, "n_1000": 9.0, "n_10000": 8.0},
        "training": {"n_100": 9.0, "n_1000": 8.0, "n_10000": 7.0},
    }
    assert metrics["n_images"] == {"held_out": 50, "training": 80}
    over_n = drawn.numbers[drawn.numbers["log10_n_samples"].notna()]
    assert over_n["log10_n_samples"].tolist() == [2, 3, 4]
    assert over_n["dcgan_faces_held_out"].tolist() == [10, 9, 8]
    assert over_n["dcgan_lsun_held_out"].isna().all()
    left, right = drawn.figure.axes
    assert left.get_xscale() == "log"
    assert [text.get_text() for text in right.get_xticklabels()] == ["faces"]


def test_samples_nearer_to_training_images_than_held_out_ones_are_counted(tmp_path):
    made.write_distances(tmp_path)
    drawn = FIGURES["sample_distances"](tmp_path)
    near = drawn.metrics["dcgan_lsun"]["nearest_training_image"]
    assert near["features"] == {
        "n_samples": 5, "n_held_out": 9, "median_samples": 4.0, "median_held_out": 8.0, "ratio_of_medians": 0.5,
        "n_nearer_than_any_held_out": 2,  # 2 and 3 of the samples; the nearest held-out image is 4 away
    }  # fmt: skip
    assert near["pixels"]["ratio_of_medians"] == 0.4
    ranked = drawn.numbers[drawn.numbers["rank"].notna()]
    assert ranked["dcgan_lsun_nearest_of_samples"].dropna().tolist() == [2, 3, 4, 5, 6]
    assert ranked["dcgan_lsun_nearest_of_held_out"].tolist() == list(range(4, 13))


def test_other_arrays_and_columns_are_refused(tmp_path):
    np.savez(tmp_path / "dcgan_lsun.npz", frames=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(
        InputError, match=r"dcgan_lsun\.npz: found frames \(3, 8, 8\); expected frames with 4 dimensions"
    ):
        FIGURES["dcgan_fig4"](tmp_path)
    made.write_turn(tmp_path)
    pd.DataFrame({"sample": [1], "angle": [2.0]}).to_parquet(tmp_path / "turn.parquet")
    with pytest.raises(
        InputError, match=r"turn\.parquet: found columns sample, angle; expected also draw, coefficient, yaw"
    ):
        FIGURES["dcgan_fig8"](tmp_path)
