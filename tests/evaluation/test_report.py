"""The report from end to end on made-up systems: figures, order, refusals, and a page that stands alone."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from disranker.evaluation import assembly
from disranker.evaluation.measures import group_labels, group_scores, measure_run
from disranker.evaluation.report import write_report
from disranker.evaluation.runs import Efficiency, System, write_system
from disranker.schema import Judgment

VOID = {"meta", "input", "line", "circle", "path", "use", "br"}


class Balance(HTMLParser):
    """Notes tags that do not close, ids, and addresses that would be loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.ids, self.addresses = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.faults.append(tag)


def make_judgments(num_queries=14, num_docs=8):
    rng = np.random.default_rng(0)
    return [
        Judgment(f"q{q:02}", f"d{q}-{d}", f"东京 <query> {q}", f"title {q}-{d} & <i>", "", int(rng.integers(0, 4)))
        for q in range(num_queries)
        for d in range(num_docs)
    ]


def write_systems(folder, noises, judgments, **changes):
    rng = np.random.default_rng(1)
    columns = [j.query_id for j in judgments], [j.doc_id for j in judgments]
    for name, noise in noises.items():
        scores = np.array([j.label for j in judgments]) + noise * rng.normal(size=len(judgments))
        measured = measure_run(
            group_labels(judgments),
            group_scores(*columns, scores),
            changes.get("measures", ("nDCG@5", "nDCG@10", "PNR")),
        )
        efficiency = Efficiency(22_700_000, 91_000_000, 1000 / (noise + 0.1), 1.0, "cpu", 2, "float32")
        provenance = {
            "path": f"bundles/{name}",
            "judged": {"hash": changes.get("hash", "h")},
            "training": {"steps": 1200, "pairs": 5000},
        }
        write_system(folder, System(name, "student", measured, efficiency, provenance), *columns, scores)


@pytest.fixture
def made(tmp_path):
    judgments = make_judgments()
    write_systems(tmp_path / "systems", {"oracle-东京": 0.0, "good": 0.8, "poor": 9.0}, judgments)
    return tmp_path, judgments


def test_report_json_holds_the_figures(made):
    folder, judgments = made
    write_report([folder / "systems"], folder / "out", baseline="good", samples=500, judged=judgments, title="T")
    content = json.loads((folder / "out/report.json").read_text())
    assert (content["format"], content["title"], content["primary"], content["baseline"]) == (1, "T", "nDCG@10", "good")
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
    assert content["efficiency"]["good"]["parameters"] == 22_700_000
    assert content["sources"]["good"]["provenance"]["path"] == "bundles/good"
    assert content["sources"]["good"]["run"].endswith("good.trec")
    assert content["generated"] is None


