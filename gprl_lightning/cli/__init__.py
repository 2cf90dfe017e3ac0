"""Commands around a run, and what surrounds `train.py` on the command line.

May import everything below; nothing imports it but `train.py` and `__main__.py`.
"""
