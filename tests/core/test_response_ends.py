"""Masks that say where responses ended, and masks that do not."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.response_ends import misplaced_ends

A, B, EOS, END = 5, 6, 1, 2
T, F = True, False


@pytest.mark.parametrize(
    ("ids", "mask", "finished", "misplaced"),
    [
        ([A, B, EOS, 0], [T, T, T, F], T, F),
        ([A, END, EOS, EOS], [T, T, F, F], T, F),  # pad = EOS behind the other EOS
        ([EOS, 0, 0, 0], [T, F, F, F], T, F),  # an empty answer
        ([A, B, A, B], [T, T, T, T], F, F),  # cut
        ([A, B, A, EOS], [T, T, T, T], T, F),  # ends with the last token allowed
        ([A, B, EOS, EOS], [T, T, F, F], T, T),  # the true EOS taken for padding
        ([EOS, EOS, EOS, EOS], [F, F, F, F], T, T),  # all of it
        ([A, EOS, B, EOS], [T, T, T, T], T, T),  # went on after its end
        ([A, EOS, B, 0], [T, T, T, F], F, T),
        ([A, B, A, EOS], [T, T, T, T], F, T),  # ended, and is said not to
        ([A, B, A, B], [T, T, T, T], T, T),  # cut, and is said not to be
        ([A, B, A, EOS], [F, T, T, T], T, T),  # not from the start
        ([A, B, A, EOS], [T, F, T, T], T, T),  # a hole
    ],
)
def test_misplaced_ends(ids, mask, finished, misplaced):
    fine = (torch.tensor([A, B, EOS, 0]), torch.tensor([T, T, T, F]), torch.tensor(T))
    rows = zip(fine, map(torch.tensor, (ids, mask, finished)), strict=True)
    found = misplaced_ends(*(torch.stack(pair) for pair in rows), (EOS, END))
    assert found.tolist() == [False, misplaced]
