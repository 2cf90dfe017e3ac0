"""Published benchmarks of chat models: AlpacaEval 2, Arena-Hard, MT-Bench and WildBench.

Each file of answers and of judgements has the form that the benchmark's authors gave it, so that
their tools read ours. Prompts of the judge, parsing and scores are theirs, too. `run` is the task,
`protocol` what a benchmark has to offer, `paper_table` the table over runs.

May import every room but `study` and `cli`.
"""
