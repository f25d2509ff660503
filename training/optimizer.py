"""Muon for weight matrices and convolutions, Adam for everything else, in one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of (rows, columns) towards 1: the Newton-Schulz iteration of Muon.

    Each iteration multiplies from the left by a polynomial of the Gram matrix; working on the Gram matrix alone, and
    on the matrix itself only at the end, saves half of the work or more where one side is much the longer.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / torch.linalg.matrix_norm(matrix).add(1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    gram = x @ x.T
    whole: Tensor | None = None
    for _ in range(steps):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        whole = polynomial if whole is None else polynomial @ whole
        gram = polynomial @ gram @ polynomial
    if whole is not None:
        x = whole @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Groups with ``muon=True`` follow orthogonalised momentum (convolutions flattened), the others AdamW."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        defaults = {"lr": 1e-3, "muon": False, "betas": (0.9, 0.99), "momentum": 0.95, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group)

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]).flatten(1)
        rows, columns = direction.shape
        direction = orthogonalise(direction).view_as(parameter)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (square / (1 - second ** state["step"])).sqrt_().add_(1e-8)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - first ** state["step"]))


def optimizer_for(modules: Iterable[nn.Module], muon_lr: float, adam_lr: float, weight_decay: float = 0.0) -> Muon:
    """Muon for hidden matrices and convolutions; Adam for embeddings, norms, biases, first and last layers."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            edge = "conv_in" in name or "conv_out" in name or "embedding." in name
            (matrices if parameter.ndim >= 2 and not edge else others).append(parameter)
    return Muon(
        [
            {"params": matrices, "lr": muon_lr, "peak": muon_lr, "muon": True, "weight_decay": weight_decay},
            {"params": others, "lr": adam_lr, "peak": adam_lr},
        ]
    )


def scale_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
