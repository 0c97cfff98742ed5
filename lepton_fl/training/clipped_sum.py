"""The sum of clipped per-record gradients: the one place where a record touches the model.

`ClippedSum` is the interface of every engine; `OpacusClippedSum` computes per-record gradients with
Opacus' hooks on the bare model, so parameter names never change and any layer Opacus knows is trained.

Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1 (flat clipping).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples, per_record_loss

_BLOCK = 1 << 18  # numbers taken to float64 at once: memory stays that of the gradients, and a block in the cache
LARGEST_SHARE = 100.0  # times the clipping norm: what one record counts with among several of its owner, at most
LARGEST_NORM = 1e18  # times the clipping norm; a record beyond is broken


class ClippedSum(Protocol):
    """Adds up gradients so that no record, or no subject, moves the sum by more than the clipping norm."""

    @property
    def most_in_float32(self) -> int:
        """Of so many records at most the engine's own sum is of float32, and so may be the `out` of their step."""

    def attach(self, model: nn.Module) -> None:
        """Prepare the model; raises `UnsupportedModel` naming the layer that cannot be bounded."""

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        """Add each record's gradient, scaled to norm <= `clipping_norm`, to `out`.

        Args:
            batch: n >= 1 records.
            clipping_norm: L2 over all parameters as one vector.
            out: float64 [d], parameters in the model's order, flattened and joined; see `most_in_float32`.
            owners: int64 [n], whose record each is, 0..owners-1; then it is the mean of an owner's gradients that is
                scaled and added, once for each owner; a gradient beyond 100 times `clipping_norm` counts in a mean as
                one of that norm. None: every record is an owner of its own.

        What is added is multiplied by the record's weight, after it was scaled: a weight in the loss would be undone by
        the scaling, and one of at most 1 leaves the bound as it is. An owner's weight is the mean of their records'.

        A record whose gradient is not finite adds nothing, and neither does its owner.

        Raises:
            ValueError: a weight outside of (0, 1].
        """

    def detach(self) -> None:
        """Leave the model as `attach` found it."""


