"""What a run leaves behind: metric names, loggers, the run's folder, rollout logs, reports.

May import `errors`, `core`, `config` and `runtime`.
"""
