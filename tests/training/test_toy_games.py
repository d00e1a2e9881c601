"""Toy games: gradients, the definition in slow loops over stored pasts, the fact sheet's numbers, bad params."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.training import toy_games
from pipeline.training.toy_games import DIVERGED, KINKED, XY, ToyGames, ToyStarts, play, stored_steps, updated_mean
from stages import toy_games as toy_stage

GAMES = [XY, KINKED]
BY_NAME = pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
POINTS = np.array([[1.5, 1.5], [0.5, 2.0], [-1.0, 2.0], [0.3, -0.7], [-0.2, 0.1], [2.0, -3.0]])  # none at the kink

CONFIG = ToyGames(
    n_steps=95,
    learning_rate=0.05,
    strength=0.2,
    every=10,
    starts=ToyStarts(xy=[[1, 1], [-2, 0.5]], kinked=[[0.5, 2]]),
    sweep_strengths=[0, 0.1, 10],
    sweep_learning_rates=[0.01, 0.5],
)


def played(game, starts, strength, learning_rate, *, n_steps, every=1):
    starts = np.array(starts, dtype=float)
    strengths, rates = np.full(len(starts), float(strength)), np.full(len(starts), float(learning_rate))
    return play(game, starts, strengths, rates, n_steps=n_steps, every=every)


# ---- the games ------------------------------------------------------------------------------------------------------


def value(game, x, y):
    """Written out once more, for one point."""
    if game is XY:
        return x * y
    return ((x if x < 0 else x**2) - 1) * (y - 1)


@BY_NAME
def test_value_is_that_of_the_paper(game):
    assert game.value(POINTS).tolist() == pytest.approx([value(game, x, y) for x, y in POINTS])


@BY_NAME
@pytest.mark.parametrize("point", POINTS.tolist())
def test_gradient_is_the_central_difference_of_each_players_cost(game, point):
    x, y = point
    h = 1e-5
    of_x = (value(game, x + h, y) - value(game, x - h, y)) / (2 * h)
    of_y = (-value(game, x, y + h) + value(game, x, y - h)) / (2 * h)  # y maximises the value
    assert game.gradient(np.array([point]))[0].tolist() == pytest.approx([of_x, of_y], abs=1e-8)


@BY_NAME
@pytest.mark.parametrize("strength", [0, 0.7])
def test_equilibrium_is_stationary_and_a_saddle(game, strength):
    assert game.gradient(np.array([game.equilibrium])).tolist() == [[0, 0]]
    path = played(game, [game.equilibrium], strength, 0.1, n_steps=20)
    assert (path.points == np.array(game.equilibrium)).all()
    assert game.distance(np.array(game.equilibrium)) == 0
    x, y = game.equilibrium
    for shift in (-0.3, 0.3):
        assert value(game, x + shift, y) == value(game, x, y) == value(game, x, y + shift)  # neither gains by moving
    assert game.gradient(np.array([[x + 0.1, y + 0.1]])).all(), "nothing near is stationary"


def test_the_kink():
    """f' is 1 on the left and 0 on the right; at 0 itself it is taken from the right."""
    gradient = KINKED.gradient(np.array([[-1e-9, 3.0], [0.0, 3.0], [1e-9, 3.0]]))
    assert gradient[:, 0].tolist() == pytest.approx([2, 0, 0], abs=1e-8)
    assert gradient[:, 1].tolist() == pytest.approx([1, 1, 1])


def test_distance_is_euclidean():
    assert KINKED.distance(np.array([[4.0, 5.0], [1.0, 1.0]])).tolist() == [5, 0]
    assert XY.distance(np.array([[[3.0, 4.0]], [[0.0, -2.0]]])).tolist() == [[5], [2]]


# ---- play -----------------------------------------------------------------------------------------------------------


def slowly(game, start, strength, learning_rate, n_steps):
    """The definition: the mean of a list of all past points, and gradients as central differences would have them."""
    past = [tuple(start)]
    for _ in range(n_steps):
        x, y = past[-1]
        mean_x, mean_y = (sum(point[axis] for point in past) / len(past) for axis in (0, 1))
        slope = 1 if x < 0 else 2 * x
        of_x, of_y = (y, -x) if game is XY else (slope * (y - 1), 1 - (x if x < 0 else x**2))
        of_x += 2 * strength * (x - mean_x)  # d/dx of strength * (x - mean_x)^2, the mean held
        of_y += 2 * strength * (y - mean_y)
        past.append((x - learning_rate * of_x, y - learning_rate * of_y))
    return np.array(past)


