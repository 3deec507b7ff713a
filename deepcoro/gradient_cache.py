"""A loss that compares rows with each other, over the rows of several micro-batches: memory of one, gradient of all.

Every micro-batch runs twice. First without gradients, which leaves its embeddings; the loss over the embeddings of all of them is
taken once and gives their gradients. Then with gradients, where <embeddings, their gradients> stands in for the loss: its
gradient is the loss's. Both runs draw the same dropout. Gao et al. 2021 (GradCache, arXiv:2101.06983); differs in that numbers all
micro-batches share (scale, bias) get the gradient of the loss once, not once a micro-batch, and that ranks may differ in rows.

What an objective makes of a micro-batch (`embedded`) has three parts: `rows` {name: [row, ...]} and `shared` {name: [1]}, which get
gradients, and `labels` {name: [row, ...]}, which do not. Rows and labels of micro-batches are joined, shared numbers are equal in all.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Embedded = dict[str, dict[str, Tensor]]
WITH_GRADIENT = ("rows", "shared")


def window_gradients(
    micro_batches: list[Embedded],
    loss_of: Callable[[Embedded], dict[str, Tensor]],
    normalise: Callable[[Tensor], Tensor],
) -> tuple[dict[str, Tensor], list[Embedded]]:
    """What `loss_of` says of all rows together, detached, and for each micro-batch the gradients of its `sum`, normalised.

    Collective, as `loss_of` is. Of the shared numbers the first micro-batch gets the gradient and the others zeros.
    """
    window = joined(micro_batches)
    leaves = [each.requires_grad_() for part in WITH_GRADIENT for each in window[part].values()]
    with torch.enable_grad():
        results = loss_of(window)
        loss = normalise(results["sum"]).sum()
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    remaining = iter(found)
    gradients = {part: {name: next(remaining) for name in window[part]} for part in WITH_GRADIENT}
    results = {name: value.detach() for name, value in results.items()}
    return results, _shared_out(gradients, micro_batches)


def joined(micro_batches: list[Embedded]) -> Embedded:
    """All micro-batches as one, in their order; new tensors without gradient."""
    first = micro_batches[0]
    window = {
        part: {name: torch.cat([each[part][name] for each in micro_batches]).detach() for name in first[part]}
        for part in ("rows", "labels")
    }
    return window | {"shared": {name: value.detach().clone() for name, value in first["shared"].items()}}


def surrogate(embedded: Embedded, gradients: Embedded) -> Float[Tensor, "1"]:
    """A number whose gradient is that of the cached loss."""
    terms = [
        (embedded[part][name] * gradient).sum()
        for part, named in gradients.items()
        for name, gradient in named.items()
    ]
    return sum(terms).reshape(1)


def _shared_out(gradients: Embedded, micro_batches: list[Embedded]) -> list[Embedded]:
    pieces = {
        name: gradient.split([len(each["rows"][name]) for each in micro_batches])
        for name, gradient in gradients["rows"].items()
    }
    once = [gradients["shared"]] + [
        {name: torch.zeros_like(each) for name, each in gradients["shared"].items()}
    ] * (len(micro_batches) - 1)
    return [
        {"rows": {name: piece[number] for name, piece in pieces.items()}, "shared": once[number]}
        for number in range(len(micro_batches))
    ]
