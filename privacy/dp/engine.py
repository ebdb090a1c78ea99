"""DP-SGD for one round at one silo. The only module that imports Opacus.

Opacus computes per-example gradients or their norms, by hooks on the model as it is: wrapped in Opacus' own module,
`peft.get_peft_model_state_dict` would silently return an empty dictionary. Everything that decides privacy stands
here, in the order of Abadi et al., arXiv 1607.00133, algorithm 1: sample, clip, sum, add noise once, divide by a
public number, step. None of it uses torch's global generator.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping, register_grad_sampler
from opacus.utils.tensor_utils import sum_over_all_but_batch_and_last_n
from torch import nn

from privacy.dp.allowlist import check_allowed
from privacy.dp.noise import GaussianNoise
from privacy.dp.randomness import Randomness
from privacy.dp.sampler import Indices, PoissonSampler
from privacy.errors import InternalError, Refused
from privacy.mechanism import DpSgd

Clipping = Literal["ghost", "hooks"]
Inputs = Mapping[str, torch.Tensor]

# float32 rounding of a norm may under-state it by parts in ten million; clip that much harder.
ROUNDING_MARGIN = 1e-6

UNLABELLED = -100  # a position that has no label: padding, a prompt, the second token of a word

# What Opacus 1.6 leaves on parameters and modules.
OPACUS_ON_PARAMETERS = frozenset({"grad_sample", "_forward_counter", "_current_grad_sample", "_norm_sample"})
OPACUS_ON_MODULES = frozenset({"activations", "max_batch_len", "autograd_grad_sample_hooks", "ft_compute_sample_grad"})


@register_grad_sampler(nn.LayerNorm)  # type: ignore[untyped-decorator]
def _layer_norm_grad_sample(
    layer: nn.LayerNorm, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[nn.Parameter, torch.Tensor]:
    """Each example's gradient of a LayerNorm. Opacus' own fails where there is no bias, as in ModernBERT."""
    found = {}
    if layer.weight.requires_grad:
        normed = nn.functional.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps)
        found[layer.weight] = sum_over_all_but_batch_and_last_n(normed * backprops, layer.weight.dim())
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = sum_over_all_but_batch_and_last_n(backprops, layer.bias.dim())
    return found


class Examples(Protocol):
    """Records of one silo, grouped by unit of privacy."""

    @property
    def units(self) -> int:
        """How many units of privacy there are."""
        ...

    def batch(self, units: Indices) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One example per unit, in that order: model inputs with the batch first, and int64 labels [batch, ...]."""
        ...


@dataclass(frozen=True)
class Executed:
    """What ran. `empty_steps` depends on who was sampled and never leaves the silo."""

    steps: int
    noise_additions: int
    empty_steps: int


def train_round(
    model: nn.Module,
    examples: Examples,
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    *,
    randomness: Randomness | None = None,
    max_physical_batch: int = 64,
    on_step: Callable[[int, int], None] | None = None,
    clipping: Clipping = "hooks",
) -> Executed:
    """Run `mechanism.steps_per_round` steps of DP-SGD on `model`, in place; returns what was executed.

    Each step moves the parameters by -lr * (sum of clipped gradients + N(0, (sigma C)^2)) / expected_batch_size,
    where the sum runs over the Poisson-sampled units; an empty sample is a step of noise alone. The loss of an example
    is that of `losses_of` for the logits that `model(**inputs)` gives. `learning_rates` names exactly the
    trainable parameters, as `model.named_parameters()` does. With `mechanism.proximal` (mu of FedProx; Li et al., MLSys
    2020) each step also goes back by lr * mu * (parameters - those at the start): a term that reads no record, and so
    stands outside clipping and noise. Dropout is off while this runs; the model's modes and
    attributes are afterwards as they were, whatever happens. `max_physical_batch` bounds memory and changes nothing
    else; `on_step(done, planned)` follows the progress. `randomness` is for tests.

    Raises Refused when a parameter may not train (privacy.dp.allowlist), or the learning rates name others; and
    InternalError when the noise was not added exactly once a planned step. After an exception the weights are
    part-trained and the round's budget is spent: discard them.
    """
    check_allowed(model)
    parameters = trained_parameters(model, learning_rates)
    if max_physical_batch < 1:
        raise InternalError("DP training", f"max_physical_batch is {max_physical_batch}", "Report this.")
    bits = Randomness.from_os() if randomness is None else randomness
    sampler = PoissonSampler(examples.units, mechanism.sampling_rate, bits.sampling)
    noise = GaussianNoise(bits.noise)
    steps = empty_steps = 0
    start = flat(parameters)
    with dropout_off(model), ClippedGradients(model, parameters, clipping) as gradients:
        for _ in range(mechanism.steps_per_round):
            units = sampler.draw()
            total = clipped_sum(units, examples, gradients, mechanism.clip_l2, max_physical_batch)
            noise.add_(total, mechanism.noise_multiplier * mechanism.clip_l2)
            mean = total / mechanism.expected_batch_size
            if mechanism.proximal:
                mean += mechanism.proximal * (flat(parameters) - start)
            descend(parameters, mean, learning_rates)
            steps += 1
            empty_steps += len(units) == 0
            if on_step is not None:
                on_step(steps, mechanism.steps_per_round)
    executed = Executed(steps, noise.additions, empty_steps)
    if not executed.steps == executed.noise_additions == mechanism.steps_per_round:
        raise InternalError("DP training", f"{executed.noise_additions} noise additions in {steps} steps", "Report it.")
    return executed


