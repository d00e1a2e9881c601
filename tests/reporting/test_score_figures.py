"""Pictures of Improved GAN's Table 3 and Figure 6: what is drawn where, what is left out, what is counted."""

import made_results as made
import made_scores as scores
import numpy as np
import pytest
from PIL import Image

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.reporting import drawing, readings, score_figures
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.mosaic import GAP_PX, MARGIN_PX
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.score_figures import HALVES, IMAGENET, SAMPLES, SCORED
from pipeline.reporting.score_tables import RUNS
from pipeline.training import health

MOST_BYTES = 500_000  # of a picture in Git
GATE = {"sha256": "0" * 64, "gate": 11.237}


def seen(figure):
    return np.asarray(figure.convert("RGB"))


def shades(*shape, first=1):
    """uint8 (*shape, 8, 8, 3): image i is one shade."""
    n = int(np.prod(shape))
    levels = (np.arange(n) % 200 + first).astype(np.uint8).reshape(*shape, 1, 1, 1)
    return np.broadcast_to(levels, (*shape, 8, 8, 3)).copy()


@pytest.fixture
def said(monkeypatch):
    """All words of the pictures, in order, each time they are laid out."""
    found = []

    def recorded(text, *, _words=score_figures.mosaic.words, **options):
        found.append(text)
        return _words(text, **options)

    monkeypatch.setattr(score_figures.mosaic, "words", recorded)
    return found


# ---- samples of Table 3 ---------------------------------------------------------------------------------------------


def write_all(folder, *, n=70, n_seeds=2):
    """Of run k all images of the first seed have the shade 10 k + 1, those of the second 200."""
    for number, name in enumerate(scores.NAMES):
        images = np.full((1 if name == "real" else n_seeds, n, 8, 8, 3), 10 * number + 1, np.uint8)
        images[1:] = 200
        top = np.full((3, 8, 8, 3), 150, np.uint8)
        scores.write_score_samples(folder, name, images, top=top)


def test_a_block_a_row_in_the_tables_order_and_the_best_last(tmp_path, said):
    write_all(tmp_path)
    drawn = FIGURES["improved_table3_samples"](tmp_path)
    assert said == [*RUNS, "Our methods, the best"]
    picture = seen(drawn.figure)[:, :, 0]
    block, left = 8 * (8 + GAP_PX) - GAP_PX, MARGIN_PX
    columns = [left + i * (block + MARGIN_PX) + 4 for i in range(4)]
    where = {shade: np.argwhere(picture == shade) for shade in (1, 11, 21, 31, 41, 51, 61, 150)}
    for number, shade in enumerate(where):
        assert columns[number % 4] - 4 == where[shade][:, 1].min()
    tops = [found[:, 0].min() for found in where.values()]
    assert len(set(tops[:4])) == len(set(tops[4:])) == 1
    assert tops[0] < tops[4]
    assert len(where[1]) == 64 * 8 * 8, "8 x 8 images of 8 x 8 pixels"
    assert len(where[150]) == 3 * 8 * 8
    assert not (picture == 200).any(), "only the first seed is shown"
    assert drawn.numbers["run"].tolist() == [*scores.NAMES, "is_ours_top"]
    assert drawn.numbers.columns.tolist() == list(SAMPLES)


def test_samples_stand_in_their_order(tmp_path):
    scores.write_score_samples(tmp_path, "is_bn", shades(1, 70))
    picture = seen(FIGURES["improved_table3_samples"](tmp_path).figure)[:, :, 0]
    top = np.argwhere(picture == 1)[:, 0].min()
    step = 8 + GAP_PX
    found = [[int(picture[top + r * step, MARGIN_PX + c * step]) for c in range(8)] for r in range(7)]
    assert found == [[1 + 8 * r + c for c in range(8)] for r in range(7)]


def test_missing_rows_are_named_and_not_drawn(tmp_path, said):
    scores.write_score_samples(tmp_path, "is_bn", shades(1, 4))
    scores.write_score_samples(tmp_path, "real", shades(1, 4))
    drawn = FIGURES["improved_table3_samples"](tmp_path)
    assert said == ["Real data", "-VBN+BN", f"{NOT_RUN}: Our methods, -L+HA, -LS, -L, -MBF"]
    assert sorted(set(drawn.metrics) - {"scale", "n_colours"}) == ["is_bn", "real"]


