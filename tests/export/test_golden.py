"""Golden pairs hold the cases that integrations get wrong, and the checkers find what they are there to find."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disranker.export.check_golden import find_differences
from disranker.export.golden import choose_pairs
from disranker.export.node_check import NODE_CHECK
from disranker.models.bundle import save_bundle
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from tests.export.students import MAX_TOKENS, PAIRS, build, document, export

_, ENCODER = build("bert")


def golden_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "golden.jsonl").read_text("utf-8").splitlines()]


def write_golden_of(folder: Path, pairs: list[dict[str, Any]]) -> None:
    (folder / "golden.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def run_check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def test_the_special_pairs_come_first_and_the_rest_is_spread_over_the_lengths() -> None:
    pairs = [Pair("zor bax", f"melu {index}", "gon " * index) for index in range(60)]
    chosen = choose_pairs(pairs, ENCODER)
    assert len(chosen) == len(set(chosen)) == 20
    overlong, without_summary, many_scripts = chosen[:3]
    assert ENCODER.encode([overlong])[0].num_cut > 0
    assert without_summary.summary == "" and without_summary.title
    assert not many_scripts.title.isascii() and not many_scripts.query.isascii()
    rest = [len(pair.summary) for pair in chosen[3:]]
    assert rest == sorted(rest) and rest[0] == 0 and rest[-1] >= 4 * 57
    assert chosen == choose_pairs(pairs, ENCODER)


def test_a_pair_is_made_overlong_where_none_is() -> None:
    overlong, *_ = choose_pairs([Pair("zor", "", "melu")], ENCODER)
    assert ENCODER.encode([overlong])[0].num_cut > 0
    # Of a summary that gives no token at all, too.
    overlong, *_ = choose_pairs([Pair("zor", "", "\u200b")], ENCODER)
    assert ENCODER.encode([overlong])[0].num_cut > 0


def test_few_pairs_give_few_golden_ones_and_empty_texts_none() -> None:
    chosen = choose_pairs([Pair("zor", "melu", "gon"), Pair("", "melu", "gon"), Pair("zor", "", "")] * 2, ENCODER)
    assert len(chosen) == 4
    assert chosen[-1] == Pair("zor", "melu", "gon")
    with pytest.raises(ValueError, match="none has a query and a document"):
        choose_pairs([Pair("", "melu", "gon"), Pair("zor", "", "")], ENCODER)


def test_golden_pairs_are_what_the_bundle_makes_of_them(bundle: Path, exported: Path) -> None:
    golden = golden_of(exported)
    assert len(golden) == 20
    pairs = [Pair(pair["query"], pair["document"], "") for pair in golden]
    scorer = Scorer.load(bundle)
    np.testing.assert_allclose([pair["score"] for pair in golden], scorer.score(pairs), rtol=0, atol=1e-6)
    for pair, tokens in zip(golden, scorer.encoder.encode(pairs), strict=True):
        assert pair["input_ids"] == tokens.ids.tolist()
        assert pair["token_type_ids"].index(1) == tokens.second
    assert len(golden[0]["input_ids"]) == MAX_TOKENS
    assert {document(pair) for pair in PAIRS} >= {pair["document"] for pair in golden[3:]}


def test_check_passes_on_the_export_itself(exported: Path) -> None:
    assert find_differences(exported) == []
    done = run_check(exported)
    assert (done.returncode, done.stdout) == (0, "all golden pairs give their ids and their score\n"), done.stderr


def test_check_needs_onnxruntime_and_tokenizers_alone(exported: Path) -> None:
    imports = set(re.findall(r"^\s*(?:import|from) (\w+)", (exported / "check.py").read_text("utf-8"), re.MULTILINE))
    # numpy comes with onnxruntime
    assert imports - set(sys.stdlib_module_names) == {"onnxruntime", "tokenizers", "numpy"}


def test_check_finds_a_tokenizer_that_cuts_elsewhere(copied: Path) -> None:
    content = json.loads((copied / "tokenizer.json").read_text("utf-8"))
    content["truncation"]["max_length"] = MAX_TOKENS - 1
    (copied / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    done = run_check(copied)
    assert done.returncode == 1
    assert "pair 1: input_ids are [" in done.stderr and "pair 1: the score is" in done.stderr
    # All of the short ones are right.
    assert "pair 5:" not in done.stderr


def test_check_finds_token_types_that_are_dropped(copied: Path) -> None:
    content = json.loads((copied / "tokenizer.json").read_text("utf-8"))
    content["post_processor"]["pair"] = [
        {kind: {**piece, "type_id": 0} for kind, piece in part.items()} for part in content["post_processor"]["pair"]
    ]
    (copied / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    differences = find_differences(copied)
    assert sum("token_type_ids" in difference for difference in differences) == 20
    assert sum("score" in difference for difference in differences) == 20


def test_check_finds_a_score_that_is_off_and_takes_a_tolerance(copied: Path) -> None:
    golden = golden_of(copied)
    golden[7]["score"] += 0.01
    write_golden_of(copied, golden)
    done = run_check(copied)
    assert done.returncode == 1
    assert done.stderr.startswith("pair 8: the score is") and done.stdout == "1 differences\n"
    assert run_check(copied, "--tolerance", "0.02").returncode == 0


def test_a_model_without_token_types_has_none_in_its_golden_pairs(tmp_path: Path) -> None:
    save_bundle(tmp_path / "student", *build("roberta"), {})
    export(tmp_path / "student", tmp_path / "out", max_difference=2e-5)
    assert all("token_type_ids" not in pair for pair in golden_of(tmp_path / "out"))
    assert find_differences(tmp_path / "out") == []


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@needs_node
def test_the_checker_for_node_is_sound_javascript(exported: Path) -> None:
    done = subprocess.run(
        ["node", "--check", str(exported / "check.mjs")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@needs_node
def test_the_checker_for_node_cuts_as_the_encoder_does(tmp_path: Path) -> None:
    function = NODE_CHECK[NODE_CHECK.index("function longestFirst") : NODE_CHECK.index("let differences")]
    lengths = [(query, doc) for query in (1, 5, 17, 18, 19, 20, 40) for doc in (1, 5, 17, 18, 19, 20, 40)]
    script = f"{function}\nconsole.log(JSON.stringify({json.dumps(lengths)}.map(([q, d]) => longestFirst(q, d, 37))))"
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, timeout=60)
    encoded = ENCODER.encode([Pair("zor " * query, "", "zor " * doc) for query, doc in lengths])
    # [CLS] query [SEP] document [SEP]
    assert json.loads(done.stdout) == [[one.second - 2, len(one.ids) - one.second - 1] for one in encoded]
