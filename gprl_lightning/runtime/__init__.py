"""The process that a run lives in: ranks, signals, allocator, profiler, checkpoint files,
and clients of model servers.

May import `errors`, `core` and `config`.
"""
