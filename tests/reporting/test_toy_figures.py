"""The figure of the toy games: what is drawn, marked and counted, on made-up tables and on played games."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.records import write_csv
from pipeline.reporting import drawing, toy_figures
from pipeline.reporting.toy_figures import toy_games
from pipeline.training import toy_games as played

MOST_BYTES = 500_000  # of a picture in Git
STEPS = np.arange(0, 101, 10)
STARTS = {"xy": [(3, 4), (0, 1)], "kinked": [(1, 3)]}
COLUMNS = [
    "part", "game", "start_x", "start_y", "strength", "learning_rate", "start_distance", "final_distance",
    "late_distance", "diverged", "step", "xy_plain", "xy_averaged", "kinked_plain", "kinked_averaged",
]  # fmt: skip


def path(game, number, strength, *, last=None, diverged_at=None):
    """Straight away from the equilibrium to double the distance, or straight into it; ``last`` says how far instead."""
    start, centre = np.array(STARTS[game][number], dtype=float), np.array(toy_figures.GAMES[game].equilibrium)
    distance = np.linalg.norm(start - centre)
    factors = np.linspace(1, (2 if strength == 0 else 0.1) if last is None else last / distance, len(STEPS))
    points = centre + factors[:, np.newaxis] * (start - centre)
    table = pd.DataFrame({"step": STEPS, "x": points[:, 0], "y": points[:, 1], "distance": factors * distance})
    table["diverged"] = False if diverged_at is None else diverged_at <= STEPS
    keys = {"game": game, "start": number, "start_x": start[0], "start_y": start[1]}
    return table.assign(**keys, strength=strength, learning_rate=0.01)


def paths(**changes):
    tables = [
        path(game, number, strength, **(changes if (game, number, strength) == ("xy", 0, 0.0) else {}))
        for game, starts in STARTS.items()
        for number in range(len(starts))
        for strength in (0.0, 0.5)
    ]
    return pd.concat(tables, ignore_index=True)


def swept(strengths=(0.0, 0.01, 0.1, 1.0), rates=(0.01, 0.1), diverged=(("xy", 0, 0.0, 0.1), ("xy", 1, 0.1, 0.1))):
    """Start 0 ends at the weight + 1, start 1 at half of it."""
    rows = [
        {
            "game": game, "start": number, "start_x": x, "start_y": y, "strength": strength, "learning_rate": rate,
            "n_steps": 100, "start_distance": 5.0, "diverged": (game, number, strength, rate) in diverged,
        }
        for game, starts in STARTS.items()
        for number, (x, y) in enumerate(starts)
        for strength in strengths
        for rate in rates
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["final_distance"] = ((1 + table["strength"]) / (1 + table["start"])).mask(table["diverged"], 1001.0)
    table["late_distance"] = 2 * table["final_distance"]
    return table


@pytest.fixture
def results(tmp_path):
    write(tmp_path / "results")
    return tmp_path / "results"


def write(folder, trajectories=None, sweep=None):
    folder.mkdir(exist_ok=True)
    (paths() if trajectories is None else trajectories).to_parquet(folder / "trajectories.parquet")
    (swept() if sweep is None else sweep).to_parquet(folder / "sweep.parquet")


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def markers(axis, marker):
    return [list(zip(*line.get_data(), strict=True)) for line in axis.lines if line.get_marker() == marker]


def test_the_games_are_those_that_are_played():
    known = {game.name: game.equilibrium for game in (played.XY, played.KINKED)}
    assert {name: game.equilibrium for name, game in toy_figures.GAMES.items()} == known


def test_a_row_a_game_and_four_panels_each(results):
    titles = [axis.get_title() for axis in toy_games(results).figure.axes]
    kinked = toy_figures.GAMES["kinked"].title
    assert titles == [
        "xy: plain descent", "xy: averaging, λ = 0.5", "step size 0.01", "other weights and step sizes",
        f"{kinked}: plain descent", f"{kinked}: averaging, λ = 0.5", "step size 0.01", "other weights and step sizes",
    ]  # fmt: skip


def test_paths_have_start_end_and_equilibrium_marked(results):
    plain, averaged, *_ = toy_games(results).figure.axes
    for axis in (plain, averaged):
        assert markers(axis, "*") == [[(0, 0)]]
        assert markers(axis, "o") == [[(3, 4)], [(0, 1)]]
    assert markers(plain, "X") == [[(6, 8)], [(0, 2)]]
    (ends_first,), (ends_second,) = markers(averaged, "X")
    assert [*ends_first, *ends_second] == pytest.approx([0.3, 0.4, 0, 0.1])
    assert labels(plain) == ["from (3, 4), ends 10 away", "from (0, 1), ends 2 away"]
    assert labels(averaged) == ["from (3, 4), ends 0.5 away", "from (0, 1), ends 0.1 away"]
    drawn = [line for line in plain.lines if line.get_marker() == "None"]
    assert [line.get_xdata()[[0, -1]].tolist() for line in drawn] == [[3, 6], [0, 0]]


def test_a_path_that_diverged_has_no_end_and_is_cut(tmp_path):
    write(tmp_path / "results", paths(last=1002.0, diverged_at=60))
    drawn = toy_games(tmp_path / "results")
    plain = drawn.figure.axes[0]
    assert labels(plain)[0] == "from (3, 4), diverges"
    assert markers(plain, "X") == [[(0, 2)]]
    line = next(line for line in plain.lines if line.get_marker() == "None")
    assert np.hypot(*line.get_data()).max() <= toy_figures.FAR
    assert drawn.metrics["xy"]["start_0"]["plain_diverged"] is True
    drawing.save(drawn.figure, tmp_path / "figure.png")


def test_metrics_say_whether_plain_descent_ended_further_away(tmp_path):
    write(tmp_path / "results", paths(last=2.5))
    metrics = toy_games(tmp_path / "results").metrics
    assert {game: list(starts) for game, starts in metrics.items()} == {
        "xy": ["start_0", "start_1"], "kinked": ["start_0"],
    }  # fmt: skip
    assert metrics["xy"]["start_0"] == {
        "x": 3.0, "y": 4.0, "start_distance": 5.0, "plain_final_distance": 2.5, "plain_late_distance": 2.5,
        "plain_diverged": False, "plain_ended_further_away": False, "averaged_final_distance": 0.5,
        "averaged_diverged": False,
    }  # fmt: skip
    assert metrics["xy"]["start_1"]["plain_ended_further_away"] is True
    assert metrics["kinked"]["start_0"]["plain_final_distance"] == 4


def test_late_distance_is_over_the_last_tenth(tmp_path):
    table = paths()
    of_run = (table["game"] == "xy") & (table["start"] == 0) & (table["strength"] == 0)
    table.loc[of_run & (table["step"] == 100), "distance"] = 7.0
    table.loc[of_run & (table["step"] == 90), "distance"] = 30.0  # too early
    write(tmp_path / "results", table)
    assert toy_games(tmp_path / "results").metrics["xy"]["start_0"]["plain_late_distance"] == 7


def test_distance_over_steps_is_that_of_the_furthest_start(results):
    plain, averaged = toy_games(results).figure.axes[2].lines
    assert list(plain.get_xdata()) == STEPS.tolist()
    assert list(plain.get_ydata()[[0, -1]]) == pytest.approx([5, 10])
    assert list(averaged.get_ydata()[[0, -1]]) == pytest.approx([5, 0.5])


def test_sweep_has_a_line_a_step_size_and_marks_what_diverged(results):
    axis, other = (toy_games(results).figure.axes[number] for number in (3, 7))
    assert labels(axis) == ["step size 0.01", "step size 0.1", "the furthest start"]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    slow, slow_at_0, fast, fast_at_0 = markers(axis, "o")
    assert slow == [(0.01, pytest.approx(1.01)), (0.1, pytest.approx(1.1)), (1, 2)]
    assert slow_at_0 == [(0.001, 1)]
    assert [distance for _, distance in fast] == pytest.approx([1.01, np.nan, 2], nan_ok=True)
    assert np.isnan(fast_at_0[0][1])
    ceiling = 2 * 5.0
    assert [[at for at, _ in line] for line in markers(axis, "x")] == [[], pytest.approx([0.001, 0.1])]
    assert all(y > ceiling for line in markers(axis, "x") for _, y in line)
    assert [text.get_text() for text in axis.texts] == ["diverged"]
    assert not other.texts
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "0.01", "0.1", "1"]


@pytest.mark.parametrize(
    ("strengths", "rates"),
    [((0.0,), (0.01,)), ((0.3,), (0.01,)), ((0.0, 0.3), (0.01, 0.1, 1.0)), ((0.02, 0.3, 5.0), (0.1,))],
)
def test_any_sweep_is_drawn(tmp_path, strengths, rates):
    everything = [("kinked", 0, strength, rate) for strength in strengths for rate in rates]
    write(tmp_path / "results", sweep=swept(strengths, rates, diverged=everything))
    drawing.save(toy_games(tmp_path / "results").figure, tmp_path / "figure.png")


def test_a_start_at_the_equilibrium_is_drawn(tmp_path):
    trajectories, sweep = paths(), swept()
    trajectories.loc[trajectories["game"] == "kinked", ["x", "y"]] = 1.0
    trajectories.loc[trajectories["game"] == "kinked", "distance"] = 0.0
    sweep.loc[sweep["game"] == "kinked", ["start_distance", "final_distance", "late_distance"]] = 0.0
    write(tmp_path / "results", trajectories, sweep)
    drawn = toy_games(tmp_path / "results")
    assert drawn.metrics["kinked"]["start_0"]["plain_ended_further_away"] is False
    drawing.save(drawn.figure, tmp_path / "figure.png")


def test_numbers_are_all_runs_and_the_curves_over_steps(results, tmp_path):
    numbers = toy_games(results).numbers
    assert list(numbers.columns) == COLUMNS
    runs, curves = numbers[numbers["part"].notna()], numbers[numbers["part"].isna()]
    assert runs["part"].value_counts().to_dict() == {"trajectories": 6, "sweep": 24}
    assert runs["diverged"].sum() == 2
    assert curves["step"].tolist() == STEPS.tolist()
    assert curves["xy_plain"].tolist() == pytest.approx(np.linspace(5, 10, len(STEPS)).tolist())
    assert curves["kinked_averaged"].iloc[-1] == pytest.approx(0.2)
    write_csv(tmp_path / "numbers.csv", numbers)
    first, *_ = (tmp_path / "numbers.csv").read_text().splitlines()[1:]
    assert first == "trajectories,xy,3,4,0,0.01,5,10,10,False,,,,,"
    assert ",,,,,,,,,,100,10,0.5,4,0.2" in (tmp_path / "numbers.csv").read_text().splitlines()


def test_many_steps_are_thinned_with_first_and_last(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_figures, "MOST_STEPS", 4)
    write(tmp_path / "results")
    assert toy_games(tmp_path / "results").numbers["step"].dropna().tolist() == [0, 30, 70, 100]


@pytest.mark.parametrize("name", ["trajectories", "sweep"])
def test_missing_results_are_one_sentence(results, name):
    (results / f"{name}.parquet").unlink()
    with pytest.raises(InputError, match=rf"{name}\.parquet: missing; run dvc repro toy_games"):
        toy_games(results)


def test_played_games_make_the_same_small_picture_each_time(tmp_path):
    """At the step size and weight of all profiles: the densest picture there is."""
    config = played.ToyGames(
        n_steps=20_000,
        learning_rate=0.01,
        strength=0.1,
        every=5,
        starts=played.ToyStarts(xy=[[1, 1], [-2, 0]], kinked=[[1.5, 1.5], [0.5, 2], [-1, 2]]),
        sweep_strengths=[0, 0.1],
        sweep_learning_rates=[0.01, 0.1],
    )
    write(tmp_path / "results", played.trajectories(config), played.sweep(config))
    hashes = set()
    for copy in ("a.png", "b.png"):
        drawn = toy_games(tmp_path / "results")
        drawing.save(drawn.figure, tmp_path / copy)
        hashes.add(hashlib.sha256((tmp_path / copy).read_bytes()).hexdigest())
        assert (tmp_path / copy).stat().st_size < MOST_BYTES
    assert len(hashes) == 1
    starts = [start for game in drawn.metrics.values() for start in game.values()]
    assert len(starts) == 5
    assert all(start["plain_ended_further_away"] for start in starts)
    assert all(start["averaged_final_distance"] < 0.006 for start in starts)
