"""The learning rate of a step as a function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from disranker.config.parts import OptimConfig


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of step 0 ≤ `step` < `num_steps`: linear warm-up, then cosine, linear, wsd or constant.

    The first step already moves (its rate is not 0), and the last one still does unless the warm-up fills the run.
    """
    # 0.07 * 100 is 7.000000000000001 in floating point, and still 7 steps.
    warmup_steps = math.ceil(config.warmup_share * num_steps - 1e-9)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    # 1 at the end of the warm-up, towards 0 at num_steps
    remaining = (num_steps - step) / max(1, num_steps - warmup_steps)
    if config.schedule == "cosine":
        share = 0.5 * (1.0 - math.cos(math.pi * remaining))
    elif config.schedule == "linear":
        share = remaining
    elif config.schedule == "wsd":
        decay_steps = max(1, round(config.decay_share * num_steps))
        share = min(1.0, (num_steps - step) / decay_steps)
    else:
        share = 1.0
    return config.learning_rate * (config.final_share + (1.0 - config.final_share) * share)
