"""One of two processes: gradients of an iteration whose rows are spread over both, against one."""

import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from tests.modules.edge_rollout import edge_rollout
from tests.modules.test_partition import (
    AGGREGATIONS,
    EVERYTHING,
    ROWS,
    distance,
    gradient,
    module_of,
)

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5))
splits = [order[:6], order[:1], order[:11], EVERYTHING[:6], EVERYTHING[:3]]

cases = []
for dtype in (torch.float64, torch.float32):
    for aggregation in AGGREGATIONS:
        module = module_of(dtype, loss_aggregation=aggregation)
        scored = edge_rollout(module.policy)
        cases.append((dtype, aggregation, module, scored, gradient(module, scored)))

dist.init_process_group(
    "gloo", init_method=f"file://{folder / 'meeting_point'}", rank=rank, world_size=2
)
errors = {}
for dtype, aggregation, module, scored, expected in cases:
    for number, first in enumerate(splits):
        rest = EVERYTHING[~torch.isin(EVERYTHING, first)]
        rows = (first, rest)[rank]
        found = gradient(module, scored, rows, micro_batch_size=2 + 3 * rank)
        name = str(dtype).removeprefix("torch.")
        errors[name, aggregation, number] = distance(found, expected)
torch.save(errors, folder / f"errors{rank}.pt")
dist.destroy_process_group()
