"""Win rates, judges, and what a preference model is worth on labelled pairs.

May import everything up to `models`, `rollout` and `data`.
"""
