"""Samples of two techniques beside each other, and test errors over training: what is drawn, left out and counted."""

import hashlib

import made_results as made
import made_semisupervised as semisup
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.reporting import drawing, improved_figures
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.improved_figures import CURVE, DATASETS, HALF, HALVES, KEYS, SCALE, semisup_errors
from pipeline.reporting.mosaic import GAP_PX, MARGIN_PX
from pipeline.reporting.rows import NOT_RUN
from pipeline.training import semisupervised, semisupervised_losses

MOST_BYTES = 500_000  # of a picture in Git
RUNS = {
    "improved_fig3": ("mnist-100", "mb_mnist"),
    "improved_fig4": ("cifar10-4000", "mb_cifar10"),
    "improved_fig5": ("svhn-1000", "mb_svhn"),
}


def seen(figure):
    return np.asarray(figure.convert("RGB"))


def tiles_of(figure, half, *, n_rows=10, side=8):
    """The shade in the middle of each place of a half, its rows counted from the bottom margin."""
    step = SCALE * side + GAP_PX
    left = MARGIN_PX + half * (10 * step - GAP_PX + 2 * MARGIN_PX)
    picture = seen(figure)[:, :, 0]
    top = len(picture) - MARGIN_PX - (n_rows * step - GAP_PX)
    middle = SCALE * side // 2
    return [[picture[top + row * step + middle, left + c * step + middle] for c in range(10)] for row in range(n_rows)]


# ---- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_feature_matching_is_left_and_minibatch_discrimination_right(tmp_path, name):
    left, right = RUNS[name]
    shades = np.broadcast_to(np.arange(101, 201, dtype=np.uint8)[:, None, None, None], (100, 8, 8, 1))
    semisup.write_images(tmp_path, left, members=((2, 1), (2, 5)))
    semisup.write_images(tmp_path, right, images=shades[np.newaxis], members=((0, 3),))
    drawn = FIGURES[name](tmp_path)
    assert tiles_of(drawn.figure, 0) == [[1 + 10 * row + column for column in range(10)] for row in range(10)]
    assert tiles_of(drawn.figure, 1) == [[101 + 10 * row + column for column in range(10)] for row in range(10)]
    assert drawn.numbers[["half", "run", "split", "seed"]].to_numpy().tolist() == [
        ["feature_matching", left, 2, 1], ["minibatch_discrimination", right, 0, 3],
    ]  # fmt: skip
    assert drawn.numbers.columns.tolist() == list(HALF)
    assert (drawn.metrics["scale"], drawn.metrics["n_colours"]) == (2, 200)


def test_the_first_network_is_shown(tmp_path):
    images = np.stack([np.full((4, 8, 8, 3), 110, np.uint8), np.full((4, 8, 8, 3), 120, np.uint8)])
    semisup.write_images(tmp_path, "svhn-1000", images=images, members=((0, 0), (0, 1)))
    semisup.write_images(tmp_path, "mb_svhn")
    picture = seen(FIGURES["improved_fig5"](tmp_path).figure)
    assert (picture == 110).all(axis=-1).sum() == 4 * 16 * 16
    assert not (picture == 120).all(axis=-1).any()


@pytest.fixture
def said(monkeypatch):
    """All words of the pictures."""
    found = []

    def recorded(text, *, _words=improved_figures.mosaic.words, **options):
        found.append(text)
        return _words(text, **options)

    monkeypatch.setattr(improved_figures.mosaic, "words", recorded)
    return found


def test_titles_name_run_split_and_seed(tmp_path, said):
    semisup.write_images(tmp_path, "mnist-100", members=((4, 7),))
    semisup.write_images(tmp_path, "mb_mnist")
    FIGURES["improved_fig3"](tmp_path)
    assert said == [
        "feature matching\nrun mnist-100, split 4, seed 7", "minibatch discrimination\nrun mb_mnist, split 0, seed 0",
    ]  # fmt: skip


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_half_is_left_out_with_a_sentence(tmp_path, said, missing):
    there, absent = RUNS["improved_fig4"][1 - missing], RUNS["improved_fig4"][missing]
    half, gone = list(HALVES)[1 - missing], list(HALVES)[missing]
    semisup.write_images(tmp_path, there, channels=3)
    drawn = FIGURES["improved_fig4"](tmp_path)
    assert f"{HALVES[gone]}, run {absent}: {NOT_RUN}" in said
    assert drawn.figure.width == 10 * (16 + GAP_PX) - GAP_PX + 2 * MARGIN_PX, "one half wide"
    assert half in drawn.metrics
    assert gone not in drawn.metrics
    assert drawn.numbers["run"].tolist() == [there]


