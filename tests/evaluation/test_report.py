"""The report from end to end on made-up systems: figures, order, refusals, and a page that stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.config.evaluation import ReportConfig
from disranker.data.readers import write_records
from disranker.data.trec import read_trec_run, write_trec_run
from disranker.evaluation import assembly
from disranker.evaluation.report import write_report
from disranker.evaluation.rules import Rules
from disranker.schema import Candidate
from disranker.shards import file_hash
from tests.evaluation.made_systems import (
    make_everything,
    make_judgments,
    make_set,
    write_judgments,
    write_systems,
)

VOID = {"meta", "input", "line", "circle", "path", "use", "br"}


class Balance(HTMLParser):
    """Notes tags that do not close, ids, and addresses that would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.faults.append(tag)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    return make_set(tmp_path)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, assembly.Report]:
    folder = tmp_path_factory.mktemp("everything")
    return folder / "out", write_report(make_everything(folder))


def write(made: dict[str, Any], **changes: Any) -> assembly.Report:
    return write_report(ReportConfig.model_validate(made | changes))


def read_json(out: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(out, "report.json").read_text("utf-8"))
    return content


def read_page(out: str | Path) -> str:
    return Path(out, "report.html").read_text("utf-8")


def test_report_json_holds_the_figures(made: dict[str, Any]) -> None:
    write(made, baseline="good", title="T")
    content = read_json(made["out"])
    assert (content["format"], content["title"], content["primary"], content["baseline"]) == (2, "T", "nDCG@10", "good")
    assert list(content["systems"]) == ["oracle-东京", "good", "poor"]  # best first
    assert content["systems"]["oracle-东京"] == {"nDCG@5": 1.0, "nDCG@10": 1.0, "PNR": "inf"}
    pairs = {(found["a"], found["b"]) for found in content["comparisons"]}
    assert pairs == {("oracle-东京", "good"), ("poor", "good"), ("oracle-东京", "poor")}
    assert len(content["comparisons"]) == 9
    for found in content["comparisons"]:
        if found["measure"] != "PNR":
            values = content["systems"]
            assert found["delta"] == pytest.approx(
                values[found["a"]][found["measure"]] - values[found["b"]][found["measure"]]
            )
            assert found["interval"][0] <= found["delta"] <= found["interval"][1]
        assert found["wins"] + found["ties"] + found["losses"] == found["num_queries"] == 14
        assert found["p_holm"] >= found["p_value"]
    assert [(plan["a"], plan["b"]) for plan in content["power"]] == [("oracle-东京", "good"), ("poor", "good")]
    assert content["efficiency"]["good"]["parameters"] == 22_700_000
    assert content["sources"]["good"]["provenance"]["path"] == "bundles/good"
    assert content["sources"]["good"]["run"].endswith("good.trec")
    assert content["judged"] == {"path": str(made["judged"][0]), "hash": file_hash(made["judged"][0])}
    assert content["generated"] is None
    off = ("agreement", "cutoffs", "clicks", "interleaving")
    assert [content[name] for name in off] == [None] * 4 and content["slices"] == content["cascade"] == []


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    config = make_everything(tmp_path)
    for out in ("one", "two"):
        write_report(config.model_copy(update={"out": str(tmp_path / out)}))
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_page_of_a_whole_report_stands_alone_and_is_well_formed(everything: tuple[Path, assembly.Report]) -> None:
    page = read_page(everything[0])
    balance = Balance()
    balance.feed(page)
    assert (balance.open, balance.faults) == ([], [])
    assert len(balance.ids) == len(set(balance.ids))
    assert balance.addresses == []
    assert "url(http" not in page
    assert "@import" not in page
    # text that came from outside is escaped, in words and pictures alike
    assert "<query>" not in page
    assert "东京 &lt;query&gt; 3" in page
    assert "Parity &lt;x&gt;" in page and "Fine &amp; well." in page
    assert '<td data-head="Gap">0.04</td>' in page
    assert re.search(r"<text[^>]*>labels-only</text>", page)  # a picture's text is text
    assert "DejaVu" not in page
    assert page.count('<details class="row"') == 14