class OpacusClippedSum:
    """Per-record gradients by Opacus' hooks; the reference, and right for every supported layer."""

    most_in_float32 = 0

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._hooks: Any = None
        self._was_training = True

    def attach(self, model: nn.Module) -> None:
        """See `ClippedSum.attach`."""
        from opacus.grad_sample.grad_sample_module import GradSampleHooks
        from opacus.validators import ModuleValidator

        refuse_tied_parameters(model)
        # Opacus looks at layers in training mode only, and BatchNorm is harmless outside of it.
        self._was_training = model.training
        model.train()
        problems = ModuleValidator.validate(model, strict=False)
        if problems:
            raise UnsupportedModel(
                f"{' '.join(str(problems[0]).split())}; nothing was trained; choose a model whose layers treat "
                "each record alone (GroupNorm instead of BatchNorm)"
            )
        for name, _ in model.named_buffers():
            raise UnsupportedModel(
                f"buffer {name} would carry values computed from records past the noise; nothing was trained; choose "
                "layers without buffers"
            )
        self._model = model
        self._hooks = GradSampleHooks(model, batch_first=True, loss_reduction="sum")

    def detach(self) -> None:
        """See `ClippedSum.detach`."""
        if self._model is None:
            return
        self._hooks.cleanup()
        self._model.train(self._was_training)
        for parameter in self._model.parameters():
            # Opacus leaves its attributes behind; a later engine on the same model would trip over them.
            for name in ("grad_sample", "_forward_counter", "_current_grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
            parameter.grad = None
        self._model = self._hooks = None

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        """See `ClippedSum.add`."""
        if self._model is None:
            raise UnsupportedModel("the model is not attached; this is a bug")
        weights = weights_of(batch, owners)
        self._forget()
        try:
            with warnings.catch_warnings():
                # The input needs no gradient, so torch warns that a full backward hook sees none for it.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                per_record_loss(self._model(batch.features), batch.labels).sum().backward()
            gradients = [self._gradient_of(name, p) for name, p in self._trained()]
            if owners is not None:
                gradients = _averaged(gradients, owners, clipping_norm)
            add_clipped_rows(gradients, clipping_norm, out, weights)
        finally:
            # An exception must leave nothing that a later step would release beside its own draw.
            self._forget()

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        assert self._model is not None  # noqa: S101 - for the type checker; `add` has refused
        return [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]

    def _gradient_of(self, name: str, parameter: nn.Parameter) -> Tensor:
        gradient = getattr(parameter, "grad_sample", None)
        if not isinstance(gradient, Tensor):
            raise UnsupportedModel(
                f"parameter {name} takes no part in the model's output, or more than once; nothing was released; "
                "remove it or freeze it"
            )
        return gradient.flatten(start_dim=1)

    def _forget(self) -> None:
        for _, parameter in self._trained():
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            if hasattr(parameter, "_current_grad_sample"):
                del parameter._current_grad_sample
        assert self._model is not None  # noqa: S101 - for the type checker
        for module in self._model.modules():
            if hasattr(module, "activations"):
                del module.activations


def _averaged(gradients: list[Tensor], owners: Tensor, clipping_norm: float) -> list[Tensor]:
    """The mean of each owner's rows, float32 [owners, size] per parameter.

    Rows of different owners never meet, so one that is not finite spoils its own owner's mean alone. (A product with
    a matrix of shares would not do: 0 * NaN is NaN.) Gradients of any size that cancel one another would leave a mean
    made of their rounding, which depends on who else is in the batch: hence the bound on each of several.
    """
    owners = owners.to(gradients[0].device)
    counts = torch.bincount(owners)
    most = LARGEST_SHARE * clipping_norm
    shares = torch.where(counts[owners] > 1, most / _norms(gradients).clamp(min=most), 1.0)
    shares = shares.to(gradients[0].dtype)[:, None]
    return [
        torch.zeros(len(counts), gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
        .index_add_(0, owners, gradient * shares)
        .div_(counts[:, None])
        for gradient in gradients
    ]


def weights_of(batch: Examples, owners: Tensor | None) -> Tensor | None:
    """What each record's, or each owner's, clipped gradient is multiplied by, float64 in (0, 1]."""
    weights = batch.weights
    if weights is None:
        return None
    if not bool(((weights > 0) & (weights <= 1)).all()):
        raise ValueError("a weight lies in (0, 1]: beyond it, a record would move the sum by more than the bound")
    if owners is None:
        return weights
    owners = owners.to(weights.device)
    means = torch.bincount(owners, weights=weights.double()) / torch.bincount(owners)
    return means.clamp(max=1.0)  # a mean of ones may round to a hair more


def _norms(gradients: list[Tensor]) -> Tensor:
    """Of each record's whole gradient, float64 [n]."""
    parts = [torch.linalg.vector_norm(block, dim=1) for g in gradients for _, block in _in_float64(g)]
    norms: Tensor = torch.stack(parts).norm(dim=0)
    return norms


def add_clipped_rows(gradients: list[Tensor], clipping_norm: float, out: Tensor, weights: Tensor | None = None) -> None:
    """Scale row i of every gradient by min(1, clipping_norm / norm of row i), then by its weight, and add the rows up.

    Args:
        gradients: one float32 [n, size] per parameter; rows that are not finite are set to zero here,
            since 0 * NaN would still be NaN.
        weights: float64 [n], at most 1.
    """
    norms = _norms(gradients)
    # NaN and infinity fail the comparison; so does a norm whose factor would lose its bits in float32.
    bad = ~(norms < LARGEST_NORM * clipping_norm)
    if bool(bad.any()):
        for gradient in gradients:
            gradient[bad] = 0.0
        norms = torch.where(bad, torch.zeros_like(norms), norms)
    # In float64: n float32 terms that are much alike round a sum by up to n^2 2^-24 clipping norms, and how they round
    # depends on who is in the batch, which would let one record move the sum by more than the clipping norm.
    factors = clipping_norm / norms.clamp(min=clipping_norm)
    if weights is not None:
        factors = factors * weights.to(factors.device)
    start = 0
    for gradient in gradients:
        for column, block in _in_float64(gradient):
            out[start + column : start + column + block.shape[1]] += factors @ block
        start += gradient.shape[1]


def _in_float64(gradient: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of columns [n, some] in float64, each with its first column's number; valid until the next one."""
    records, columns = gradient.shape
    width = min(columns, max(1, _BLOCK // max(1, records)))
    # One piece of memory for all blocks: the system's price for new pages would be most of the time.
    memory = torch.empty(records, width, dtype=torch.float64, device=gradient.device)
    for column in range(0, columns, width):
        part = gradient[:, column : column + width]
        yield column, memory[:, : part.shape[1]].copy_(part)


def refuse_coupled_records(model: nn.Module, features: tuple[int, ...]) -> None:
    """Raise `UnsupportedModel` if one record's output depends on the others in its batch.

    Opacus knows the layers that do this by type; a layer of one's own is found out by trying, on random records.
    """
    batch = torch.rand(4, *features, generator=torch.Generator().manual_seed(0)).to(device_of(model))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(batch[row : row + 1]) for row in range(len(batch))])
    model.train(was_training)
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        raise UnsupportedModel(
            "the model's output for one record depends on the others in its batch, so no record's influence is "
            "bounded; nothing was trained; choose a model whose layers treat each record alone"
        )


def refuse_tied_parameters(model: nn.Module) -> None:
    seen: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter in seen:
            raise UnsupportedModel(
                f"{name} and {seen[parameter]} are one tied parameter, whose per-record gradient cannot be "
                "bounded here; nothing was trained; untie them"
            )
        seen[parameter] = name