@BY_NAME
@pytest.mark.parametrize(("strength", "learning_rate"), [(0, 0.05), (0.1, 0.05), (1.5, 0.1)])
def test_paths_are_those_of_the_definition(game, strength, learning_rate):
    path = played(game, POINTS, strength, learning_rate, n_steps=60)
    for number, start in enumerate(POINTS):
        expected = slowly(game, start, strength, learning_rate, 60)
        np.testing.assert_allclose(path.points[:, number], expected, rtol=1e-9, atol=1e-12)
    assert np.abs(path.points[-1] - path.points[0]).min(axis=1).max() > 0.01, "something moved"


def test_penalty_is_the_gradient_of_its_term():
    """What averaging adds to a step is -lr times the central difference of strength * ||theta - mean||^2."""
    plain, pulled = (played(XY, [[1, -2]], strength, 0.1, n_steps=2).points[:, 0] for strength in (0, 0.8))
    np.testing.assert_array_equal(plain[:2], pulled[:2])  # at first the mean is the point itself
    mean, h = pulled[:2].mean(axis=0), 1e-5

    def penalty(theta):
        return 0.8 * ((theta - mean) ** 2).sum()

    slope = [(penalty(pulled[1] + step) - penalty(pulled[1] - step)) / (2 * h) for step in h * np.eye(2)]
    assert (pulled[2] - plain[2]).tolist() == pytest.approx([-0.1 * part for part in slope])


def test_online_mean_is_the_mean_of_the_stored_past():
    path = played(KINKED, [[0.5, 2], [-1, 2]], 0.1, 0.02, n_steps=300).points
    mean = path[0]
    for n_past in range(1, len(path)):
        mean = updated_mean(mean, path[n_past], n_past=n_past)
        np.testing.assert_allclose(mean, path[: n_past + 1].mean(axis=0), rtol=1e-11)


@BY_NAME
def test_strength_0_is_plain_descent_to_the_bit(game):
    path = played(game, POINTS, 0, 0.03, n_steps=200).points
    theta = POINTS
    for step in range(1, 201):
        theta = theta - 0.03 * game.gradient(theta)
        np.testing.assert_array_equal(path[step], theta)


@BY_NAME
def test_runs_do_not_touch_each_other(game):
    """Many at once, one of them diverging, are the same to the bit as one at a time."""
    strengths, rates = np.array([0, 0.1, 1, 0.1, 0, 20]), np.array([0.01, 0.01, 0.1, 0.1, 0.5, 0.5])
    together = play(game, POINTS, strengths, rates, n_steps=400, every=40)
    assert 0 < (together.diverged_at >= 0).sum() < len(POINTS)
    for number in range(len(POINTS)):
        only = slice(number, number + 1)
        alone = play(game, POINTS[only], strengths[only], rates[only], n_steps=400, every=40)
        np.testing.assert_array_equal(together.points[:, only], alone.points)
        assert together.diverged_at[number] == alone.diverged_at[0]
        assert together.late_distance[number] == alone.late_distance[0]


def test_starts_are_left_as_they_are():
    starts = np.array([[1.0, 1.0]])
    play(XY, starts, np.array([0.1]), np.array([0.1]), n_steps=5, every=1)
    assert starts.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("n_steps", "every", "expected"),
    [(10, 5, [0, 5, 10]), (11, 5, [0, 5, 10, 11]), (3, 1, [0, 1, 2, 3]), (3, 7, [0, 3]), (1, 1, [0, 1])],
)
def test_thinning_keeps_first_and_last(n_steps, every, expected):
    assert stored_steps(n_steps, every).tolist() == expected
    thinned = played(KINKED, [[0.5, 2]], 0.1, 0.05, n_steps=n_steps, every=every)
    whole = played(KINKED, [[0.5, 2]], 0.1, 0.05, n_steps=n_steps)
    assert thinned.steps.tolist() == expected
    np.testing.assert_array_equal(thinned.points, whole.points[expected])


def test_late_distance_is_the_largest_over_the_last_tenth():
    for strength in (0, 0.1):
        path = played(XY, [[1, 1], [-1, 2]], strength, 0.02, n_steps=1000)
        distances = XY.distance(path.points)
        assert path.late_distance.tolist() == distances[901:].max(axis=0).tolist()
        assert (path.late_distance > distances[-1]).all() == (strength > 0)
    assert played(XY, [[3, 4]], 0.1, 0.02, n_steps=1).late_distance.tolist() == pytest.approx([5], abs=0.01)


