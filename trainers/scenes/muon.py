"""Muon in float32: momentum whose update is orthogonalised by Newton-Schulz iterations (K. Jordan et al., 2024).

torch.optim.Muon iterates in bfloat16, which is as slow as the model itself on CPUs that emulate it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalised(update: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrix to `update` [m, n]: most singular values are 0.7 to 1.2."""
    x: Tensor = update / (update.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For the hidden matrices of a model; `lr` means what it means for AdamW (the update's root mean square is 0.2)."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.02
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                moving = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = orthogonalised(parameter.grad + group["momentum"] * moving)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)
