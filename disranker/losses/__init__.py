"""Losses: pure functions of [Q, D] tensors and a mask, fp32 inside."""
