"""The report's page in headless Chromium, on a desktop, a phone and paper: what it does there, and pictures of it.

The browser is driven by its command line.  A copy of the page is given a script that acts on it, measures, and tells
the page around it, whose text `--dump-dom` prints.  The screenshots lie in the test's `tmp_path` for who wants to look.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from disranker.evaluation.report import write_report
from tests.evaluation.made_systems import make_everything

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine"),
]

WIDTHS = {"desktop": 1200, "phone": 390, "paper": 700}
ACT = """
const facts = {};
const rows = () => [...document.querySelectorAll("#rows > *")];
const opened = () => new Promise((done) => setTimeout(done, 50));  // toggle events come later
const set = (id, value, kind) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event(kind));
};
const glyph = (letter) => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `40px ${getComputedStyle(document.body).fontFamily}`;
  pen.fillText(letter, 5, 45);
  return pen.getImageData(0, 0, 60, 60).data.join();
};
(async () => {
  if (NAME === "paper") {
    // What the rules for print say, as if they held here.
    for (const rule of document.styleSheets[0].cssRules) {
      if (rule.conditionText !== "print") continue;
      const style = document.createElement("style");
      style.textContent = [...rule.cssRules].map((each) => each.cssText).join(" ");
      document.head.append(style);
    }
  }
  facts.sections = document.querySelectorAll("section").length;
  facts.width = document.documentElement.clientWidth;
  document.querySelectorAll("section details").forEach((each) => { each.open = true; });
  await opened();
  facts.scroll_width = document.documentElement.scrollWidth;
  facts.tools = getComputedStyle(document.querySelector(".tools")).display;
  facts.nav = getComputedStyle(document.querySelector("nav")).display;
  facts.items = rows().map((row) => row.querySelectorAll("li").length);
  facts.heads = [...rows()[0].querySelectorAll("h3")].map((each) => each.textContent);
  facts.first_title = rows()[0].querySelector("li").textContent;
  rows().slice(1).forEach((row) => { row.open = false; });
  set("left", "0", "change");
  facts.heads_after = [...rows()[0].querySelectorAll("h3")].map((each) => each.textContent);
  set("order", "gain", "change");
  facts.gains = rows().map((row) => { const [a, , b] = JSON.parse(row.dataset.values); return a - b; });
  set("order", "query", "change");
  facts.order = rows().map((row) => row.dataset.query);
  set("search", "QUERY> 3", "input");
  facts.shown = rows().filter((row) => row.offsetHeight > 0).map((row) => row.dataset.query);
  facts.found = document.getElementById("found").textContent;
  facts.unlike_glyphs = new Set(["东", "京", "\\u{10fffd}"].map(glyph)).size;
  parent.postMessage(JSON.stringify([NAME, facts]), "*");
})().catch((error) => parent.postMessage(JSON.stringify([NAME, String(error)]), "*"));
"""


def browse(*words: str) -> str:
    """What the browser prints."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_report(make_everything(folder))
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def facts(page: Path) -> dict[str, dict[str, Any]]:
    """By the name of the width, what the script found."""
    frames = ""
    for name, width in WIDTHS.items():
        script = f'<script>const NAME = "{name}";{ACT}</script>'
        page.with_name(f"{name}.html").write_text(
            page.read_text("utf-8").replace("</body>", f"{script}</body>"), "utf-8"
        )
        frames += f'<iframe src="{name}.html" style="width: {width}px; height: 4000px; border: 0"></iframe>'
    listen = """addEventListener("message", ({ data }) => {
      document.body.append(Object.assign(document.createElement("pre"), { textContent: data }));
    })"""
    around = page.with_name("around.html")
    around.write_text(f'<meta charset="utf-8"><body><script>{listen}</script>{frames}', "utf-8")
    dump = browse("--window-size=1400,3000", "--virtual-time-budget=5000", "--dump-dom", around.as_uri())
    found = dict(
        json.loads(text.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        for text in re.findall(r"<pre>(.*?)</pre>", dump, re.DOTALL)
    )
    assert found.keys() == WIDTHS.keys()
    return found


@pytest.mark.parametrize("name", WIDTHS)
def test_nothing_is_wider_than_the_page(facts: dict[str, dict[str, Any]], name: str) -> None:
    """With every fold open."""
    assert facts[name]["width"] == WIDTHS[name]
    assert facts[name]["scroll_width"] == WIDTHS[name]
    assert facts[name]["sections"] == 15


def test_a_row_opens_to_two_rankings_and_any_two_systems_can_be_chosen(facts: dict[str, dict[str, Any]]) -> None:
    found = facts["desktop"]
    assert found["items"] == [16] * 14  # 8 documents in each of the two
    assert found["heads"] == ["student", "labels-only"]
    assert found["heads_after"] == ["teacher", "labels-only"]
    assert re.match(r"\d title 0-\d & <i> ", found["first_title"])


def test_the_list_can_be_ordered_and_searched(facts: dict[str, dict[str, Any]]) -> None:
    for found in facts.values():
        assert found["gains"] == sorted(found["gains"], reverse=True)
        assert found["order"] == [f"q{number:02}" for number in range(14)]
        assert (found["shown"], found["found"]) == (["q03"], "1 found")


def test_paper_has_no_tools(facts: dict[str, dict[str, Any]]) -> None:
    assert (facts["paper"]["tools"], facts["paper"]["nav"]) == ("none", "none")
    assert "none" not in (facts["phone"]["tools"], facts["phone"]["nav"], facts["desktop"]["tools"])


def test_chinese_is_drawn(facts: dict[str, dict[str, Any]]) -> None:
    fonts = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True, check=False).stdout
    if not fonts:
        pytest.skip("no font with Chinese on this machine")
    assert facts["desktop"]["unlike_glyphs"] == 3  # two characters, and the box for what no font has


def test_pictures_and_paper(page: Path, tmp_path: Path) -> None:
    plain = page.with_name("plain.html")
    plain.write_text(
        '<meta charset="utf-8"><body style="margin: 0">'
        '<iframe src="report.html" style="width: 390px; height: 3000px; border: 0"></iframe>'
    )
    for name, address, size in (("desktop", page, "1200,3000"), ("phone", plain, "500,3000")):
        picture = tmp_path / f"{name}.png"
        browse(f"--window-size={size}", f"--screenshot={picture}", address.as_uri())
        assert picture.stat().st_size > 50_000
    paper = tmp_path / "paper.pdf"
    browse("--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    assert paper.read_bytes()[:4] == b"%PDF" and paper.stat().st_size > 50_000