def clipped_sum(
    units: Indices, examples: Examples, gradients: "ClippedGradients", clip_l2: float, max_physical_batch: int
) -> torch.Tensor:
    """The clipped sum over the given units, in physical batches; zeros, without a forward pass, for no unit."""
    total = gradients.zeros()
    for start in range(0, len(units), max_physical_batch):
        part = units[start : start + max_physical_batch]
        inputs, labels = examples.batch(part)
        if len(labels) != len(part) or any(len(tensor) != len(part) for tensor in inputs.values()):
            raise InternalError("examples", "a batch does not hold one example per sampled unit", "Report this.")
        total += gradients.sum(inputs, labels, clip_l2).total
    return total


def trained_parameters(model: nn.Module, learning_rates: Mapping[str, float]) -> dict[str, nn.Parameter]:
    """The trainable parameters in the model's order. Raises Refused unless `learning_rates` names exactly them."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without, unknown = sorted(parameters.keys() - learning_rates.keys()), sorted(learning_rates.keys() - parameters)
    if without:
        why = f"{without[0]} is trainable and has no learning rate ({len(without)} such)"
        raise Refused("DP training", why, "Freeze it or give it a learning rate in the plan.")
    if unknown:
        why = f"{unknown[0]} has a learning rate and is no trainable parameter ({len(unknown)} such)"
        raise Refused("DP training", why, "Make it trainable or take it out of the plan.")
    return parameters


def flat(parameters: Mapping[str, nn.Parameter]) -> torch.Tensor:
    """A copy of their values, float64, in their order."""
    return torch.cat([parameter.detach().flatten().double().cpu() for parameter in parameters.values()])


def descend(parameters: Mapping[str, nn.Parameter], mean: torch.Tensor, learning_rates: Mapping[str, float]) -> None:
    """One step of plain SGD: `mean` is a float64 vector over all parameters, in their order."""
    sizes = [parameter.numel() for parameter in parameters.values()]
    with torch.no_grad():
        for (name, parameter), part in zip(parameters.items(), torch.split(mean, sizes), strict=True):
            parameter.sub_((learning_rates[name] * part).view_as(parameter).to(parameter.device, parameter.dtype))


def example_losses(model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each example, float32 [batch]. Raises what `losses_of` raises."""
    output = model(**inputs)
    return losses_of(getattr(output, "logits", output), labels)


def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each example, float32 [batch].

    Of [batch, classes] for labels [batch]; or of [batch, positions, classes] for labels [batch, positions], where it is
    the mean over the example's own positions whose label is not UNLABELLED: a mean over the batch's would let one
    example weigh another. An example without any has a loss of 0. Virtual tokens stand before the positions of labels.
    Raises Refused on any other shapes.
    """
    if len(logits) == len(labels) and logits.dim() == 2 and labels.dim() == 1:
        return nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    if len(logits) == len(labels) and logits.dim() == 3 and labels.dim() == 2 and logits.shape[1] >= labels.shape[1]:
        own = logits[:, logits.shape[1] - labels.shape[1] :].float().transpose(1, 2)
        each = nn.functional.cross_entropy(own, labels, reduction="none", ignore_index=UNLABELLED)
        return each.sum(dim=1) / (labels != UNLABELLED).sum(dim=1).clamp(min=1)
    why = f"its logits have shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)}"
    raise Refused("model", why, "Use a model whose logits are a row per example, or per position of each example.")


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, but for the modules that own trained parameters: Opacus only follows those in
    training mode, and on the allow-list (Linear) the mode changes nothing else. Restores every module's mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, _ in modes:
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            module.training = True
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class ClippedSum:
    """A float64 vector over all trained parameters, and the examples' norms before clipping (never logged)."""

    total: torch.Tensor
    norms: torch.Tensor


