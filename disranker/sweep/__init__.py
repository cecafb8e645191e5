"""Sweeps: many variants on many seeds as stage commands, done once each, and one table with intervals and tests.

`plan` turns the settings into steps, `runner` runs those that are not done yet, `table` reads what was measured, and
`render` and `picture` write it down.  Nothing here trains or scores: every step is a command that a user could type.
"""
