"""The peak memory of a Python process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import tiny_runs

# Not ru_maxrss: that of a new process begins with the peak of the one that started it.
_PEAK = """
from pathlib import Path
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


def run_measured(program: str, *arguments: str | Path, timeout: float = 600) -> tuple[list[str], int]:
    """The lines that a program printed, and the most bytes of memory that it held (Linux)."""
    command = [sys.executable, "-c", program + _PEAK, *map(str, arguments)]
    done = subprocess.run(
        command, env=tiny_runs.environment(), capture_output=True, text=True, check=True, timeout=timeout
    )
    *lines, peak = done.stdout.splitlines()
    return lines, int(peak) * 1024