class ClippedGradients:
    """Sums per-example gradients, each first scaled to an L2 norm of at most the clip over all parameters together.

    `hooks`, the default, holds every per-example gradient at once and clips what it measured. `ghost` only computes
    norms (Li et al., arXiv 2110.05679) and sums in a second backward pass: memory does not grow with batch times
    parameters, but Opacus forms the norms from float32 Gram matrices, and a record made so that its tokens' gradients
    nearly cancel can have its norm read as 0 (tests/attacks/test_ghost_norm_cancellation.py): sensitivity is a worst
    case, so no job trains with it.
    An example whose gradient is not finite contributes zero. A context manager: the model is clean again afterwards.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipping: Clipping) -> None:
        self._model = model
        self._parameters = parameters
        self._ghost = clipping == "ghost"

    def __enter__(self) -> Self:
        """Attach Opacus' hooks. Raises Refused when Opacus will not follow a trainable module."""
        hooks = GradSampleHooksFastGradientClipping if self._ghost else GradSampleHooks
        try:
            self._hooks = hooks(self._model, batch_first=True, loss_reduction="sum", strict=True)
        except NotImplementedError as error:
            self._clean()
            why = f"Opacus does not support it ({error})"
            raise Refused("model", why, "Train LoRA on linear layers or a linear head.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take away every hook and attribute that was attached."""
        self._hooks.cleanup()
        self._clean()

    def _clean(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None
            for attribute in OPACUS_ON_PARAMETERS & vars(parameter).keys():
                delattr(parameter, attribute)
        for module in self._model.modules():
            for attribute in OPACUS_ON_MODULES & vars(module).keys():
                delattr(module, attribute)

    def zeros(self) -> torch.Tensor:
        """The sum over no example."""
        return torch.zeros(sum(parameter.numel() for parameter in self._parameters.values()), dtype=torch.float64)

    def sum(self, inputs: Inputs, labels: torch.Tensor, clip_l2: float) -> ClippedSum:
        """The clipped sum over one physical batch of at least one example."""
        while len(labels):
            clipped = self._sum_once(inputs, labels, clip_l2)
            finite = torch.isfinite(clipped.norms)
            if finite.all():
                return clipped
            inputs, labels = {name: tensor[finite] for name, tensor in inputs.items()}, labels[finite]
        return ClippedSum(self.zeros(), torch.zeros(0, dtype=torch.float64))

    def _sum_once(self, inputs: Inputs, labels: torch.Tensor, clip_l2: float) -> ClippedSum:
        self._forget()
        self._hooks.enable_hooks()
        losses = example_losses(self._model, inputs, labels)
        with _quiet_about_first_layers():
            losses.sum().backward(retain_graph=self._ghost)  # type: ignore[no-untyped-call]
            norms = self._norms(len(labels))
            factors = clip_l2 * (1 - ROUNDING_MARGIN) / norms.clamp(min=clip_l2)
            flat = self._weighted_by_backward(losses, factors) if self._ghost else self._weighted_by_hand(factors)
        return ClippedSum(torch.cat(flat).double().cpu(), norms)

    def _forget(self) -> None:
        """Drop what the last batch left: a stale norm would stand in for a parameter that this batch misses."""
        for parameter in self._parameters.values():
            parameter.grad = None
            vars(parameter).update(grad_sample=None, _norm_sample=None)

    def _norms(self, examples: int) -> torch.Tensor:
        """Each example's norm over all parameters, float64 [examples]; a parameter without one is refused."""
        squares = torch.zeros(examples, dtype=torch.float64)
        for name, parameter in self._parameters.items():
            found = vars(parameter)["_norm_sample" if self._ghost else "grad_sample"]
            if not isinstance(found, torch.Tensor) or len(found) != examples:
                why = f"{name} has no gradient for each single example"
                raise Refused("DP training", why, "Train only what the allow-list names, and use it once per example.")
            values = found.double() if self._ghost else found.flatten(1).double().norm(dim=1)
            squares += values.square().cpu()
        return squares.sqrt()

    def _weighted_by_backward(self, losses: torch.Tensor, factors: torch.Tensor) -> list[torch.Tensor]:
        self._hooks.disable_hooks()
        weighted = torch.dot(factors.to(losses.device, losses.dtype), losses)
        return [part.flatten() for part in torch.autograd.grad(weighted, list(self._parameters.values()))]

    def _weighted_by_hand(self, factors: torch.Tensor) -> list[torch.Tensor]:
        samples = [vars(parameter)["grad_sample"].flatten(1) for parameter in self._parameters.values()]
        return [factors.to(sample.device, sample.dtype) @ sample for sample in samples]


@contextmanager
def _quiet_about_first_layers() -> Iterator[None]:
    """Without torch's warning about backward hooks on layers whose input needs no gradient: they fire on the output's
    gradient, which is the one Opacus reads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
