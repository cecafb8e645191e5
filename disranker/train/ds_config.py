"""The DeepSpeed configuration, built from the settings by one function: no second file says the same things."""

from __future__ import annotations

from typing import Any

from disranker import dist
from disranker.config.parts import ModelConfig, OptimConfig, TrainingConfig


def deepspeed_config(model: ModelConfig, optim: OptimConfig, training: TrainingConfig) -> dict[str, Any]:
    """What `deepspeed.initialize` is given."""
    return {
        # Batches are filled by tokens, so DeepSpeed's own count of samples means nothing here.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_clipping": optim.clip_norm,
        "bf16": {"enabled": dist.usable_dtype(model.dtype) == "bfloat16"},
        "zero_optimization": {"stage": training.zero_stage},
        # torch's AdamW is not on DeepSpeed's list of tested optimizers; the equivalence tests are ours.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
