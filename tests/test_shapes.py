"""The check of stated shapes: it hears a wrong result, dimensions that disagree, and nothing else."""

import dataclasses

import numpy as np
import pytest
from jaxtyping import Float64, Real

from shapes import with_shapes
from ufm._checks import ArrayLike
from ufm.measure import gram, norms


def test_a_wrong_result_and_dimensions_that_disagree_are_heard():
    def transposed(
        V: Real[ArrayLike, "d K"], weights: Real[ArrayLike, " K"] | None = None
    ) -> Float64[np.ndarray, "K d"]:
        return V if weights is not None and len(weights) == 9 else np.asarray(V).T * 1.0

    checked = with_shapes(transposed)
    assert checked(np.ones((2, 3)), np.ones(3)).shape == (3, 2)
    assert checked([[1.0, 2.0]]).shape == (2, 1)  # lists have no shape
    with pytest.raises(AssertionError, match=r"transposed: weights of shape \(2,\) is no"):
        checked(np.ones((2, 3)), np.ones(2))
    with pytest.raises(AssertionError, match=r"transposed: return of shape \(2, 9\) is no"):
        checked(np.ones((2, 9)), np.ones(9))
    with pytest.raises(AssertionError, match=r"transposed: V of shape \(2,\) is no"):
        checked(np.ones(2))


def test_public_functions_are_checked_here_and_states_of_no_shape_are_left_alone():
    assert all(hasattr(function, "__wrapped__") for function in (gram, norms))
    plain = lambda x: x  # noqa: E731
    assert with_shapes(plain) is plain


def test_the_fields_of_a_record_that_comes_back_are_checked():
    @dataclasses.dataclass
    class Pair:
        value: Float64[np.ndarray, "*batch"]
        matrix: Float64[np.ndarray, "*batch m m"]
        name: str = ""

    def pair(batch: tuple[int, ...], m: int) -> Pair:
        return Pair(np.zeros(batch)[()], np.zeros((*batch, m, 3)))

    checked = with_shapes(pair)
    assert checked((2,), 3).matrix.shape == (2, 3, 3)
    assert checked((), 3).value == 0  # a single number of NumPy
    with pytest.raises(AssertionError, match=r"pair: matrix of shape \(2, 4, 3\) is no"):
        checked((2,), 4)