@BY_NAME
@pytest.mark.parametrize("learning_rate", [1.0, 10.0])
def test_what_diverges_stops_where_it_did_and_stays_finite(game, learning_rate):
    path = played(game, [[1.5, 2.0], [-100, 100], [100, -100]], 1000, learning_rate, n_steps=60)
    assert np.isfinite(path.points).all()
    assert (path.diverged_at > 0).all()
    for number, step in enumerate(path.diverged_at):
        distances = game.distance(path.points[:, number])
        assert distances[step] > DIVERGED
        assert distances[:step].max() <= DIVERGED
        assert (path.points[step:, number] == path.points[step, number]).all()


def test_what_does_not_diverge_is_not_flagged():
    assert played(XY, [[1, 1]], 0, 0.01, n_steps=100).diverged_at.tolist() == [-1]


# ---- the fact sheet's numbers, section 7.1 -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """Final points of 20,000 steps of 0.01: (xy, kinked), each with lambda 0 and 0.1 for all starts."""
    found = {}
    for game, starts in ((XY, [[1, 1]]), (KINKED, [[1.5, 1.5], [0.5, 2], [-1, 2]])):
        both = np.array(starts * 2, dtype=float)
        strengths, rates = np.repeat([0.0, 0.1], len(starts)), np.full(len(both), 0.01)
        found[game.name] = play(game, both, strengths, rates, n_steps=20_000, every=20_000)
    return found


def test_xy_spirals_out_without_averaging_and_in_with_it(published):
    path = published["xy"]
    plain, averaged = XY.distance(path.points[-1])
    assert plain == pytest.approx(math.sqrt(2) * (1 + 0.01**2) ** 10_000, rel=1e-9)  # |1 + i lr| a step
    assert plain == pytest.approx(3.84, abs=0.01)
    assert averaged == pytest.approx(0.0023, abs=0.0002)


def test_kinked_game_orbits_without_averaging_and_ends_with_it(published):
    path = published["kinked"]
    first, last = KINKED.distance(path.points)
    assert (last[:3] > first[:3]).all(), "plain descent ends further away than it started, from every start"
    assert 3 < last[0] < 17
    assert path.late_distance[0] == pytest.approx(17.4, abs=0.1)
    assert last[3:].tolist() == pytest.approx([0.00042, 0.00105, 0.0052], rel=0.02)
    assert (path.late_distance[3:] < 0.006).all()
    assert (path.diverged_at == -1).all()


def test_larger_steps_and_weights_fail_as_the_fact_sheet_says():
    starts, rates = np.array([[1.5, 1.5]] * 4), np.array([0.1, 0.1, 0.01, 0.01])
    path = play(KINKED, starts, np.array([0, 0.1, 3, 10]), rates, n_steps=20_000, every=20_000)
    assert (path.diverged_at >= 0).tolist() == [True, False, False, False]
    _, cycles, slow, slower = KINKED.distance(path.points[-1])
    assert 0.3 < cycles <= path.late_distance[1] < 0.9
    assert 0.4 < slow < slower < math.sqrt(0.5)


# ---- tables and the stage -------------------------------------------------------------------------------------------


def test_trajectories_are_the_paths_of_all_starts():
    table = toy_games.trajectories(CONFIG)
    assert list(table.columns) == [
        "game", "start", "start_x", "start_y", "strength", "learning_rate", "step", "x", "y", "distance", "diverged",
    ]  # fmt: skip
    keys = ["game", "start", "strength"]
    assert sorted(table.groupby(keys).groups) == [
        ("kinked", 0, 0.0), ("kinked", 0, 0.2), ("xy", 0, 0.0), ("xy", 0, 0.2), ("xy", 1, 0.0), ("xy", 1, 0.2),
    ]  # fmt: skip
    assert (table["learning_rate"] == 0.05).all()
    path = table[(table["game"] == "xy") & (table["start"] == 1) & (table["strength"] == 0.2)]
    assert path["step"].tolist() == [*range(0, 91, 10), 95]
    assert (path["start_x"] == -2).all()
    assert (path["start_y"] == 0.5).all()
    expected = slowly(XY, (-2, 0.5), 0.2, 0.05, 95)[path["step"]]
    np.testing.assert_allclose(path[["x", "y"]], expected, rtol=1e-9)
    np.testing.assert_allclose(path["distance"], np.hypot(*expected.T), rtol=1e-9)
    assert not table["diverged"].any()


def test_a_diverged_path_is_flagged_from_the_step_on():
    table = toy_games.trajectories(dataclasses.replace(CONFIG, learning_rate=0.5, every=1))
    plain = table[(table["game"] == "xy") & (table["start"] == 0) & (table["strength"] == 0)]
    assert plain.loc[plain["diverged"], "step"].tolist() == [*range(59, 96)]  # |1 + 0.5i|^59 * sqrt(2) is above 1000
    stays = plain.loc[plain["diverged"], "distance"].to_numpy()
    assert (stays == stays[0]).all()
    assert np.isfinite(table[["x", "y", "distance"]]).all(axis=None)


