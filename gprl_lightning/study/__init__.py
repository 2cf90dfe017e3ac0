"""The laboratory: detectors, grids of arms, verdicts, pages.

May import everything but `cli`.
"""
