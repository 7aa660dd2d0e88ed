# SPDX-License-Identifier: Apache-2.0
"""Gradients of the custom operators, taken through their PyTorch definitions, and what autocast does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiate_through(op: Any, definition: Callable[..., Tensor], tensors: int) -> None:
    """Registers the gradient of ``op`` as that of ``definition``, which is run again when a gradient is asked for.

    Training speed is not this project's concern, correct gradients are; so there is one formula, not a second one
    derived by hand.

    Args:
        op: The ``torch.library.custom_op``; its first ``tensors`` arguments are tensors, the rest constants.
        definition: Differentiable function with the operator's arguments.
        tensors: How many leading arguments are tensors.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.constants = inputs[tensors:]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            result = definition(*leaves, *ctx.constants)
        gradients = torch.autograd.grad(result, leaves, gradient)
        wanted = (g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False))
        return (*wanted, *(None for _ in ctx.constants))

    op.register_autograd(backward, setup_context=setup_context)


def differentiate_by(op: Any, gradients: Callable[..., tuple[Tensor, ...]], tensors: int) -> None:
    """Registers that ``gradients`` gives those of ``op``.

    Args:
        op: The ``torch.library.custom_op``; its first ``tensors`` arguments are tensors, the rest constants.
        gradients: Takes the gradient of the result and the operator's arguments.
        tensors: How many leading arguments are tensors.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.constants = inputs[tensors:]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*gradients(gradient, *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants))

    op.register_autograd(backward, setup_context=setup_context)


def widen_under_autocast(op: Any) -> None:
    """Registers that autocast gives ``op`` fp32, as it does ``softmax`` and ``grid_sample``, which these are made of.

    Without it one input comes in half precision, from a convolution, and the other in fp32.
    """
    for device in ("cpu", "cuda"):
        op.register_autocast(device, torch.float32)