def test_the_same_input_gives_the_same_bytes(made):
    folder, judgments = made
    for out in ("one", "two"):
        write_report([folder / "systems"], folder / out, baseline="poor", samples=200, judged=judgments)
    for name in ("report.json", "report.md", "report.html"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()


def test_page_stands_alone_and_is_well_formed(made):
    folder, judgments = made
    notes = [("Export <parity>", "Words & more.\n\n| Export | Gap |\n|---|---|\n| int8 | 0.04 |")]
    report = write_report(
        [folder / "systems"], folder / "out", baseline="poor", samples=200, judged=judgments, notes=notes
    )
    page = (folder / "out/report.html").read_text()
    body, script = page.split("<script>")
    balance = Balance()
    balance.feed(body + script.split("</script>")[1])
    assert (balance.open, balance.faults) == ([], [])
    assert len(balance.ids) == len(set(balance.ids))
    assert balance.addresses == []
    assert "url(http" not in page
    assert "@import" not in page
    # text that came from outside is escaped, in words and pictures alike
    assert "<query>" not in page
    assert "东京 &lt;query&gt; 3" in page
    assert "title 3-1 &amp; &lt;i&gt;" in page
    assert "Export &lt;parity&gt;" in page
    assert '<td data-head="Gap">0.04</td>' in page
    assert re.search(r"<text[^>]*>oracle-东京</text>", page)  # a picture's text is text
    assert "DejaVu" not in page
    assert page.count("<svg") == 3 + sum(all(map(np.isfinite, (c.delta, *c.interval))) for c in report.comparisons)
    assert page.count('<details class="row"') == 14


def test_both_rankings_stand_side_by_side(made):
    folder, judgments = made
    report = write_report([folder / "systems"], folder / "out", baseline="poor", samples=50, judged=judgments)
    assert report.shown == ("oracle-东京", "poor")
    row = report.queries[0]
    assert (row.query_id, row.query) == ("q00", "东京 <query> 0")
    labels = [placed.label for placed in row.rankings[0]]
    assert labels == sorted(labels, reverse=True)
    assert len(row.rankings[1]) == 8
    assert row.values == tuple(system.measured.per_query["nDCG@10"]["q00"] for system in report.systems.values())


def test_markdown_has_a_row_for_each_system_and_comparison(made):
    folder, _ = made
    write_report([folder / "systems"], folder / "out", samples=200, generated="today", notes=[("Parity", "Fine.")])
    text = (folder / "out/report.md").read_text()
    assert "**oracle-东京 ranks best of 3 systems: nDCG@10 1.0000" in text
    assert "- oracle-东京 beats good by" in text  # without a baseline each against the next
    assert "- good beats poor by" in text
    assert "· today" in text
    assert "## Parity\n\nFine." in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [2 + 3, 2 + 9]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_without_texts_queries_are_listed_by_id_and_long_lists_are_cut(made, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(assembly, "MAX_QUERIES", 5)
    report = write_report([folder / "systems"], folder / "out", baseline="poor", samples=50, measures=["NDCG@5"])
    assert report.primary == "nDCG@5"
    first, last = (report.systems[name].measured.per_query["nDCG@5"] for name in report.shown)
    gaps = {query: abs(first[query] - last[query]) for query in first}
    assert [row.query_id for row in report.queries] == sorted(sorted(gaps, key=lambda query: (-gaps[query], query))[:5])
    assert '<details class="row"' not in (folder / "out/report.html").read_text()


def test_one_system_alone_has_a_report(tmp_path):
    write_systems(tmp_path / "systems", {"only": 1.0}, make_judgments())
    report = write_report([tmp_path / "systems"], tmp_path / "out", samples=50)
    assert report.comparisons == ()
    assert "only was measured: nDCG@10" in (tmp_path / "out/report.html").read_text()
    again = write_report([tmp_path / "systems"], tmp_path / "out", samples=50, baseline="only")
    assert again.shown == ("only",)


def test_what_cannot_be_reported_is_refused(made):
    folder, judgments = made
    systems = folder / "systems"
    with pytest.raises(ValueError, match="baseline 'best' is not among the systems: good, oracle-东京, poor"):
        write_report([systems], folder / "out", baseline="best")
    with pytest.raises(ValueError, match=r"'good' stands in .* rename one"):
        write_report([systems, systems], folder / "out")
    with pytest.raises(ValueError, match="was not measured by AP; evaluate it again"):
        write_report([systems], folder / "out", measures=["AP"])
    with pytest.raises(ValueError, match="no folder"):
        write_report([], folder / "out")
    write_systems(folder / "other", {"stranger": 1.0}, judgments, hash="h2")
    with pytest.raises(ValueError, match="different judgments: good, stranger"):
        write_report([systems, folder / "other"], folder / "out")
    write_systems(folder / "fewer", {"shorter": 1.0}, make_judgments(num_queries=5))
    with pytest.raises(ValueError, match="different queries"):
        write_report([systems, folder / "fewer"], folder / "out")
    write_systems(folder / "alien", {"alien": 1.0}, judgments, measures=("RR",))
    with pytest.raises(ValueError, match="no measure is common"):
        write_report([systems, folder / "alien"], folder / "out")
    assert not (folder / "out").exists()