def test_sweep_has_every_start_strength_and_step_size():
    table = toy_games.sweep(CONFIG)
    assert list(table.columns) == [
        "game", "start", "start_x", "start_y", "strength", "learning_rate", "n_steps", "start_distance",
        "final_distance", "late_distance", "diverged", "diverged_at",
    ]  # fmt: skip
    keys = ["game", "start", "strength", "learning_rate"]
    assert len(table) == len(table.groupby(keys)) == 3 * 3 * 2
    for row in table[table["learning_rate"] == 0.01].itertuples():
        game = {game.name: game for game in GAMES}[row.game]
        path = slowly(game, (row.start_x, row.start_y), row.strength, row.learning_rate, 95)
        distances = game.distance(path)
        measured = [row.start_distance, row.final_distance, row.late_distance]
        assert measured == pytest.approx([distances[0], distances[-1], distances[87:].max()])
        assert (row.diverged, row.diverged_at) == (False, -1)
    gone = table[(table["game"] == "xy") & (table["start"] == 0) & (table["learning_rate"] == 0.5)].iloc[0]
    assert (gone["diverged"], gone["diverged_at"]) == (True, 59)
    assert gone["final_distance"] == pytest.approx(math.sqrt(2) * 1.25 ** (59 / 2))
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)


def test_the_stage_writes_both_tables_with_the_same_bytes(tmp_path):
    YAML().dump({"toy_games": dataclasses.asdict(CONFIG)}, tmp_path / "params.yaml")
    for run in ("first", "again"):
        folder = tmp_path / run
        toy_stage.main(tmp_path / "params.yaml", folder / "trajectories.parquet", folder / "sweep.parquet")
    for name, expected in (("trajectories", toy_games.trajectories(CONFIG)), ("sweep", toy_games.sweep(CONFIG))):
        first, again = (tmp_path / run / f"{name}.parquet" for run in ("first", "again"))
        pd.testing.assert_frame_equal(pd.read_parquet(first), expected)
        assert first.read_bytes() == again.read_bytes()


# ---- params ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"starts": {"xy": [], "kinked": [[1, 2]]}}, r"starts\.xy: .*at least 1 item"),
        ({"starts": {"xy": [[1, 2]]}}, r"toy_games\.starts: missing key 'kinked'; expected kinked, xy"),
        ({"starts": {"xy": [[1, 2, 3]], "kinked": [[1, 2]]}}, r"starts\.xy\.0: .*at most 2 items"),
        ({"starts": {"xy": [[1]], "kinked": [[1, 2]]}}, r"starts\.xy\.0: .*at least 2 items"),
        ({"starts": {"xy": [[1, 200]], "kinked": [[1, 2]]}}, r"starts\.xy\.0\.1: .*less than or equal to 100"),
        ({"strength": -0.1}, r"toy_games\.strength: value should be greater than"),
        ({"strength": 0}, r"toy_games\.strength: value should be greater than 0, found 0"),
        ({"learning_rate": 0}, r"toy_games\.learning_rate: value should be greater than 0, found 0"),
        ({"n_steps": 0}, r"toy_games\.n_steps: value should be greater than or equal to 1, found 0"),
        ({"every": 0}, r"toy_games\.every: value should be greater than or equal to 1, found 0"),
        ({"sweep_strengths": [-0.1, 0]}, r"sweep_strengths\.0: value should be greater than or equal to 0"),
        ({"sweep_strengths": []}, r"sweep_strengths: .*at least 1 item"),
        ({"sweep_strengths": [0.1, 0]}, "toy_games: sweep_strengths must ascend, found 0.1, 0"),
        ({"sweep_learning_rates": [0, 0.1]}, r"sweep_learning_rates\.0: value should be greater than 0"),
        ({"sweep_learning_rates": [0.1, 0.1]}, "toy_games: sweep_learning_rates must ascend, found 0.1, 0.1"),
        ({"lambda": 0.1}, "toy_games: unknown key 'lambda'; expected every, learning_rate, n_steps"),
    ],
)
def test_bad_params_are_one_sentence(tmp_path, changes, match):
    file = tmp_path / "params.yaml"
    YAML().dump({"toy_games": dataclasses.asdict(CONFIG)}, file)
    assert params.load(file, ToyGames, own="toy_games") == CONFIG
    YAML().dump({"toy_games": dataclasses.asdict(CONFIG) | changes}, file)
    with pytest.raises(InputError, match=match) as caught:
        params.load(file, ToyGames, own="toy_games")
    assert "\n" not in str(caught.value)
