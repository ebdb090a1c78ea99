"""How the mean of a round's updates moves the global adapter: the server optimiser, run alike at every silo.

FedAvg adds the mean. FedAdagrad, FedAdam and FedYogi (Reddi et al., Adaptive Federated Optimization, ICLR 2021,
Algorithm 2) scale it by moments of earlier means, without bias correction. It is post-processing of opened sums: it
costs no privacy. There is no server that could do it: nobody but the silos sees a mean.

Every silo must come to the same bytes, whatever its processor, library or number of threads. So it is elementwise
float64 arithmetic of +, -, *, /, square root and sign alone, each rounded as IEEE 754 says, and what is kept between
rounds is float32, rounded once.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from privacy.plan import AdaptiveServer, MeanServer

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """What FedAdagrad, FedAdam and FedYogi keep between rounds: m and v of Algorithm 2, shape (values,) each."""

    first: Float32
    second: Float32


def first_moments(server: MeanServer | AdaptiveServer, values: int) -> Moments | None:
    """Before the first round: m = 0, v = adaptivity^2. None for an optimiser that keeps nothing."""
    if isinstance(server, MeanServer):
        return None
    return Moments(np.zeros(values, np.float32), np.full(values, np.float64(server.adaptivity) ** 2, np.float32))


def server_step(server: MeanServer | AdaptiveServer, mean: Float64, moments: Moments | None) -> Float64:
    """What is added to the adapter for these coordinates of the mean; `moments`, theirs, are brought up to date."""
    if isinstance(server, MeanServer) or moments is None:
        return server.learning_rate * mean
    first = server.beta1 * moments.first.astype(np.float64) + (1 - server.beta1) * mean
    second = _second(server, moments.second.astype(np.float64), mean * mean)
    moments.first[:] = first
    moments.second[:] = second
    step: Float64 = server.learning_rate * first / (np.sqrt(second) + server.adaptivity)
    return step


def _second(server: AdaptiveServer, before: Float64, square: Float64) -> Float64:
    match server.kind:
        case "adagrad":
            return before + square
        case "adam":
            return server.beta2 * before + (1 - server.beta2) * square
        case "yogi":
            return before - (1 - server.beta2) * square * np.sign(before - square)
