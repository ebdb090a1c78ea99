"""Named adapter tensors <-> one float32 vector, in the order the plan's manifest fixes.

The plan sorts its tensors by name; a vector is their coordinates one after another, each tensor in C order. Every silo
flattens alike, so coordinate i of the sum means the same weight to everybody.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from privacy.canonical import digest
from privacy.errors import ConfigError, InternalError
from privacy.tasks import TensorSpec

Float32 = npt.NDArray[np.float32]

ADAPTER_LABEL = "cloister/v1/adapter"
_REPORT = "Report this; the update is not sent."


def flatten(tensors: Mapping[str, npt.NDArray[np.generic]], specs: Sequence[TensorSpec]) -> Float32:
    """The update as one vector, shape (sum of the specs' sizes,).

    Raises InternalError unless names, shapes and dtype (float32) are exactly the specs', and ConfigError if a value is
    not finite: training diverged, which a smaller step mends.
    """
    _require_names(tensors, specs)
    vector = np.empty(sum(spec.size for spec in specs), np.float32)
    start = 0
    for spec in specs:
        tensor = tensors[spec.name]
        if tensor.dtype != np.float32 or tensor.shape != spec.shape:
            found = f"is {tensor.dtype} {tensor.shape}, the plan says float32 {spec.shape}"
            raise InternalError(f"update tensor {spec.name}", found, _REPORT)
        if not np.isfinite(tensor).all():
            raise ConfigError(
                f"update tensor {spec.name}",
                "holds values that are not finite, so training diverged",
                "Lower its learning_rate in the job file and submit a new job; this update is not sent.",
            )
        vector[start : start + spec.size] = tensor.ravel()
        start += spec.size
    return vector


def _require_names(tensors: Mapping[str, npt.NDArray[np.generic]], specs: Sequence[TensorSpec]) -> None:
    names = {spec.name for spec in specs}
    if len(names) != len(specs):
        raise InternalError("tensor specs", "name a tensor twice", _REPORT)
    if wrong := sorted(names ^ tensors.keys()):
        found = "is in the plan, not in the update" if wrong[0] in names else "is in the update, not in the plan"
        raise InternalError(f"update tensor {wrong[0]}", found, _REPORT)


def unflatten(vector: npt.NDArray[np.floating], specs: Sequence[TensorSpec]) -> dict[str, Float32]:
    """The inverse of `flatten`: fresh float32 tensors by name.

    Float64 input (a mean) is rounded to float32. Raises InternalError on a vector of another length or kind, or with
    values that float32 cannot hold.
    """
    expected = sum(spec.size for spec in specs)
    if vector.shape != (expected,) or vector.dtype not in (np.float32, np.float64):
        found = f"is {vector.dtype} {vector.shape}, the plan says ({expected},)"
        raise InternalError("update vector", found, _REPORT)
    tensors: dict[str, Float32] = {}
    start = 0
    for spec in specs:
        with np.errstate(over="ignore"):
            tensor = np.array(vector[start : start + spec.size], np.float32).reshape(spec.shape)
        if not np.isfinite(tensor).all():
            raise InternalError(f"update tensor {spec.name}", "holds values that are not finite", _REPORT)
        tensors[spec.name] = tensor
        start += spec.size
    return tensors


def coordinate_ranges(specs: Sequence[TensorSpec]) -> Float32:
    """The clipping range R of every coordinate, in flattening order; read-only.

    Where all tensors share one range the array is a stride-0 view of it and takes no memory.
    """
    total = sum(spec.size for spec in specs)
    if len({spec.update_range for spec in specs}) == 1:
        return np.broadcast_to(np.float32(specs[0].update_range), (total,))
    ranges = np.repeat(np.array([spec.update_range for spec in specs], np.float32), [spec.size for spec in specs])
    ranges.flags.writeable = False
    return ranges


def adapter_digest(vector: npt.NDArray[np.float32]) -> bytes:
    """32 bytes that name a global adapter: H("cloister/v1/adapter", its little-endian float32 coordinates)."""
    return digest(ADAPTER_LABEL, vector.astype("<f4", copy=False).tobytes())
