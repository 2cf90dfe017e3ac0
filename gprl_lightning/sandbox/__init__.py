"""A small world that ships with the package: a language model, requests, a gold, pairs.

May import everything up to `modules` and `callbacks`.
"""
