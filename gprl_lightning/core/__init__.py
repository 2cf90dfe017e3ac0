"""The algorithm as pure functions: tensors in, tensors out.

May import torch and jaxtyping alone.
"""
