import numpy as np
import pytest

from privacy.errors import ConfigError, InternalError
from privacy.flatten import coordinate_ranges, flatten, unflatten
from privacy.tasks import TensorSpec

SPECS = (
    TensorSpec(name="a.weight", shape=(2, 3), update_range=0.5, learning_rate=0.1),
    TensorSpec(name="b.bias", shape=(4,), update_range=2.0, learning_rate=0.1),
)


def tensors():
    return {"b.bias": np.arange(4, dtype=np.float32), "a.weight": np.arange(10, 16, dtype=np.float32).reshape(2, 3)}


def test_order_is_the_manifests_not_the_mappings():
    assert flatten(tensors(), SPECS).tolist() == [10, 11, 12, 13, 14, 15, 0, 1, 2, 3]


def test_a_transposed_tensor_is_flattened_in_c_order():
    values = tensors() | {"a.weight": np.array([[1, 4], [2, 5], [3, 6]], np.float32).T}
    assert flatten(values, SPECS)[:6].tolist() == [1, 2, 3, 4, 5, 6]


def test_unflatten_makes_fresh_tensors_of_the_plans_shapes():
    vector = flatten(tensors(), SPECS)
    back = unflatten(vector, SPECS)
    vector[:] = 0
    assert {name: value.tolist() for name, value in back.items()} == {
        name: value.tolist() for name, value in tensors().items()
    }
    assert all(value.dtype == np.float32 for value in back.values())


def test_unflatten_takes_a_float64_mean():
    assert unflatten(np.full(10, 0.1), SPECS)["b.bias"][0] == np.float32(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": np.zeros(1, np.float32)}, "update tensor c: is in the update, not in the plan"),
        ({"b.bias": np.zeros(5, np.float32)}, r"update tensor b.bias: is float32 \(5,\), the plan says float32 \(4,\)"),
        ({"b.bias": np.zeros((4, 1), np.float32)}, r"b.bias: is float32 \(4, 1\)"),
        ({"b.bias": np.zeros(4)}, "b.bias: is float64"),
    ],
)
def test_another_name_shape_or_dtype_is_our_bug(change, message):
    with pytest.raises(InternalError, match=message):
        flatten(tensors() | change, SPECS)


def test_a_missing_tensor_is_named():
    values = tensors()
    del values["a.weight"]
    with pytest.raises(InternalError, match=r"a\.weight: is in the plan, not in the update"):
        flatten(values, SPECS)


def test_a_spec_named_twice_is_refused():
    with pytest.raises(InternalError, match="name a tensor twice"):
        flatten(tensors(), (*SPECS, SPECS[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_diverged_training_names_the_tensor_and_the_remedy(bad):
    values = tensors()
    values["b.bias"][2] = bad
    with pytest.raises(ConfigError, match=r"b\.bias: holds values that are not finite.*learning_rate") as caught:
        flatten(values, SPECS)
    assert str(bad) not in str(caught.value)


@pytest.mark.parametrize("vector", [np.zeros(9, np.float32), np.zeros((10, 1), np.float32), np.zeros(10, np.int64)])
def test_unflatten_refuses_another_length_or_kind(vector):
    with pytest.raises(InternalError, match=r"the plan says \(10,\)"):
        unflatten(vector, SPECS)


@pytest.mark.parametrize("bad", [np.nan, 1e300])
def test_unflatten_refuses_what_float32_cannot_hold(bad):
    vector = np.zeros(10)
    vector[3] = bad
    with pytest.raises(InternalError, match=r"a\.weight: holds values that are not finite"):
        unflatten(vector, SPECS)


def test_ranges_follow_the_coordinates():
    ranges = coordinate_ranges(SPECS)
    assert ranges.tolist() == [0.5] * 6 + [2.0] * 4
    assert not ranges.flags.writeable


def test_one_range_for_all_takes_no_memory():
    spec = TensorSpec(name="rehearsal", shape=(200_000_000,), update_range=1.0, learning_rate=1.0)
    ranges = coordinate_ranges((spec,))
    assert ranges.shape == (200_000_000,)
    assert ranges.strides == (0,)
