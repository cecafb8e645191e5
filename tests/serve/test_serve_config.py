from __future__ import annotations

from pathlib import Path

import pytest

from disranker.config.serve import ServeConfig
from disranker.settings import SettingsError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limits.queued_pairs", "10"], "queued_pairs = 10 would refuse a request of 1000 documents"),
        (["--cascade.threshold", "0.1"], "give a teacher that scores uncertain documents, or an uncertain_file"),
        (
            ["--cascade.uncertain_file", "u", "--cascade.threshold", "2.5", "--cascade.rule", "depth"],
            "2.5: with the rule",
        ),
        (
            [
                "--cascade.uncertain_file",
                "u",
                "--cascade.threshold",
                "3",
                "--cascade.rule",
                "depth",
                "--cascade.cut",
                "5",
            ],
            "cut belongs to the rules band and margin",
        ),
        (["--cascade.uncertain_file", "u"], "cascade.threshold: required"),
        (["--cascade.uncertain_file", "u", "--cascade.threshold", "1", "--cascade.documents", "1"], "documents"),
        (
            ["--cascade.teacher", "/", "--cascade.threshold", "1", "--cascade.seconds", "30"],
            "cascade.seconds = 30 is no less than limits.seconds = 30",
        ),
        (["--limits.documents", "20000", "--limits.queued_pairs", "20000"], "limits.documents"),
        (["--port", "70000"], "port"),
        (["--wait_milliseconds", "-1"], "wait_milliseconds"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        ServeConfig.parse(["--path", str(tmp_path), *words])


def test_a_resolved_config_parses_back(tmp_path: Path) -> None:
    words = ["--cascade.uncertain_file", "u", "--cascade.threshold", "3", "--cascade.rule", "depth"]
    config = ServeConfig.parse(["--path", str(tmp_path), *words])
    assert ServeConfig.model_validate(config.model_dump(mode="json")) == config