def test_without_both_the_picture_says_so(tmp_path):
    np.savez(tmp_path / "mb_mnist.npz", images=np.empty((0, 100, 8, 8, 1), np.uint8), members=np.empty((0, 2)))
    for folder in (tmp_path, tmp_path / "nothing"):
        drawn = FIGURES["improved_fig3"](folder)
        assert drawn.figure.axes[0].texts[0].get_text() == NOT_RUN
        assert drawn.metrics == {"n_results": 0}
        assert drawn.numbers.columns.tolist() == list(HALF)


def test_few_samples_fill_few_rows_and_more_than_a_hundred_are_cut(tmp_path):
    semisup.write_images(tmp_path, "mnist-100", n=13)
    few = FIGURES["improved_fig3"](tmp_path)
    assert few.metrics["feature_matching"]["n_images"] == 13
    semisup.write_images(tmp_path, "mnist-100", n=130)
    many = FIGURES["improved_fig3"](tmp_path)
    assert many.metrics["feature_matching"]["n_images"] == 100
    assert many.figure.height - few.figure.height == 8 * (16 + GAP_PX)


@pytest.mark.parametrize("channels", [1, 3])
def test_variety_is_that_of_slow_loops(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 5, 5, channels), dtype=np.uint8)
    images[7] = images[2]
    nearest = []
    for i, one in enumerate(images):
        others = [other for j, other in enumerate(images) if j != i]
        nearest.append(min(np.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(one.flat, other.flat, strict=True)))
                           for other in others))  # fmt: skip
    shown = images.repeat(3 // channels, axis=-1)
    found = improved_figures._variety(shown)
    assert found == {
        "n_images": 9, "side_px": 5, "nearest_other": round(float(np.median(nearest)), 1), "duplicates_percent": 22.22,
    }  # fmt: skip
    assert found["nearest_other"] > 0


def test_equal_images_have_no_variety_and_one_image_has_nothing_to_say():
    images = np.full((4, 5, 5, 3), 9, np.uint8)
    assert improved_figures._variety(images)["nearest_other"] == 0
    assert improved_figures._variety(images)["duplicates_percent"] == 100
    assert improved_figures._variety(images[:1]) == {"n_images": 1, "side_px": 5}


def test_colours_move_little_and_the_file_fits_git(tmp_path):
    semisup.write_images(tmp_path, "cifar10-4000", images=made.scenes(1, 100, 32))
    noise = np.random.default_rng(0).integers(0, 256, (1, 100, 32, 32, 3), dtype=np.uint8)
    semisup.write_images(tmp_path, "mb_cifar10", images=noise)
    hashes = set()
    for _ in range(2):
        path = tmp_path / "figure.png"
        drawing.save(FIGURES["improved_fig4"](tmp_path).figure, path)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1, "the same samples, the same bytes"
    assert path.stat().st_size < MOST_BYTES
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")


@pytest.mark.parametrize(
    ("shape", "n_members"), [((2, 5, 8, 8, 1), 1), ((1, 5, 8, 8, 2), 1), ((5, 8, 8, 1), 5)]
)  # fmt: skip
def test_arrays_of_another_shape_are_refused(tmp_path, shape, n_members):
    semisup.write_images(tmp_path, "mnist-100", images=np.zeros(shape, np.uint8), members=((0, 0),) * n_members)
    with pytest.raises(InputError, match=r"mnist-100\.npz: found .*images .*run the stage that writes it again"):
        FIGURES["improved_fig3"](tmp_path)


# ---- errors ---------------------------------------------------------------------------------------------------------


def write_two_datasets(folder):
    semisup.write_run(folder, "mnist", "mnist-100", n_labels=100)
    semisup.write_run(folder, "mnist", "mb_mnist", n_labels=4000, alone=(), wrong=(9,), members=((0, 0),))
    semisup.write_run(folder, "mnist", "mnist-20", n_labels=20, wrong=(40, 61), alone=(44, 60))
    semisup.write_run(folder, "svhn", "svhn-2000", n_labels=2000)


def test_each_run_is_a_line_with_its_band_and_a_dotted_line(tmp_path):
    write_two_datasets(tmp_path)
    mnist, cifar10, svhn = semisup_errors(tmp_path).figure.axes
    assert [axis.get_title() for axis in (mnist, cifar10, svhn)] == list(DATASETS.values())
    assert (mnist.get_yscale(), svhn.get_yscale()) == ("log", "log")
    curves = [line for line in mnist.lines if line.get_linestyle() in ("-", "--")]
    assert [line.get_linestyle() for line in curves] == ["-", "-", "--"], "minibatch discrimination is dashed"
    dotted = [line for line in mnist.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in curves] == [[2, 4, 6]] * 3
    assert curves[1].get_ydata().tolist() == pytest.approx([18, 12, 6]), "mean of 5 and 7 % at the end"
    assert [line.get_ydata()[0] for line in dotted] == pytest.approx([26.0, 27.5])
    assert [line.get_color() for line in dotted] == [line.get_color() for line in curves[:2]]
    band = mnist.collections[1].get_paths()[0].vertices
    assert {tuple(corner) for corner in band.round(6)} >= {(2.0, 15.0), (2.0, 21.0), (6.0, 5.0), (6.0, 7.0)}
    assert [text.get_text() for text in mnist.get_legend().get_texts()] == [
        "20 labels, 2 networks", "100 labels, 2 networks", "4,000 labels, minibatch discrimination, 1 network",
        "the labelled images alone",
    ]  # fmt: skip


def test_what_has_not_run_is_left_out_with_a_sentence(tmp_path):
    write_two_datasets(tmp_path)
    figure = semisup_errors(tmp_path).figure
    assert figure.axes[1].texts[0].get_text() == NOT_RUN
    said = figure._supxlabel.get_text().replace("\n", " ")
    there = {"mnist-20", "mnist-100", "mb_mnist", "svhn-2000"}
    assert said == f"{NOT_RUN}: {', '.join(key for keys in KEYS.values() for key in keys if key not in there)}"


def test_nothing_is_said_to_be_missing_where_all_has_run(tmp_path):
    for dataset, keys in KEYS.items():
        for key in keys:
            semisup.write_run(tmp_path, dataset, key, n_labels=100)
    drawn = semisup_errors(tmp_path)
    assert drawn.figure._supxlabel is None
    assert [list(runs) for runs in drawn.metrics.values()] == [
        [key.replace("-", "_") for key in keys] for keys in KEYS.values()
    ]


def test_metrics_compare_with_the_labelled_images_alone(tmp_path):
    write_two_datasets(tmp_path)
    metrics = semisup_errors(tmp_path).metrics
    assert list(metrics) == ["mnist", "svhn"]
    assert list(metrics["mnist"]) == ["mnist_20", "mnist_100", "mb_mnist"]
    assert metrics["mnist"]["mnist_20"] == {
        "run": "mnist-20", "n_labels": 20, "n_networks": 2, "n_splits": 1, "n_steps": 240, "n_test_images": 200,
        "final_error_percent": 25.25, "lowest_percent": 20.0, "highest_percent": 30.5,
        "labels_only_error_percent": 26.0, "gain_points": 0.75, "gain_sd_points": 1.77, "n_gained": 1,
        "n_collapsed": 0, "lowest_unsupervised_loss": 0.3, "n_d_won": 0,
    }  # fmt: skip
    assert "gain_points" not in metrics["mnist"]["mb_mnist"]
    assert metrics["mnist"]["mb_mnist"]["final_error_percent"] == 4.5


def test_numbers_are_all_curves_in_one_long_table(tmp_path):
    write_two_datasets(tmp_path)
    numbers = semisup_errors(tmp_path).numbers
    assert numbers.columns.tolist() == list(CURVE)
    assert numbers["key"].unique().tolist() == ["mnist-20", "mnist-100", "mb_mnist", "svhn-2000"]
    own = numbers[numbers["key"] == "mnist-100"].set_index("epoch")
    assert own.loc[2, ["error_percent", "lowest", "highest", "error_percent_last"]].tolist() == [18, 15, 21, 19]
    assert own["dataset"].tolist() == ["mnist"] * 3


def test_alarms_of_training_are_counted(tmp_path):
    semisup.write_run(tmp_path, "svhn", "svhn-500", n_labels=500, collapsed=True, lowest_loss=0.002)
    own = semisup_errors(tmp_path).metrics["svhn"]["svhn_500"]
    assert (own["n_collapsed"], own["lowest_unsupervised_loss"], own["n_d_won"]) == (2, 0.002, 2)


@pytest.mark.parametrize(
    ("real_target", "least"), [(1.0, 0.0), (0.9, 0.16254), (0.5, 0.34657)]
)  # fmt: skip
def test_d_has_won_near_the_least_loss(tmp_path, real_target, least):
    """Half the entropy of the target: of 0.9, 0.5 (0.9 ln(1 / 0.9) + 0.1 ln(1 / 0.1))."""
    assert improved_figures.least_unsupervised_loss(real_target) == pytest.approx(least, abs=1e-5)
    for more, n_won in ((0.005, 2), (0.015, 0)):
        loss = least + more
        semisup.write_run(tmp_path, "svhn", "svhn-500", n_labels=500, lowest_loss=loss, real_target=real_target)
        assert semisup_errors(tmp_path).metrics["svhn"]["svhn_500"]["n_d_won"] == n_won


def test_the_least_loss_is_that_of_training():
    for target in (0.3, 0.9, 1.0):
        theirs = semisupervised_losses.least_unsupervised_loss(target)
        assert improved_figures.least_unsupervised_loss(target) == theirs
    assert improved_figures.D_HAS_WON == semisupervised.D_HAS_WON


def test_a_single_test_is_a_point_with_a_bar_beside_the_others(tmp_path):
    for n in (500, 1000):
        semisup.write_run(tmp_path, "svhn", f"svhn-{n}", n_labels=n, epochs=(1,))
    semisup.write_run(tmp_path, "svhn", "mb_svhn", n_labels=n, epochs=(1,), wrong=(9,), alone=(), members=((0, 0),))
    axis = semisup_errors(tmp_path).figure.axes[2]
    points = [bar.lines[0] for bar in axis.containers]
    assert [point.get_marker() for point in points] == ["o", "o", "D"]
    assert all(point.get_markersize() >= 6 for point in points)
    assert len({float(point.get_xdata()[0]) for point in points}) == 3
    assert all(abs(float(point.get_xdata()[0]) - 1) < 0.05 for point in points)
    ends = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert ends.tolist() == pytest.approx([5.0, 7.0])
    assert axis.get_xlim()[0] == 0
    assert axis.get_legend().get_texts()[-1].get_text() == "the labelled images alone"


@pytest.mark.parametrize("low", [0.2, 0.25, 0.5, 1.3, 2.01, 3.0, 5.01, 8.8, 12.0, 20.0, 49.0])
@pytest.mark.parametrize("ratio", [1.15, 1.5, 2, 3, 4, 5, 9.9, 10, 20, 60, 300, 5000])
def test_three_to_five_errors_stand_on_the_axis(low, ratio):
    ticks = improved_figures._ticks(low, low * ratio)
    assert 3 <= len(ticks) <= 5
    assert ticks == sorted(ticks)
    assert low <= ticks[0]
    assert ticks[-1] <= low * ratio


def test_the_axes_begin_at_0_and_have_the_chosen_errors(tmp_path):
    write_two_datasets(tmp_path)
    mnist = semisup_errors(tmp_path).figure.axes[0]
    assert mnist.get_xlim()[0] == 0
    assert 3 <= len(mnist.get_yticks()) <= 5
    assert len(mnist.get_yticks(minor=True)) == 0


def test_a_run_of_ones_own_comes_after_the_tables_runs(tmp_path):
    semisup.write_run(tmp_path, "mnist", "mnist-100", n_labels=100)
    semisup.write_run(tmp_path, "mnist", "c0_mnist", n_labels=100)
    drawn = semisup_errors(tmp_path)
    assert list(drawn.metrics["mnist"]) == ["mnist_100", "c0_mnist"]
    labels = [text.get_text() for text in drawn.figure.axes[0].get_legend().get_texts()]
    assert labels[1] == "c0_mnist: 100 labels, 2 networks"


def test_runs_of_table_3_are_left_out(tmp_path):
    """Those without labels have no error at all; the others are judged by their samples."""
    semisup.write_run(tmp_path, "cifar10", "cifar10-1000", n_labels=1000)
    semisup.write_run(tmp_path, "cifar10", "is_ours", n_labels=1000)
    assert list(semisup_errors(tmp_path).metrics["cifar10"]) == ["cifar10_1000"]


def test_an_error_of_0_is_drawn_at_half_an_image(tmp_path):
    semisup.write_run(tmp_path, "mnist", "mnist-200", n_labels=200, wrong=(0, 0), alone=(0, 0))
    drawn = semisup_errors(tmp_path)
    solid, dotted = drawn.figure.axes[0].lines[:2]
    assert solid.get_ydata().tolist() == [0.25] * 3
    assert dotted.get_ydata()[0] == 0.25
    assert drawn.metrics["mnist"]["mnist_200"]["final_error_percent"] == 0
    assert drawn.metrics["mnist"]["mnist_200"]["n_gained"] == 0, "as many errors are no gain"
    assert drawn.numbers["error_percent"].tolist() == [0, 0, 0]


def test_without_any_run_the_picture_says_so(tmp_path):
    (tmp_path / "mnist").mkdir()
    for folder in (tmp_path, tmp_path / "nothing"):
        drawn = semisup_errors(folder)
        assert drawn.figure.axes[0].texts[0].get_text() == NOT_RUN
        assert drawn.metrics == {"n_results": 0}
        assert drawn.numbers.columns.tolist() == list(CURVE)


def test_same_results_same_bytes(tmp_path):
    write_two_datasets(tmp_path)
    for name in ("a.png", "b.png"):
        drawing.save(semisup_errors(tmp_path).figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", ["run.json", "logits.npz"])
def test_half_a_results_folder_is_refused(tmp_path, name):
    write_two_datasets(tmp_path)
    (tmp_path / "svhn/svhn-2000" / name).unlink()
    with pytest.raises(
        InputError, match=r"svhn-2000: run.json, errors.parquet or logits.npz is missing; run its stage"
    ):
        semisup_errors(tmp_path)


def test_results_of_different_networks_are_refused(tmp_path):
    semisup.write_run(tmp_path, "mnist", "mnist-50", n_labels=50)
    path = tmp_path / "mnist/mnist-50"
    errors = pd.read_parquet(path / "errors.parquet")
    errors.iloc[1:].to_parquet(path / "errors.parquet")
    with pytest.raises(InputError, match=r"mnist-50: 2 networks, but errors of \[1, 2, 2\] networks by epoch"):
        semisup_errors(tmp_path)
    semisup.write_run(tmp_path, "mnist", "mnist-50", n_labels=50, alone=(1, 2, 3))
    with pytest.raises(InputError, match="3 networks trained on labelled images alone beside 2"):
        semisup_errors(tmp_path)


def test_errors_without_a_column_are_refused(tmp_path):
    semisup.write_run(tmp_path, "mnist", "mnist-50", n_labels=50)
    path = tmp_path / "mnist/mnist-50/errors.parquet"
    pd.read_parquet(path).drop(columns="error_percent_last").to_parquet(path)
    with pytest.raises(InputError, match=r"errors\.parquet: found columns .*; expected also error_percent_last"):
        semisup_errors(tmp_path)
