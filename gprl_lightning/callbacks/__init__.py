"""Thin Lightning callbacks: the drift monitor, the invariants, evaluation, checkpoints.

May import everything below `modules`; callbacks and modules do not import each other.
"""
