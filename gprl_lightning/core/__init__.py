"""The algorithm as pure functions: tensors in, tensors out. Imports torch and jaxtyping only."""