def test_the_rankings_in_the_page_are_those_of_the_runs(made: dict[str, Any]) -> None:
    report = write(made, baseline="poor")
    assert report.focus == ("oracle-东京", "poor")
    row = report.queries[0]
    assert (row.query_id, row.query) == ("q00", "东京 <query> 0")
    assert len(row.documents) == len(row.rankings[2]) == 8
    labels = [row.documents[index].label for index, _ in row.rankings[0]]
    assert None not in labels and labels == sorted(labels, key=lambda label: -(label or 0))
    systems = report.standings.systems
    assert row.values == tuple(system.measured.per_query["nDCG@10"]["q00"] for system in systems.values())
    page = read_page(made["out"])
    (text,) = re.findall(r'<script type="application/json" id="rankings">(.*?)</script>', page)
    assert "<" not in text
    content = json.loads(text)
    assert content["systems"] == ["oracle-东京", "good", "poor"]
    shown = content["queries"]["q00"]
    index, score = shown["rankings"][2][0]
    best = max(systems["poor"].read_scores()["q00"].items(), key=lambda item: item[1])
    assert (shown["documents"][index][0], score) == (best[0], pytest.approx(best[1], rel=1e-3))


def test_sections_come_with_their_input_only(everything: tuple[Path, assembly.Report], made: dict[str, Any]) -> None:
    wanted = ["Teacher and student", "Cascade", "Slices", "Cut-offs and calibration", "Clicks", "Interleaving"]
    write(made)
    plain = re.findall(r"<h2>(.*?)</h2>", read_page(made["out"]))
    assert plain == [
        "Systems", "Comparisons", "Queries", "Rules and counts", "How to read this", "Where the figures come from",
    ]  # fmt: skip
    found = re.findall(r"<h2>(.*?)</h2>", read_page(everything[0]))
    rest = [*plain[:2], *wanted[:4], "Efficiency", *wanted[4:], "Judged set other", "Parity &lt;x&gt;", *plain[2:]]
    assert found == rest


def test_a_whole_report_says_what_its_records_hold(everything: tuple[Path, assembly.Report]) -> None:
    out, report = everything
    analyses, content, page = report.analyses, read_json(out), read_page(out)
    assert analyses.agreement and analyses.cutoffs and analyses.clicks and analyses.interleaving
    kept = analyses.agreement.retention[0]
    assert (kept.measure, kept.teacher) == ("nDCG@10", content["systems"]["teacher"]["nDCG@10"])
    assert f"student keeps {100 * kept.retention:.1f}% of teacher’s nDCG@10" in page
    assert "at 0.4 times its speed" in page  # 1000 / 1.0 against 1000 / 0.4 pairs/s
    assert content["efficiency"]["student"]["speed_over_teacher"] == pytest.approx(0.4)
    assert content["efficiency"]["student"]["cost_per_million_pairs"] == pytest.approx(0.5 / 3600 * 1e6 / 1000)
    assert "0.139 EUR" in page
    first, last = (content["cascade"][0]["points"][end]["measures"]["nDCG@10"] for end in (0, -1))
    assert (first, last) == tuple(content["systems"][name]["nDCG@10"] for name in ("student", "teacher"))
    assert [curve["rule"] for curve in content["cascade"]] == ["band", "margin", "depth"]
    assert [table["slicing"] for table in content["slices"]] == [
        "query length", "clicks in the log", "documents of label 1 or higher", "intent", "volume",
    ]  # fmt: skip
    intents = content["slices"][3]
    assert (intents["system"], intents["baseline"]) == ("student", "labels-only")
    assert [(each["name"], each["num_queries"]) for each in intents["slices"]] == [("brand", 7), ("how-to", 7)]
    assert len(content["slices"][4]["slices"]) == 4  # numbers of a CSV are numbers
    assert content["cutoffs"]["system"] == "student"
    assert content["cutoffs"]["num_fit_queries"] + content["cutoffs"]["num_held_queries"] == 14
    assert list(content["clicks"]["estimates"]) == list(content["systems"])
    assert content["clicks"]["sources"][0]["hash"] == file_hash(content["clicks"]["sources"][0]["path"])
    assert (content["interleaving"]["a"], content["interleaving"]["num_sessions"]) == ("student", 4 * 14)
    assert content["more_sets"]["other"]["num_queries"] == 9
    assert content["more_sets"]["other"]["sources"]["teacher"]["provenance"]["judged"]["hash"] == "g"


