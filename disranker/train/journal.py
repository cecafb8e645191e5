"""What a run tells: every step to metrics.jsonl, a short view to the screen, TensorBoard when asked for."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from disranker import dist


class Journal:
    """Writes on process 0 only; a resumed run drops the lines after its checkpoint and goes on from there."""

    def __init__(self, out: Path, *, num_steps: int, first_step: int, log_every: int, tensorboard: bool) -> None:
        self._num_steps, self._log_every = num_steps, log_every
        self._path = out / "metrics.jsonl"
        self._began, self._first_step = time.monotonic(), first_step
        self._writer: Any = None
        if not dist.is_main():
            return
        out.mkdir(parents=True, exist_ok=True)
        kept = _lines_up_to(self._path, first_step)
        self._path.write_text("".join(kept), encoding="utf-8")
        if tensorboard:
            self._writer = _tensorboard_writer(out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Record optimizer step `step`, counted from 1."""
        self._write({"step": step, **metrics})
        if step % self._log_every == 0 or step == self._num_steps:
            elapsed = time.monotonic() - self._began
            left = elapsed / (step - self._first_step) * (self._num_steps - step)
            bits = f"  {metrics['bits_per_byte']:.3f} bits/byte" if "bits_per_byte" in metrics else ""
            share = f" ({metrics['peak_share']:.0%} of peak)" if "peak_share" in metrics else ""
            dist.print_once(
                f"  step {step:>{len(str(self._num_steps))}}/{self._num_steps}  loss {metrics['loss']:.4f}{bits}  "
                f"rate {metrics['learning_rate']:.2e}  {metrics['tokens_per_second']:,.0f} tokens/s{share}  "
                f"left {clock(left)}"
            )

    def evaluation(self, step: int, measures: dict[str, float], *, best: bool) -> None:
        """Record an evaluation on the dev set after `step` steps."""
        self._write({"step": step, "dev": measures})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in measures.items())
        dist.print_once(f"  step {step}: dev {shown}{'  (best so far)' if best else ''}")

    def _write(self, line: dict[str, Any]) -> None:
        if not dist.is_main():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line), allow_nan=False) + "\n")
        if self._writer is not None:
            for name, value in {**line, **line.get("dev", {})}.items():
                if isinstance(value, float):
                    self._writer.add_scalar(name, value, line["step"])


def finite(content: dict[str, Any]) -> dict[str, Any]:
    """The same with numbers that JSON does not have as the strings inf, -inf and nan: a PNR may be infinite."""
    return {
        name: finite(value)
        if isinstance(value, dict)
        else str(value)
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in content.items()
    }


def clock(seconds: float) -> str:
    """Seconds as 1:23:45, or 1:23 under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _lines_up_to(path: Path, step: int) -> list[str]:
    if step == 0 or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A killed run may leave half a line at the end.
    whole = [line for line in lines if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] <= step]


def _tensorboard_writer(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("training.tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(str(out / "tensorboard"))
