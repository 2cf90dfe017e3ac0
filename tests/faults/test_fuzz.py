"""A small slice of the fuzzer with fixed cases; `make fuzz` is the whole of it."""

from __future__ import annotations

from tests.faults.fuzz import fuzz


def test_a_slice_of_the_fuzzer_is_lawful():
    found = fuzz(100, derandomize=True)
    kinds = {name.partition(":")[0] for name in found}
    assert kinds == {"configuration", "data", "pairs", "checkpoint", "template", "model"}
    assert sum(found.values()) >= 100
    for kind in kinds - {"configuration"}:
        assert found[f"{kind}: refused"] > 0, f"no {kind} was refused"
