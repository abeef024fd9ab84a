"""What each of two processes does in test_accumulation.py; imports little, since each of them imports it anew."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kd_lightning.core.accumulation import TokenWeights


def part_of(row):
    """A batch of six numbers of which some count."""
    generator = torch.Generator().manual_seed(row)
    mask = torch.arange(6) < 1 + 2 * row
    return {"x": torch.randn(1, 6, 3, generator=generator), "loss_mask": mask.unsqueeze(0)}


def mean_loss(net, batches):
    values = torch.cat([net(b["x"]).squeeze(-1)[b["loss_mask"]] for b in batches])
    return values.square().mean()


def compare(rank, port):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    alone = copy.deepcopy(net)
    mean_loss(alone, [part_of(row) for row in range(3)] + [part_of(2)]).backward()
    shared, weights = DistributedDataParallel(net), TokenWeights()
    mine = [part_of(0), part_of(2)] if rank == 0 else [part_of(1), part_of(2)]
    with shared.no_sync():
        (weights.weigh(mean_loss(shared, mine[:1]), mine[0]) / 2).backward()
    (weights.weigh(mean_loss(shared, mine[1:]), mine[1]) / 2).backward()
    weights.settle(torch.optim.SGD(net.parameters(), 0.1), batches=2)
    torch.testing.assert_close(net.weight.grad, alone.weight.grad)
    torch.distributed.destroy_process_group()