def test_the_teacher_is_compared_with_the_student_by_measures_of_the_same_runs(
    everything: tuple[Path, assembly.Report],
) -> None:
    _, report = everything
    scores = {name: report.standings.systems[name].read_scores() for name in ("teacher", "student")}
    agreement = report.analyses.agreement
    assert agreement is not None
    gap = agreement.score_gaps[0]
    assert gap.teacher_score == np.float32(scores["teacher"][gap.query_id][gap.doc_id])
    assert gap.student_score == np.float32(scores["student"][gap.query_id][gap.doc_id])


def test_markdown_is_short_and_folds_the_rest(everything: tuple[Path, assembly.Report]) -> None:
    text = (everything[0] / "report.md").read_text("utf-8")
    opened = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "**teacher ranks best of 3 systems: nDCG@10" in opened
    assert "baseline labels-only · today" in opened
    assert "- teacher beats labels-only by" in opened and "(G − B) / all" in opened
    assert "- student keeps" in opened
    assert "## Parity <x>\n\nFine & well." in opened
    assert "## Judged set other" in opened
    # 3 systems by 3 measures: 9 comparisons, 2 of them open; the tables of the other set and of the note besides
    tables = [block.splitlines() for block in opened.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [2 + 3, 2 + 2, 2 + 3, 2 + 1]
    assert "<summary>7 more comparisons</summary>" in text and "<summary>student by slice of the queries" in text
    for table in (block.splitlines() for block in text.split("\n\n") if block.startswith("|")):
        assert len({line.count("|") for line in table}) == 1
    assert "## Comparisons" in opened and len(opened) < 6_000


def test_without_texts_queries_are_listed_by_id_and_long_lists_are_cut(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "MAX_QUERIES", 5)
    report = write(made, judged=[], baseline="poor", measures=["NDCG@5"])
    assert report.standings.primary == "nDCG@5"
    first, last = (report.standings.systems[name].measured.per_query["nDCG@5"] for name in report.focus)
    gaps = {query: abs(first[query] - last[query]) for query in first}
    assert [row.query_id for row in report.queries] == sorted(sorted(gaps, key=lambda query: (-gaps[query], query))[:5])
    assert '<details class="row"' not in read_page(made["out"])


@pytest.mark.parametrize(
    ("named", "focus"),
    [
        ({}, ("oracle-东京", "good")),
        ({"baseline": "oracle-东京"}, ("good", "oracle-东京")),
        ({"student": "poor", "teacher": "good"}, ("poor", "good")),
        ({"student": "poor", "teacher": "good", "baseline": "oracle-东京"}, ("poor", "oracle-东京")),
        ({"student": "poor", "teacher": "good", "baseline": "poor"}, ("poor", "good")),
    ],
)
def test_two_systems_are_in_focus(made: dict[str, Any], named: dict[str, str], focus: tuple[str, str]) -> None:
    assert assembly.assemble_report(ReportConfig.model_validate(made | named)).focus == focus


def test_one_system_alone_has_a_report(tmp_path: Path) -> None:
    made = make_set(tmp_path, {"only": 1.0})
    report = write(made, slices={})
    assert report.standings.comparisons == () and report.analyses.slices[0].baseline is None
    assert "only was measured: nDCG@10" in read_page(made["out"])
    assert write(made, baseline="only").focus == ("only",)
    with pytest.raises(ValueError, match="interleaving needs two systems; there is only only"):
        write(made, interleaving={})


def test_candidates_give_texts_to_documents_that_nobody_judged(tmp_path: Path) -> None:
    judgments = make_judgments()
    qrels = tmp_path / "x.qrels"
    qrels.write_text("".join(f"{each.query_id} 0 {each.doc_id} {each.label}\n" for each in judgments[1:]))
    rows = [Candidate(each.query_id, each.doc_id, each.query, each.title, "") for each in judgments]
    write_records(tmp_path / "candidates.parquet", Candidate, rows)
    systems = write_systems(tmp_path / "systems", {"one": 0.5, "two": 2.0}, judgments, file_hash(qrels))
    made = {"evaluated": [systems], "candidates": [tmp_path / "candidates.parquet"], "qrels": qrels, "samples": 50}
    report = write(made | {"out": str(tmp_path / "out")})
    document = next(each for each in report.queries[0].documents if each.doc_id == "d0-0")
    assert (document.title, document.label) == ("title 0-0 & <i>", None)


def test_what_cannot_be_reported_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    judgments, systems, judged_hash = make_judgments(), made["evaluated"][0], file_hash(made["judged"][0])
    for role in ("baseline", "teacher"):
        named = {"baseline": "best"} if role == "baseline" else {"teacher": "best", "student": "good"}
        with pytest.raises(ValueError, match=f"{role} 'best' is not among the systems: good, oracle-东京, poor"):
            write(made, **named)
    with pytest.raises(ValueError, match=r"'good' stands in .* rename one"):
        write(made, evaluated=[systems, systems])
    with pytest.raises(ValueError, match="was not measured by AP; evaluate it again"):
        write(made, measures=["AP"])
    with pytest.raises(ValueError, match="no folder"):
        write(made, evaluated=[])
    other = write_judgments(tmp_path / "changed.parquet", judgments[8:])
    with pytest.raises(ValueError, match=r"changed\.parquet is not what good was measured on \(judged\.parquet\)"):
        write(made, judged=[other])
    write_systems(tmp_path / "other", {"stranger": 1.0}, judgments, "h2")
    with pytest.raises(ValueError, match="on different judgments: good, stranger"):
        write(made, evaluated=[systems, tmp_path / "other"])
    write_systems(tmp_path / "ruled", {"ruled": 1.0}, judgments, judged_hash, rules=Rules(unjudged="skip"))
    with pytest.raises(ValueError, match="by different rules: good, ruled"):
        write(made, evaluated=[systems, tmp_path / "ruled"])
    write_systems(tmp_path / "fewer", {"shorter": 1.0}, make_judgments(num_queries=5), judged_hash)
    with pytest.raises(ValueError, match="different queries"):
        write(made, evaluated=[systems, tmp_path / "fewer"])
    write_systems(tmp_path / "alien", {"alien": 1.0}, judgments, judged_hash, measures=("RR",))
    with pytest.raises(ValueError, match="no measure is common"):
        write(made, evaluated=[systems, tmp_path / "alien"])
    assert not Path(made["out"]).exists()


def test_a_table_of_queries_must_fit(made: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "queries.csv"
    settings = {"by": [], "table": table, "columns": ["intent"]}
    table.write_text("query_id,intents\nq00,a\n")
    with pytest.raises(ValueError, match="no column 'intent'"):
        write(made, slices=settings)
    table.write_text("query_id,intent\nq00,a\nq00,b\n")
    with pytest.raises(ValueError, match=r"queries\.csv:3: query_id 'q00' stands in line 2 already"):
        write(made, slices=settings)
    table.write_text("query_id,intent\nq00,a\nq01,\n")
    with pytest.raises(ValueError, match="column 'intent' has no value for 13 queries, first 'q01'"):
        write(made, slices=settings)


def test_runs_that_changed_after_they_were_measured_are_found(made: dict[str, Any]) -> None:
    """The analyses read the runs again: one that lost a row is not compared row by row."""
    path = made["evaluated"][0] / "good.trec"
    run = read_trec_run(path)
    del run["q00"][next(iter(run["q00"]))]
    write_trec_run(path, run, tag="good")
    with pytest.raises(ValueError, match="have scored different rows: 1 are in one only"):
        write(made, teacher="oracle-东京", student="good")
