"""What measuring does with the cases on which evaluation tools differ: one rule and one setting each, all in one place.

`Rules` is handed to `measure_run` and `measure_columns`; what each rule met is in `Measured.counts`.  The tie rule of
PNR and PairAccuracy is a parameter of those measures, see `pnr_measure.py`.  Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

UnjudgedRule = Literal["zero", "error", "skip"]
MissingRule = Literal["zero", "error", "skip"]
NoRelevantRule = Literal["zero", "skip"]
PlaceRule = Literal["doc_id", "pessimistic"]

_ALLOWED = {
    "no_relevant": get_args(NoRelevantRule),
    "missing": get_args(MissingRule),
    "unjudged": get_args(UnjudgedRule),
    "ties": get_args(PlaceRule),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one measurement; the defaults are those of trec_eval -c.

    Every measure of a measurement is taken over the same queries: a query that a rule skips is in none of them.
    They apply in the order of the fields, `unjudged` first.
    """

    unjudged: UnjudgedRule = "zero"
    """Scored documents without a label.  zero: label 0, as trec_eval has it; skip: taken out of the run before it is
    measured (condensed list, trec_eval -J, which also takes out what is labelled -1), in every measure; error: refused.
    Count: num_unjudged."""
    missing: MissingRule = "zero"
    """Judged queries of which the run has no document (or, with unjudged="skip", none that is judged).  zero: measured
    as an empty list, value 0, no pair; skip: in no figure; error: refused.  Count: num_queries_missing."""
    no_relevant: NoRelevantRule = "zero"
    """Judged queries without a positive, a label above 0, whatever `rel` a measure asks for.  zero: they count as
    0 in nDCG and every measure of positives; skip: in no figure.  Count: num_queries_without_relevant."""
    ties: PlaceRule = "doc_id"
    """Places of documents with equal scores (as float32).  doc_id: by doc_id, descending as strings (trec_eval's rule);
    pessimistic: the lower label first, unjudged as 0, then doc_id, descending: the worst that a sort can do to nDCG.
    Count: num_tied_documents."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value not in _ALLOWED[field.name]:
                raise ValueError(f"{field.name}={value!r} is no rule; use one of {', '.join(_ALLOWED[field.name])}")
