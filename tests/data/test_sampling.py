"""Which documents of a group an epoch sees."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from disranker.data.sampling import GroupSampler, Sampling, Source, check_quotas, describe_quotas

# Rows 0..11 are judged (labels 0 0 0 0 0 0 1 1 1 2 2 3), 12..16 hard negatives, 17..18 random ones.
LABELS = np.array([0] * 6 + [1] * 3 + [2] * 2 + [3] + [0] * 7, dtype=np.float32)
SOURCES = np.array([0] * 12 + [1] * 5 + [2] * 2, dtype=np.int8)
GROUPS = [("a", np.arange(19)), ("b", np.array([3, 0, 9, 13]))]
ALL = Sampling(quotas={0: 2, 1: 2}, sources=SOURCES, num_hard=3)


def sampler(sampling: Sampling, *, docs_per_query: int = 99, seed: int = 0) -> GroupSampler:
    return GroupSampler(GROUPS, LABELS, docs_per_query=docs_per_query, seed=seed, sampling=sampling)


def by_source(rows: NDArray[np.int64]) -> dict[Source, list[int]]:
    return {source: rows[SOURCES[rows] == source].tolist() for source in Source}


def test_everything_off_is_the_whole_group_in_its_order() -> None:
    off = sampler(Sampling())
    assert len(off) == 2
    assert off.rows(0, 0) is GROUPS[0][1]
    assert off.rows(1, 3).tolist() == [3, 0, 9, 13]


@settings(max_examples=60, deadline=None)
@given(
    quotas=st.dictionaries(st.integers(0, 3), st.integers(1, 4)),
    num_hard=st.integers(0, 6),
    docs_per_query=st.integers(9, 30),
    epoch=st.integers(0, 3),
)
def test_every_limit_holds_and_none_is_left_unused(
    quotas: dict[int, int], num_hard: int, docs_per_query: int, epoch: int
) -> None:
    rows = sampler(Sampling(quotas, SOURCES, num_hard), docs_per_query=docs_per_query).rows(0, epoch)
    assert len(set(rows.tolist())) == len(rows) <= docs_per_query
    parts = by_source(rows)
    assert len(parts[Source.HARD]) == min(5, num_hard)
    assert parts[Source.RANDOM] == [17, 18]
    allowed = {label: min(count, quotas.get(label, 99)) for label, count in {0: 6, 1: 3, 2: 2, 3: 1}.items()}
    found = Counter(LABELS[parts[Source.JUDGED]].tolist())
    assert all(found[label] <= most for label, most in allowed.items())
    # Negatives have their places, the judged ones fill the rest.
    assert len(rows) == min(docs_per_query, sum(allowed.values()) + min(5, num_hard) + 2)


def test_judged_come_first_then_hard_then_random_ones() -> None:
    rows = sampler(Sampling(sources=SOURCES, num_hard=9)).rows(0, 0)
    assert rows.tolist() == list(range(19))
    drawn = sampler(ALL).rows(0, 0)
    assert np.diff(SOURCES[drawn]).min() >= 0
    assert sampler(ALL).rows(1, 0).tolist() == [3, 0, 9, 13]


def test_every_epoch_draws_anew_and_every_document_has_its_turn() -> None:
    one = sampler(ALL)
    epochs = [one.rows(0, epoch).tolist() for epoch in range(80)]
    assert epochs[0] != epochs[1]
    seen = Counter(row for rows in epochs for row in rows)
    assert set(seen) == set(range(19))
    assert max(seen[row] for row in range(6)) < 3 * min(seen[row] for row in range(6))
    assert {seen[row] for row in (9, 10, 11, 17, 18)} == {80}  # no quota, and random ones are all taken


def test_the_sample_depends_on_seed_epoch_and_query_alone() -> None:
    assert sampler(ALL).rows(0, 3).tolist() == sampler(ALL).rows(0, 3).tolist()
    others = [sampler(ALL, seed=1).rows(0, 3), sampler(ALL).rows(0, 4)]
    assert all(rows.tolist() != sampler(ALL).rows(0, 3).tolist() for rows in others)
    # Another place among the groups, and other groups beside it, change nothing; another name does.
    moved = GroupSampler([GROUPS[1], GROUPS[0]], LABELS, docs_per_query=99, seed=0, sampling=ALL)
    assert moved.rows(1, 3).tolist() == sampler(ALL).rows(0, 3).tolist()
    renamed = GroupSampler([("z", GROUPS[0][1])], LABELS, docs_per_query=99, seed=0, sampling=ALL)
    assert [renamed.rows(0, epoch).tolist() for epoch in range(3)] != [
        sampler(ALL).rows(0, epoch).tolist() for epoch in range(3)
    ]


def test_a_quota_of_a_label_that_no_pair_has_is_refused() -> None:
    check_quotas({0: 3, 3: 1}, LABELS)
    with pytest.raises(ValueError, match="names label 4, which no judged pair has; there are 0, 1, 2, 3"):
        check_quotas({0: 3, 4: 1}, LABELS)


def test_the_line_for_the_plan() -> None:
    groups = [("a", np.arange(12)), ("b", np.array([0, 6]))]
    assert describe_quotas({1: 2, 0: 4}, groups, LABELS) == (
        "label 0 at most 4 a query, which leaves 5 of 7 pairs an epoch; "
        "label 1 at most 2 a query, which leaves 3 of 4 pairs an epoch"
    )
