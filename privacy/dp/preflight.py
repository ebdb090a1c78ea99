"""The self-test that a model passes before any budget is touched: does DP-SGD do to it what the accountant assumes?

It runs on synthetic examples with the noise off and compares the engine with autograd, one example at a time; then on
nobody's, with the noise on (privacy.dp.mechanism_check). Opacus has open bugs of the silent kind (#820, #841, #578),
and PEFT methods that look trained and are clipped wrongly; the allow-list says what is right in general, this says that
it is right for the model at hand.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from privacy.dp.allowlist import Kind, check_allowed
from privacy.dp.engine import (
    ClippedGradients,
    Clipping,
    Inputs,
    descend,
    dropout_off,
    example_losses,
    trained_parameters,
)
from privacy.dp.findings import Finding, failed, within
from privacy.dp.mechanism_check import check_mechanism
from privacy.errors import InternalError
from privacy.mechanism import DpSgd
from privacy.self_test import Measured, Parameter, SelfTestReport
from privacy.shared_noise import SharedGrid

TOLERANCE = 1e-4  # relative; float32 kernels differ by parts in a million between one row and a batch
EXAMPLES = 6
SPREAD = 0.05  # how far parameters are shaken, so that none sits at a zero that hides others' gradients

Synthetic = Callable[[int], tuple[dict[str, torch.Tensor], torch.Tensor]]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PreflightReport:
    """A model passed. Computed from synthetic examples only, so it may be shown and put into a ledger."""

    clipping: Clipping
    parameters: tuple[tuple[str, Kind], ...]
    values: int
    findings: tuple[Finding, ...]

    def encode(self) -> bytes:
        """Canonical JSON, whose SHA-256 the ledger has. Measured deviations differ from run to run: noise is random."""
        return SelfTestReport(
            clipping=self.clipping,
            parameters=tuple(Parameter(name=name, kind=kind.value) for name, kind in self.parameters),
            values=self.values,
            findings=tuple(Measured(check=f.check, measured=f.measured, bound=f.bound) for f in self.findings),
        ).encode()


def preflight(
    model: nn.Module,
    synthetic: Synthetic,
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    *,
    state_of: Callable[[nn.Module], State],
    load_state: Callable[[nn.Module, State], object],
    clipping: Clipping = "hooks",
    grid: SharedGrid | None = None,
) -> PreflightReport:
    """Check that `model` trains under DP-SGD as it must, and leave it as it was.

    `synthetic(n)` makes n made-up examples that differ: model inputs, batch first, and int64 labels [n]. `state_of`
    and `load_state` save and load the adapter as the silo will; `grid` is where noise is shared. In order: only allowed
    parameters train; examples do not influence each other; every trained parameter receives a gradient; the engine's
    per-example norms and clipped sums equal one-by-one autograd within 1e-4; clipping bounds every example; a step
    moves every parameter; saving and reloading gives back the parameters and the logits; noise and sampling are what
    the accountant assumes. Raises Refused, naming what failed.
    """
    kinds = check_allowed(model)
    parameters = trained_parameters(model, learning_rates)
    inputs, labels = synthetic(EXAMPLES)
    if len(labels) != EXAMPLES:
        raise InternalError("preflight", f"{len(labels)} synthetic examples for {EXAMPLES}", "Report this.")
    with _shaken(parameters), dropout_off(model):
        alone = gradients_one_by_one(model, parameters, inputs, labels)
        findings = (
            *check_independence(model, parameters, inputs, labels, alone),
            check_coverage(parameters, alone),
            *check_clipping(model, parameters, inputs, labels, alone, clipping),
            check_reload(model, parameters, inputs, learning_rates, alone, mechanism, state_of, load_state),
            *check_mechanism(model, parameters, mechanism, learning_rates, clipping, grid),
        )
    return PreflightReport(clipping, tuple(kinds.items()), alone.shape[1], findings)


@contextmanager
def _shaken(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """The parameters moved a little from where they start, and put back bit for bit afterwards.

    LoRA starts with B = 0, where A's gradient is zero, and a head at zero hides the whole backbone.
    """
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    bits = torch.Generator().manual_seed(20210701)  # fixed: nothing secret hangs on it
    with torch.no_grad():
        for parameter in parameters.values():
            shake = torch.randn(parameter.shape, generator=bits, dtype=parameter.dtype)
            parameter.add_(SPREAD * shake.to(parameter.device))
    try:
        yield
    finally:
        _restore(parameters, start)


def _restore(parameters: Mapping[str, nn.Parameter], values: State) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def gradients_one_by_one(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Inputs, labels: torch.Tensor
) -> torch.Tensor:
    """The oracle: each example's gradient by plain autograd in a batch of its own, float64 [examples, values]."""
    rows = []
    for i in range(len(labels)):
        loss = example_losses(model, {name: tensor[i : i + 1] for name, tensor in inputs.items()}, labels[i : i + 1])
        rows.append(_flat_gradient(loss.sum(), parameters))
    return torch.stack(rows)


def _flat_gradient(loss: torch.Tensor, parameters: Mapping[str, nn.Parameter], *, keep: bool = False) -> torch.Tensor:
    found = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in found]).double().cpu()


