"""Tensors from the host to the device and back, with as few waits as can be. Ours.

A GPU works on while the host goes ahead, until the host asks for a number. So what the host knows
is sent in pinned memory, and what it must know is fetched in one piece. On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host's on the device, without waiting for what runs there."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def sent_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one dtype on the device, flat, by one copy."""
    if device.type == "cpu":
        return [tensor.flatten() for tensor in tensors]
    whole = sent(torch.cat([tensor.flatten() for tensor in tensors]), device)
    return list(torch.split(whole, [tensor.numel() for tensor in tensors]))


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors on the host, by one copy: one wait for all that was asked before."""
    found = {i: tensor for i, tensor in enumerate(tensors) if tensor.device.type == "cpu"}
    # In bytes, the widest numbers first, so that each part begins where its dtype may.
    away = sorted(set(range(len(tensors))) - {*found}, key=lambda i: -tensors[i].element_size())
    parts = [tensors[i].contiguous().flatten().view(torch.uint8) for i in away]
    if parts:
        whole = torch.cat(parts).cpu()
        for i, part in zip(away, torch.split(whole, [len(p) for p in parts]), strict=True):
            found[i] = part.view(tensors[i].dtype).view(tensors[i].shape)
    return [found[i] for i in range(len(tensors))]
