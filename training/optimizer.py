"""An optimizer that applies Muon to weight matrices and convolutions, and Adam to all other parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Moves the singular values of (..., rows, columns) towards 1 by the Newton-Schulz iteration of Muon.

    Each iteration multiplies from the left by a polynomial of the Gram matrix. Iterating on the Gram matrix alone, and
    applying the product to the matrix at the end, saves half of the work or more if one side is much longer.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).add(1e-7)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    gram = x @ x.mT
    whole: Tensor | None = None
    for _ in range(steps):
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = polynomial if whole is None else polynomial @ whole
        gram = polynomial @ gram @ polynomial
    if whole is not None:
        x = whole @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Updates groups with ``muon=True`` by orthogonalised momentum (convolutions flattened), the others by AdamW.

    Matrices of equal shape are processed together, and so are all of Adam's parameters: on a GPU, launching thousands
    of small computations would take longer than the computations.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        defaults = {"lr": 1e-3, "muon": False, "betas": (0.9, 0.99), "momentum": 0.95, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            if learning:
                torch._foreach_mul_(learning, 1 - group["lr"] * group["weight_decay"])
                (self._muon if group["muon"] else self._adam)(learning, group)

    def _muon(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        momenta = self._kept("momentum", parameters)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        alike: dict[torch.Size, list[int]] = {}
        for index, direction in enumerate(directions):
            alike.setdefault(direction.flatten(1).shape, []).append(index)
        for (rows, columns), indices in alike.items():
            together = orthogonalise(torch.stack([directions[index].flatten(1) for index in indices]))
            moved = [parameters[index] for index in indices]
            ways = [way.view_as(parameter) for way, parameter in zip(together, moved, strict=True)]
            torch._foreach_add_(moved, ways, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _adam(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        means, squares = self._kept("mean", parameters), self._kept("square", parameters)
        group["step"] = group.get("step", 0) + 1
        first, second = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
        scales = torch._foreach_div(squares, 1 - second ** group["step"])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, 1e-8)
        torch._foreach_addcdiv_(parameters, means, scales, value=-group["lr"] / (1 - first ** group["step"]))

    def _kept(self, name: str, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Returns a state tensor of each parameter, which persists between steps and starts at 0."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def optimizer_for(modules: Iterable[nn.Module], muon_lr: float, adam_lr: float, weight_decay: float = 0.0) -> Muon:
    """Assigns Muon to hidden matrices and convolutions; Adam to embeddings, norms, biases, first and last layers."""
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
    """Sets every group's learning rate to a fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