def check_independence(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    inputs: Inputs,
    labels: torch.Tensor,
    alone: torch.Tensor,
) -> tuple[Finding, Finding]:
    """An example's loss and gradient are the same alone and in a batch. Raises Refused when others leak into it."""
    losses = example_losses(model, inputs, labels)
    each = [
        example_losses(model, {name: tensor[i : i + 1] for name, tensor in inputs.items()}, labels[i : i + 1])
        for i in range(len(labels))
    ]
    single = torch.cat(each).detach()
    deviation = float((losses.detach() - single).abs().max() / single.abs().max().clamp(min=1))
    loss = _within("loss in a batch equals loss alone", deviation, "examples in a batch influence each other's loss")
    last = len(labels) - 1
    rows = torch.stack([_flat_gradient(losses[i], parameters, keep=True) for i in (0, last)])
    deviation = _relative(rows, alone[[0, last]])
    why = "examples in a batch influence each other's gradient"
    gradient = _within("gradient in a batch equals gradient alone", deviation, why)
    if len(torch.unique(alone.norm(dim=1))) == 1:
        raise failed("the model", "gives every synthetic example the same gradient norm, so nothing can be compared")
    return loss, gradient


def check_coverage(parameters: Mapping[str, nn.Parameter], alone: torch.Tensor) -> Finding:
    """Every trained parameter receives a gradient. Raises Refused naming one that does not."""
    sizes = [parameter.numel() for parameter in parameters.values()]
    for name, part in zip(parameters, torch.split(alone, sizes, dim=1), strict=True):
        if not torch.isfinite(part).all() or not part.any():
            raise failed(name, "receives no gradient, or one that is not finite, from any synthetic example")
    return Finding("parameters without a gradient", 0.0, 0.0)


def check_clipping(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    inputs: Inputs,
    labels: torch.Tensor,
    alone: torch.Tensor,
    clipping: Clipping,
) -> tuple[Finding, ...]:
    """The engine's norms and sums equal the oracle's, unclipped, half clipped and fully clipped.

    Raises Refused on a deviation over 1e-4, on a sum longer than clipping allows, and when Opacus gives up.
    """
    norms = alone.norm(dim=1)
    clips = {"none": 2 * norms.max(), "half": norms.median(), "all": norms.min() / 100}
    findings: list[Finding] = []
    with ClippedGradients(model, parameters, clipping) as gradients:
        for which, clip in clips.items():
            try:
                clipped = gradients.sum(inputs, labels, float(clip))
            except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
                raise failed("the model", f"Opacus cannot clip it ({type(error).__name__}: {error})") from error
            if len(clipped.norms) != len(labels):
                raise failed("the model", "gives gradients that are not finite")
            expected = (alone * (clip / norms.clamp(min=float(clip)))[:, None]).sum(dim=0)
            why = "the clipped sum is not the sum of one-by-one clipped gradients"
            findings.append(_within(f"clipped sum, {which} clipped", _relative(clipped.total, expected), why))
    findings.append(_within("per-example norms", _relative(clipped.norms, norms), "per-example norms are wrong"))
    excess = float(clipped.total.norm() / (len(labels) * clip)) - 1
    return (*findings, _within("clipped sum over its bound", max(excess, 0.0), "clipping does not bound the sum"))


def check_reload(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    inputs: Inputs,
    learning_rates: Mapping[str, float],
    alone: torch.Tensor,
    mechanism: DpSgd,
    state_of: Callable[[nn.Module], State],
    load_state: Callable[[nn.Module, State], object],
) -> Finding:
    """A step without noise moves every parameter; its saved state, reloaded, gives the parameters and logits back.

    Raises Refused when a parameter stays where it was, is not saved, or the reloaded model answers otherwise.
    """
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    factors = mechanism.clip_l2 / alone.norm(dim=1).clamp(min=mechanism.clip_l2)
    descend(parameters, factors @ alone / mechanism.expected_batch_size, learning_rates)
    for name, parameter in parameters.items():
        if torch.equal(parameter, before[name]):
            raise failed(name, f"does not move in a step of learning rate {learning_rates[name]}")
    after = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    logits = _logits(model, inputs)
    state = {name: tensor.detach().clone() for name, tensor in state_of(model).items()}
    if not state:
        raise failed("the saved adapter", "is empty")
    _restore(parameters, before)
    load_state(model, state)
    for name, parameter in parameters.items():
        if not torch.equal(parameter, after[name]):
            raise failed(name, "is not what was saved when the adapter is reloaded")
    return _within("logits after reloading", _relative(_logits(model, inputs), logits), "the reloaded model differs")


def _logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        output = model(**inputs)
    logits: torch.Tensor = getattr(output, "logits", output)
    return logits.double().cpu()


def _relative(measured: torch.Tensor, expected: torch.Tensor) -> float:
    """The L2 norm of the difference over that of what is expected."""
    return float((measured - expected).norm() / expected.norm().clamp(min=1e-30))


def _within(check: str, deviation: float, why: str) -> Finding:
    return within(check, deviation, TOLERANCE, "the model", why)
