"""A process that runs the steps of a sweep one after another: what they import is loaded once, not at every step.

Loading torch, transformers and deepspeed takes ten seconds, as long as a small step.  Started by `runner`; reads one
request a line (JSON: argv and log), answers with the exit code, and ends with its input.  When the sweep is killed it
finishes the step that it is at.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback

from disranker.cli import main as run_command


def main() -> None:
    """Run what comes on standard input, until it ends."""
    replies = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for line in sys.stdin:
        request = json.loads(line)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        _send_output_to(log)
        code = _run(request["argv"])
        _send_output_to(nowhere)
        os.close(log)
        gc.collect()  # an engine and its model refer to each other
        replies.write(f"{code}\n")
        replies.flush()


def _run(argv: list[str]) -> int:
    try:
        return run_command(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:
        # The process lives on for other steps; in one of its own, the interpreter would do the same.
        traceback.print_exc()
        return 1


def _send_output_to(file: int) -> None:
    # Below Python, for native code prints too.
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    main()
