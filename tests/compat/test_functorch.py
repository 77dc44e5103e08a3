"""What pyrolvm uses of torch.func's private switches is there and does what it is used for."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pyrolvm._compat.functorch import is_lane, quiet_fallbacks, warns_of_fallbacks


def _runs_lane_by_lane() -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.func.vmap(lambda x: torch.take(x, torch.zeros(1, dtype=torch.long)))(torch.zeros(2, 3))
    return [str(one.message) for one in caught]


def test_torch_warns_of_lanes_until_it_is_told_not_to_and_again_afterwards() -> None:
    assert warns_of_fallbacks() and len(_runs_lane_by_lane()) == 1
    with quiet_fallbacks():
        assert not warns_of_fallbacks() and not _runs_lane_by_lane()
        with quiet_fallbacks():
            pass
        assert not _runs_lane_by_lane()  # an inner block leaves the outer one's silence
    assert warns_of_fallbacks()


def test_a_lane_is_told_from_a_tensor_that_all_lanes_share() -> None:
    seen: list[bool] = []
    shared = torch.zeros(3)

    def function(x: Tensor) -> Tensor:
        seen.extend([is_lane(x), is_lane(x + shared), is_lane(shared), is_lane(1.0)])
        return x

    torch.func.vmap(function)(torch.zeros(2))
    assert seen == [True, True, False, False]
    assert not is_lane(torch.zeros(2))
