"""Samplers: from prompts and a policy to responses with their log-probabilities.

May import `errors`, `core`, `config`, `runtime`, `tracking` and `models`.
"""
