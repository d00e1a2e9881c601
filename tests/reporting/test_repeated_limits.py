"""Limits that reporting repeats, so that it need not load torch: the same as where they are applied."""

from pipeline.evaluation import inception
from pipeline.reporting import readings, score_figures, score_tables
from pipeline.training import health


def test_limits_are_those_of_training_and_of_the_gate():
    assert readings.COLLAPSED == health.COLLAPSED
    assert (score_tables.GATE_SCORE, score_tables.GATE_TOLERANCE) == (inception.GATE_MEAN, inception.GATE_TOLERANCE)
    assert readings.FIG6 == score_figures.HALVES
