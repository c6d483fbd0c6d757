"""The Muon optimizer in float32: torch's own computes in bfloat16, which is very slow on most CPUs.

The method and its constants: https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS = 0.2  # typical size of an AdamW update, for comparable learning rates: arXiv:2502.16982


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum, where the update of each matrix is made orthogonal.

    `weights` must be matrices; `lr` and the decoupled `weight_decay` are on AdamW's scale.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update from the current gradients; `closure` is not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        if weight.grad is None:
            return
        state = self.state[weight]
        average = state.setdefault("average", torch.zeros_like(weight))
        average.lerp_(weight.grad, 1 - group["momentum"])
        update = _orthogonal(weight.grad.lerp(average, group["momentum"]))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * _RMS * max(weight.shape) ** 0.5)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Approximates the nearest matrix with all singular values 1 (a quintic Newton-Schulz iteration)."""
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    estimate: Tensor = wide / (wide.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = estimate @ estimate.T
        first, second, third = _COEFFICIENTS
        estimate = first * estimate + (second * gram + third * gram @ gram) @ estimate
    return estimate if wide is matrix else estimate.T
