"""Training: one engine for three stages, its objectives, and checkpoints."""
