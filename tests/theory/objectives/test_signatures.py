"""The checker of signatures is on here: a wrong shape is refused."""

import pytest
import torch
from jaxtyping import TypeCheckError

from fenchel.theory.objectives.value import td


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        td(torch.zeros(3), torch.zeros(4))


@pytest.mark.unchecked
def test_unless_the_test_says_so():
    assert td(torch.zeros(3), torch.zeros(1)).shape == (3,)
