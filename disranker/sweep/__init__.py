"""Sweeps, many variants on many seeds, and paths, one ranker made from another: stage commands, done once each.

`plan` turns the settings into steps and `runner` runs those that are not done yet.  Of what was measured `table` makes
the table of a sweep, with intervals and tests, which `render` and `picture` write down; `path_table` makes that of a
path, with what each ranker keeps of its teacher.  Nothing here trains or scores: every step is a command that a user
could type.
"""
