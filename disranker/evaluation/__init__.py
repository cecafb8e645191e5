"""Evaluation: measures, significance, baselines, efficiency and the report."""
