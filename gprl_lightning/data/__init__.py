"""Prompts and preference pairs, from files, the hub or memory, and their resumable loaders.

May import `errors`, `core`, `config`, `runtime`, `tracking` and `models`.
"""
