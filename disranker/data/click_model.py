"""The users of the built-in search world: how they read a list, what they click and how long they stay.

A cascade: each user reads from the top, clicks an examined page with a probability that rises with its grade, leaves
after a click with a probability that rises with it too, and otherwise looks at the next position with probability
EXAMINE_CONTINUE.  The constants are the truth against which estimated propensities can be held; grades are 0 to 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from random import Random
from typing import NamedTuple

LIST_LENGTH = 10
"""Documents in a shown list."""
MAX_SHOWN = 24
"""Most times that a list is shown; uniform from 1."""
RANKER_NOISE = 1.0
"""Standard deviation, in grades, of the noise on the order of a shown list."""
SPAM_RANKED_AS = 2.0
"""The grade that spam has in the eyes of the ranker that ordered the lists."""
EXAMINE_CONTINUE = 0.85
"""Probability to look at the next position, unless a click ended the search."""
CLICK_PROBABILITY = (0.01, 0.05, 0.15, 0.4, 0.7)
"""By grade, given that the position is examined."""
SPAM_CLICK_PROBABILITY = 0.12
STOP_PROBABILITY = (0.02, 0.1, 0.25, 0.5, 0.8)
"""By grade: the click ends the search."""
SPAM_STOP_PROBABILITY = 0.02
DWELL_MEDIAN_SECONDS = (7.0, 14.0, 28.0, 55.0, 100.0)
"""By grade; the dwell time of one click is log-normal."""
SPAM_DWELL_MEDIAN_SECONDS = 4.0
DWELL_SIGMA = 0.6
"""Standard deviation of the logarithm of a dwell time."""

SPAM = 5
"""Where spam stands in the tables below; its grade is 0."""
_CLICK = (*CLICK_PROBABILITY, SPAM_CLICK_PROBABILITY)
_STOP = (*STOP_PROBABILITY, SPAM_STOP_PROBABILITY)
_LOG_DWELL = tuple(log(seconds) for seconds in (*DWELL_MEDIAN_SECONDS, SPAM_DWELL_MEDIAN_SECONDS))
_RANKED_AS = (0.0, 1.0, 2.0, 3.0, 4.0, SPAM_RANKED_AS)


class Reactions(NamedTuple):
    """What users did with a list that was shown `num_shown` times; entry i belongs to position i + 1."""

    num_shown: int
    clicks: list[int]
    dwell_seconds: list[float]
    """Summed over the clicks."""


def shown_order(rng: Random, grades: Sequence[int]) -> list[int]:
    """The indices of documents as a fair but noisy ranker orders them; a grade of `SPAM` marks spam."""
    merits = [_RANKED_AS[grade] + rng.gauss(0.0, RANKER_NOISE) for grade in grades]
    return sorted(range(len(grades)), key=merits.__getitem__, reverse=True)


def browse(rng: Random, grades: Sequence[int]) -> Reactions:
    """Show a list of documents with these grades (`SPAM` for spam), in this order, and watch the users."""
    num_shown = 1 + int(rng.random() * MAX_SHOWN)
    clicks = [0] * len(grades)
    dwell = [0.0] * len(grades)
    chance = rng.random
    places = [(place, _CLICK[grade], grade) for place, grade in enumerate(grades)]
    for _ in range(num_shown):
        for place, click_probability, grade in places:
            if chance() < click_probability:
                clicks[place] += 1
                dwell[place] += exp(_LOG_DWELL[grade] + DWELL_SIGMA * rng.gauss(0.0, 1.0))
                if chance() < _STOP[grade]:
                    break
            if chance() >= EXAMINE_CONTINUE:
                break
    return Reactions(num_shown, clicks, dwell)


def click_model() -> dict[str, float | list[float]]:
    """Every constant of the user model by name, for `world.json`."""
    names = [name for name in globals() if name.isupper() and not name.startswith("_") and name != "SPAM"]
    return {
        name.lower(): list(value) if isinstance(value, tuple) else value
        for name, value in ((name, globals()[name]) for name in names)
    }
