"""The settings of every stage: one frozen class each, composed of shared parts.

A docstring under a field is its `--help` text.  Values come from a YAML file and dotted overrides on the command line
(`disranker.settings`), from nowhere else.
"""
