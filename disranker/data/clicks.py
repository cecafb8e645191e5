"""Click logs as stage 1 reads them: which rows are usable, and which queries are held out.

What a row is worth as evidence is decided in `evidence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO

from disranker.data.faults import Fault, InputError
from disranker.data.readers import parse_rows, read_record_rows
from disranker.schema import Click, stable_seed

# Logs have rows without a text here and there.  Any other fault means that a column is not what it seems, positions
# that count from 0 for one, and leaving those rows out would leave out the best ones.
_SKIPPED = ("text", "field")


class ClickLog:
    """The usable rows of click logs in their order, read anew by every iteration; rows of 0 clicks are among them.

    A row without a query or (`titled`) a title, or without any text of a document, is skipped.  The first iteration
    counts these rows and writes each with its place into the file `faults`, if there are any.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        max_rows: int | None = None,
        titled: bool = True,
        logged: Sequence[str] = (),
        faults: Path | None = None,
    ) -> None:
        self._paths, self._max_rows, self._titled, self._logged = paths, max_rows, titled, tuple(logged)
        self._faults = faults
        self.num_skipped = 0
        """Rows without a text, as far as the first iteration has come."""
        self.first_skipped: Fault | None = None
        self._skipped_are_known = False

    def __iter__(self) -> Iterator[Click]:
        """The rows, `max_rows` of them at most.

        Raises:
            InputError: at the first fault that is no missing text.
        """
        if self._skipped_are_known:
            yield from islice(self._usable(lambda fault: None), self._max_rows)
            return
        self.num_skipped, self.first_skipped = 0, None
        if self._faults is not None:
            self._faults.unlink(missing_ok=True)  # of an earlier run over other rows
        with ExitStack() as files:
            yield from islice(self._usable(self._counter(files)), self._max_rows)
        self._skipped_are_known = True

    def describe_skipped(self) -> str:
        """How many rows were skipped, for a plan or a message."""
        where = f" (each is named in {self._faults})" if self._faults is not None else ""
        return f"{self.num_skipped:,} rows without {'query or title' if self._titled else 'query or document'}{where}"

    def _usable(self, note: Callable[[Fault], None]) -> Iterator[Click]:
        rows = read_record_rows(self._paths, Click)
        for item in parse_rows(rows, Click, titled=self._titled, logged=self._logged):
            if not isinstance(item, Fault):
                yield item
            elif item.kind not in _SKIPPED or item.line is None:
                raise InputError(item)
            else:
                note(item)

    def _counter(self, files: ExitStack) -> Callable[[Fault], None]:
        """What counts the rows of faults and writes them down, into a file that is there once there is one."""
        file: IO[str] | None = None
        place = None

        def note(fault: Fault) -> None:
            nonlocal file, place
            if place != (fault.path, fault.line):  # a row may have two faults
                place = (fault.path, fault.line)
                self.num_skipped += 1
            self.first_skipped = self.first_skipped or fault
            if self._faults is not None:
                if file is None:
                    self._faults.parent.mkdir(parents=True, exist_ok=True)
                    file = files.enter_context(self._faults.open("w", encoding="utf-8"))
                print(fault, file=file)

        return note


def is_held_out(query: str, dev_share: float) -> bool:
    """Whether a query, with all its clicks, is in the held-out part; about `dev_share` of the queries are."""
    # A hash of the query decides, so the split needs no memory and is the same in every run.
    return stable_seed("dev", query) / 2**64 < dev_share
