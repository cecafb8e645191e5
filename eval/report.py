"""The report over evaluated systems: report.html, report.md, report.json.

    python eval/report.py --config eval/configs/report_world.yaml

Every figure is read from what eval/run.py wrote, or computed from its scores, the judgments and the click log that the
settings name; every difference comes with a paired test and an interval.
"""

from __future__ import annotations

import sys

from disranker.config.evaluation import ReportConfig
from disranker.evaluation.report import write_report
from disranker.launch import call_main

CONFIG = ReportConfig


def main(argv: list[str] | None = None) -> int:
    config = ReportConfig.load(argv, prog="eval/report.py", description=__doc__)
    write_report(config)
    print(f"wrote {config.out}: report.html, report.md, report.json")
    return 0


if __name__ == "__main__":
    sys.exit(call_main(main))
