"""The cheapest way to move one distribution onto another: a small linear programme, solved exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def transport(cost: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
    """The flow of least cost.

    Args:
        cost: Cost of moving a unit from i to j, (M, N).
        supply: What is at i, (M,); sums to 1.
        demand: What is wanted at j, (N,); sums to 1.

    Returns:
        Flow (M, N) with these row and column sums, without gradient, like ``cost`` in device and type.
    """
    import numpy as np
    from scipy.optimize import linprog

    rows, columns = cost.shape
    sums = np.zeros((rows + columns, rows * columns))
    for i in range(rows):
        sums[i, i * columns : (i + 1) * columns] = 1
    for j in range(columns):
        sums[rows + j, j::columns] = 1
    a, b = (x.double().cpu().numpy() for x in (supply, demand))
    limits = np.concatenate([a / a.sum(), b / b.sum()])
    prices = torch.nan_to_num(cost.double()).cpu().numpy()
    # To a scale of 1, so that the solver's tolerances mean the same for every cost; one equation follows from the rest.
    scaled = (prices / max(float(np.abs(prices).max()), 1e-300)).ravel()
    found: Any = linprog(scaled, A_eq=sums[:-1], b_eq=limits[:-1], method="highs")
    flow = found.x.reshape(rows, columns) if found.success else np.outer(limits[:rows], limits[rows:])
    return torch.as_tensor(flow).to(cost)