def test_nothing_scored_is_said(tmp_path):
    for name, columns in (
        ("improved_table3_samples", SAMPLES), ("improved_table3_scores", SCORED), ("improved_fig6", IMAGENET),
    ):  # fmt: skip
        drawn = FIGURES[name](tmp_path / "nothing")
        assert drawn.figure.axes[0].texts[0].get_text() == NOT_RUN
        assert drawn.metrics == {"n_results": 0}
        assert drawn.numbers.columns.tolist() == list(columns)


def test_variety_is_that_of_slow_loops():
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 5, 3), dtype=np.uint8)
    images[7] = images[2]
    distances = {
        (i, j): np.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(one.flat, other.flat, strict=True)))
        for i, one in enumerate(images)
        for j, other in enumerate(images)
        if i != j
    }
    nearest = [min(d for (i, _), d in distances.items() if i == k) for k in range(9)]
    assert score_figures._variety(images) == {
        "n_images": 9, "side_px": 5, "mean_distance": round(float(np.mean(list(distances.values()))), 1),
        "nearest_other": round(float(np.median(nearest)), 1), "duplicates_percent": 22.22,
    }  # fmt: skip
    assert score_figures._variety(images[:1]) == {"n_images": 1, "side_px": 5}


def test_diversity_is_a_share_of_that_of_as_many_real_images(tmp_path):
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (1, 30, 8, 8, 3), dtype=np.uint8)
    scores.write_score_samples(tmp_path, "real", real)
    scores.write_score_samples(tmp_path, "is_ours", real // 2)
    scores.write_score_samples(tmp_path, "is_bn", np.repeat(real[:, :3], 10, axis=1))
    scores.write_score_samples(tmp_path, "is_nolabels", real[:, :20])
    metrics = FIGURES["improved_table3_samples"](tmp_path).metrics
    assert metrics["real"]["diversity"] == 1
    assert metrics["is_ours"]["diversity"] == pytest.approx(0.5, abs=0.01)
    assert metrics["is_bn"]["diversity"] == 0, "three images, ten times each"
    assert metrics["is_bn"]["mean_distance"] > 0.5 * metrics["real"]["mean_distance"], "what a mean does not show"
    assert metrics["is_bn"]["duplicates_percent"] == 100
    assert "diversity" not in metrics["is_nolabels"], "of fewer images it would be another measure"
    assert readings.COLLAPSED == health.COLLAPSED
    theirs = health.diversity(real[0] // 2, real[0])
    assert metrics["is_ours"]["diversity"] == pytest.approx(theirs, abs=1e-3)


def test_grey_images_are_drawn_too(tmp_path):
    scores.write_score_samples(tmp_path, "is_ours", shades(1, 4)[..., :1])
    assert FIGURES["improved_table3_samples"](tmp_path).metrics["is_ours"]["n_images"] == 4


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((4, 8, 8, 3), np.uint8), "top": np.zeros((1, 8, 8, 3), np.uint8)}, "images with 5 dim"),
        ({"top": np.zeros((1, 8, 8, 3), np.uint8)}, "images with 5 dimensions"),
        ({"images": np.zeros((1, 4, 8, 8, 3), np.uint8)}, "top with 4 dimensions"),
        ({"images": np.zeros((1, 4, 8, 8, 3)), "top": np.zeros((1, 8, 8, 3))}, "expected uint8 images of 1 or 3"),
        ({"images": np.zeros((1, 4, 8, 8, 2), np.uint8), "top": np.zeros((0,))}, "expected uint8 images of 1 or 3"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "is_ours.npz", **arrays)
    with pytest.raises(InputError, match=rf"is_ours\.npz.*{said}"):
        FIGURES["improved_table3_samples"](tmp_path)


