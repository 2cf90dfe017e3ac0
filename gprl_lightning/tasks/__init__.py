"""Whole jobs: build the parts of a run from its configuration, and run them.

May import everything but `study` and `cli`.
"""
