"""Intervals hold the truth as often as they say, on studies made up for it."""

import pytest
from coverage_of_intervals import FIGURES, coverage

STUDIES = 400
# What 400 studies can be off by: twice the standard error of 95 %.
LUCK = 0.022


@pytest.mark.parametrize("figure", FIGURES)
def test_at_forty_speakers_and_five_seeds(figure, many):
    assert 0.93 - LUCK <= many[figure] <= 0.97 + LUCK


@pytest.mark.parametrize("figure", FIGURES)
def test_at_nine_speakers_and_three_seeds(figure, few):
    assert few[figure] >= 0.90 - LUCK


@pytest.fixture(scope="module")
def many():
    return coverage(40, 5, 0.7, STUDIES)["ours"]


@pytest.fixture(scope="module")
def few():
    return coverage(9, 3, 0.7, STUDIES)["ours"]
