"""Policies and preference sources: loading, forward passes that read a prompt once, saving.

May import `errors`, `core`, `config`, `runtime` and `tracking`.
"""
