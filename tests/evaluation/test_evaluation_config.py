"""The settings of evaluation and its report: what goes together, and what the records they mirror hold."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from disranker.config.evaluation import (
    CascadeConfig,
    CutoffsConfig,
    EvalConfig,
    LatencyConfig,
    ReportConfig,
    RulesConfig,
)
from disranker.evaluation import cascade, efficiency, rules, significance

REPORT: dict[str, Any] = {"evaluated": [Path("e")], "out": "o", "judged": [Path("j")]}
PAIR = {"teacher": "t", "student": "s"}


def test_the_rules_are_those_of_the_measures() -> None:
    assert RulesConfig().model_dump() == asdict(rules.Rules())
    for name, field in RulesConfig.model_fields.items():
        assert get_args(field.annotation) == rules._ALLOWED[name]


def test_defaults_are_those_of_the_analyses() -> None:
    assert tuple(LatencyConfig().documents) == efficiency.DOCUMENTS
    assert tuple(CascadeConfig().shares) == cascade.SHARES
    (items,) = get_args(CascadeConfig.model_fields["rules"].annotation)
    assert set(get_args(items)) == set(get_args(cascade.Rule))
    assert ReportConfig.model_validate(REPORT).gsb_threshold == significance.GSB_THRESHOLD
    assert CutoffsConfig().thresholds == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "t"}, "teacher and student go together"),
        ({"teacher": "t", "student": "t"}, "teacher and student are both t"),
        ({"cascade": {}}, "cascade needs teacher and student"),
        ({**PAIR, "cascade": {"rules": ["band", "band"]}}, "must be different rules"),
        ({**PAIR, "judged": []}, "teacher and student: needs the judgments"),
        ({"slices": {}, "cutoffs": {}, "judged": []}, "slices, cutoffs: needs the judgments"),
        ({"interleaving": {}, "judged": []}, "interleaving: needs the judgments"),
        ({"qrels": Path("q")}, "qrels hold no texts"),
        ({"candidates": [Path("c")], "judged": []}, "candidates: needs the judgments"),
        ({"slices": {"by": []}}, "nothing to slice by"),
        ({"slices": {"columns": ["a"]}}, "table and columns go together"),
        ({"slices": {"table": Path("t")}}, "table and columns go together"),
        ({"slices": {"by": ["clicks"]}}, "slices.by has clicks: give clicks.log"),
        ({"clicks": {"log": [Path("c")], "propensities": [1.0], "depth": 3}}, "depth is the number of propensities"),
        ({"confidence": 1.0}, "less than 1"),
        ({"baselines": "b"}, "Extra inputs"),
    ],
)
def test_impossible_reports_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReportConfig.model_validate(REPORT | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": {"documents": []}}, "must be different numbers, at least one"),
        ({"latency": {"documents": [1, 1]}}, "must be different numbers"),
        ({"latency": {"seconds": 0}}, "greater than 0"),
        ({"rules": {"ties": "random"}}, "'doc_id' or 'pessimistic'"),
        ({"systems": {"r": {"kind": "random", "price_per_hour": 1.0}}}, "kind random is not timed"),
        ({"systems": {"r": {"kind": "run"}}}, "kind run needs a path"),
    ],
)
def test_impossible_evaluations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvalConfig.model_validate({"out": "o", "judged": [Path("j")], "systems": {"b": {"kind": "bm25"}}} | changes)
