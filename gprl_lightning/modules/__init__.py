"""LightningModules: one per objective. `GPRLModule.training_step` is the algorithm.

May import everything up to `models`, `rollout` and `data`.
"""