@pytest.mark.parametrize("name", ["is_ours", "imagenet128_improved"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no archive"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, name, content):
    (tmp_path / f"{name}.npz").write_bytes(content)
    figure = "improved_table3_samples" if name == "is_ours" else "improved_fig6"
    with pytest.raises(InputError, match=rf"{name}\.npz: not a whole file of arrays .*; remove it and run the stage"):
        FIGURES[figure](tmp_path)


# ---- scores of Table 3 ----------------------------------------------------------------------------------------------


def points(axis):
    """(place, score, half the bar) of each seed that is drawn, from left to right."""
    found = []
    for bar in axis.containers:
        if hasattr(bar, "lines") and bar.lines[0] is not None:
            ends = [segment[:, 1] for segment in bar.lines[2][0].get_segments()]
            middles = zip(bar.lines[0].get_xdata(), bar.lines[0].get_ydata(), ends, strict=True)
            found += [(x, y, (high - low) / 2) for x, y, (low, high) in middles]
    return found


def test_the_papers_bars_are_left_and_our_seeds_right(tmp_path):
    scores.write_table3(tmp_path, split_sd=0.2)
    drawn = FIGURES["improved_table3_scores"](tmp_path)
    left, right = drawn.figure.axes
    heights = [patch.get_y() + patch.get_height() for patch in left.patches]
    assert heights == pytest.approx([published.value for published in papers.IMPROVED_TABLE3])
    assert len(left.patches) == 7
    found = points(right)
    assert len(found) == 1 + 6 * 3
    assert [y for _, y, _ in found[1:4]] == pytest.approx([4.9, 5.0, 5.1])
    assert [bar for *_, bar in found] == pytest.approx([0.2] * 19)
    assert [round(x) for x, *_ in found] == [0, *(row for row in range(1, 7) for _ in range(3))]
    assert [text.get_text() for text in right.get_xticklabels()] == list(RUNS)
    assert right.get_ylabel() == "classifier score"
    assert "another measure" in right.get_title()
    assert "80.5 % of test images" in right.get_title()
    assert left.get_ylabel() == "Inception score"
    assert "none of ours" in left.get_title()
    assert left.get_ylim()[0] == right.get_ylim()[0] == 1
    assert not right.patches


def test_numbers_keep_the_measures_apart(tmp_path):
    scores.write_table3(tmp_path, inception=GATE, inception_means=(7.0, 7.2, 7.4), split_sd=0.2)
    drawn = FIGURES["improved_table3_scores"](tmp_path)
    numbers = drawn.numbers
    assert numbers.columns.tolist() == list(SCORED)
    l_row = numbers[numbers["row"] == "-L"]
    assert l_row["seed"].tolist() == [0, 1, 2]
    assert l_row["classifier_score"].tolist() == pytest.approx([2.9, 3.0, 3.1])
    assert l_row["inception_score"].tolist() == pytest.approx([7.0, 7.2, 7.4])
    assert l_row["inception_score_split_sd"].tolist() == pytest.approx([0.2] * 3)
    assert l_row["paper_inception_score"].tolist() == [4.36] * 3
    assert numbers["row"].tolist() == ["Real data", *(row for row in list(RUNS)[1:] for _ in range(3))]
    left = drawn.figure.axes[0]
    assert "dots: ours" in left.get_title()
    assert drawn.metrics["is_bn"] == {
        "n_images": 50_000, "inception_score_n_seeds": 3, "inception_score": 7.2, "inception_score_seed_sd": 0.2,
        "inception_score_split_sd": 0.2, "classifier_score_n_seeds": 3, "classifier_score": 4.5,
        "classifier_score_seed_sd": 0.1, "classifier_score_split_sd": 0.2,
    }  # fmt: skip


def test_rows_without_scores_are_named(tmp_path):
    scores.write_scores(tmp_path, "is_ours", (3.0,))
    drawn = FIGURES["improved_table3_scores"](tmp_path)
    assert drawn.figure.axes[1].get_xlabel() == f"{NOT_RUN}: Real data, -VBN+BN, -L+HA, -LS, -L, -MBF"
    assert list(drawn.metrics) == ["is_ours"]
    assert "classifier_score_seed_sd" not in drawn.metrics["is_ours"]
    assert drawn.numbers["inception_score"].isna().all()
    assert drawn.numbers["classifier_score"].tolist() == pytest.approx([3.0])


# ---- ImageNet -------------------------------------------------------------------------------------------------------


def test_plain_dcgan_is_left_and_the_improved_model_right(tmp_path, said):
    for run, level in (("imagenet128_dcgan", 50), ("imagenet128_improved", 90)):
        images = np.stack([np.full((20, 16, 16, 3), shade, np.uint8) for shade in (level, level + 7)])
        np.savez(tmp_path / f"{run}.npz", images=images, epochs=np.array([1, 5]))
    drawn = FIGURES["improved_fig6"](tmp_path)
    picture = seen(drawn.figure)[:, :, 0]
    left, right = np.argwhere(picture == 57), np.argwhere(picture == 97)
    assert len(left) == len(right) == 16 * 16 * 16, "4 x 4 images, of the last epoch"
    assert left[:, 1].max() < right[:, 1].min()
    assert not np.isin(picture, (50, 90)).any(), "not of an epoch before"
    assert said[:2] == [
        "plain DCGAN\nrun imagenet128_dcgan, after epoch 5",
        "improved techniques\nrun imagenet128_improved, after epoch 5",
    ]  # fmt: skip
    assert drawn.metrics["improved"]["epoch"] == 5
    assert drawn.numbers["run"].tolist() == list(HALVES.values())
    assert drawn.numbers.columns.tolist() == list(IMAGENET)
    assert readings.FIG6 == HALVES


@pytest.mark.parametrize("missing", ["dcgan", "improved"])
def test_a_missing_half_is_left_out_with_a_sentence(tmp_path, said, missing):
    (there,) = set(HALVES) - {missing}
    made.write_samples(tmp_path, HALVES[there])
    np.savez(tmp_path / f"{HALVES[missing]}.npz", images=np.empty((0, 9, 8, 8, 3), np.uint8), epochs=np.empty(0))
    drawn = FIGURES["improved_fig6"](tmp_path)
    title = {"dcgan": "plain DCGAN", "improved": "improved techniques"}[missing]
    assert f"{title}, run {HALVES[missing]}: {NOT_RUN}" in said
    assert there in drawn.metrics
    assert missing not in drawn.metrics


@pytest.mark.parametrize(("n_epochs", "channels"), [(3, 3), (2, 1)])
def test_samples_of_another_form_are_refused(tmp_path, n_epochs, channels):
    images = np.zeros((2, 4, 8, 8, channels), np.uint8)
    np.savez(tmp_path / "imagenet128_dcgan.npz", images=images, epochs=np.arange(n_epochs))
    with pytest.raises(InputError, match=r"imagenet128_dcgan\.npz: found images uint8 \(2, 4, 8, 8, .*train the run"):
        FIGURES["improved_fig6"](tmp_path)


# ---- files ----------------------------------------------------------------------------------------------------------


def write_content(folder, content):
    for number, name in enumerate(scores.NAMES):
        scores.write_score_samples(folder, name, content(1, 64, 32, seed=number), top=content(64, 32, seed=9))
    scores.write_table3(folder)
    for run in HALVES.values():
        made.write_samples(folder, run, images=content(1, 16, 128, seed=1), epochs=(2,))


@pytest.mark.parametrize("name", ["improved_table3_samples", "improved_table3_scores", "improved_fig6"])
def test_pictures_repeat_in_bytes(tmp_path, name):
    write_content(tmp_path, made.scenes)
    for copy in ("a.png", "b.png"):
        drawing.save(FIGURES[name](tmp_path).figure, tmp_path / copy)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < MOST_BYTES
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("name", ["improved_table3_samples", "improved_fig6"])
def test_pictures_of_noise_fit_git(tmp_path, name):
    """Noise is what PNG compresses least."""
    write_content(tmp_path, noise)
    drawing.save(FIGURES[name](tmp_path).figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < MOST_BYTES


def noise(*shape, seed):
    return np.random.default_rng(seed).integers(0, 256, (*shape, shape[-1], 3), dtype=np.uint8)
