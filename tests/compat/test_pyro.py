"""What pyrolvm takes from Pyro that Pyro does not promise is as it expects."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyrolvm._compat import pyro as private
from pyrolvm._compat.pyro_mcmc import RecordingNUTS


def mixture() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=torch.tensor([0.0, 1.0, 2.0]))


def enumerated() -> Any:
    with poutine.trace() as tracer:
        poutine.enum(mixture, first_available_dim=-2)()
    tracer.trace.compute_log_prob()
    tracer.trace.pack_tensors()
    return tracer.trace


def test_the_store_keeps_its_tensors_elsewhere_for_a_block() -> None:
    store: Any = pyro.get_param_store()
    before, lent = private.stored(), {}
    with private.lent_store(lent):
        assert private.stored() is lent
        pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        assert set(lent) == {"scale"} and lent["scale"].item() == pytest.approx(torch.tensor(2.0).log().item())
        assert store.get_param("scale").item() == pytest.approx(2.0)
        store.clear()
        assert private.stored() is lent and not lent
    assert private.stored() is before and "scale" not in store
    assert "clear" not in vars(store)


def test_the_store_is_itself_again_after_an_error_in_a_block_within_a_block() -> None:
    before, outer = private.stored(), {}
    with private.lent_store(outer):
        pyro.param("a", torch.zeros(1))
        with pytest.raises(ZeroDivisionError), private.lent_store({}):
            raise ZeroDivisionError
        assert private.stored() is outer and pyro.param("a").item() == 0
        pyro.clear_param_store()
        assert private.stored() is outer and not outer
    assert private.stored() is before


def test_open_handlers_and_plates_are_in_the_lists_that_pyro_keeps() -> None:
    handlers, plates = private.open_handlers()
    assert not handlers and not plates
    plate = pyro.plate("rows", 2)
    with poutine.trace() as tracer, plate:
        assert handlers == [tracer, plate] and plates == ["rows"]
    assert not handlers and not plates


def test_a_plate_is_decided_on_by_another_function_for_a_block() -> None:
    seen: list[Any] = []

    def hook(inner: private.PlateRows, name: str, size: Any, subsample_size: Any, rows: Any, **rest: Any) -> Any:
        seen.append((name, size, subsample_size, rows, set(rest)))
        return inner(name, 10, 2, torch.tensor([4, 7]), **rest)

    with private.plates_decided_by(hook), pyro.plate("rows", 3) as rows:
        assert rows.tolist() == [4, 7]
        with poutine.trace() as tracer:
            pyro.sample("x", dist.Normal(0.0, 1.0))
    assert seen == [("rows", 3, None, None, {"use_cuda", "device"})]
    assert tracer.trace.nodes["x"]["scale"] == 5
    with pyro.plate("rows", 3) as rows:
        assert rows.tolist() == [0, 1, 2]


def test_a_plates_choice_of_rows_is_told_from_other_sites() -> None:
    nodes = poutine.trace(mixture).get_trace().nodes
    assert private.is_subsample(nodes["rows"]["fn"])
    assert not private.is_subsample(nodes["y"]["fn"]) and not private.is_subsample(None)


def test_deterministic_values_are_marked() -> None:
    def model() -> None:
        pyro.deterministic("twice", 2 * pyro.sample("x", dist.Normal(0.0, 1.0)))

    nodes = poutine.trace(model).get_trace().nodes
    assert private.is_marked_deterministic(nodes["twice"]) and not private.is_marked_deterministic(nodes["x"])


def test_a_trace_tells_what_its_program_returned() -> None:
    assert private.returned(poutine.trace(lambda: 7).get_trace()) == 7


def test_enumerated_sites_and_the_dimensions_of_packed_tensors_are_named() -> None:
    trace = enumerated()
    z, y = trace.nodes["z"], trace.nodes["y"]
    assert private.is_enumerated(z) and not private.is_enumerated(y)
    own, rows = private.symbol(z), trace.plate_to_symbol["rows"]
    assert own != rows
    log_prob = y["packed"]["log_prob"]
    dims = private.packed_dims(log_prob)
    assert sorted(dims) == sorted([own, rows])
    assert dict(zip(dims, log_prob.shape, strict=True)) == {own: 2, rows: 3}


def test_dimensions_that_are_given_are_those_that_pyro_reads() -> None:
    from pyro.ops.contract import contract_to_tensor

    own, total = "a", private.with_packed_dims(torch.zeros(4), "a")
    assert private.packed_dims(total) == "a"
    found: Tensor = contract_to_tensor(OrderedDict({frozenset(): [total]}), {own})
    assert found.item() == pytest.approx(torch.tensor(4.0).log().item())


def test_a_run_with_sites_enumerated_accounts_for_what_is_summed_out() -> None:
    from pyro.ops.contract import contract_to_tensor

    guide = poutine.enum(lambda: None, first_available_dim=-2)
    model = poutine.enum(config_enumerate(mixture, "parallel"))
    with pyro.validation_enabled(False):
        run = private.enumerated_run(model, guide, (), {}, max_plate_nesting=1)
    assert len(run.sum_dims) == 1 and float(run.scale) == 1 and "_INPUT" in run.guide.nodes
    assert not any(term.numel() > 1 for terms in run.plain.values() for term in terms)
    weights, means = torch.tensor([0.3, 0.7]), torch.tensor([0.0, 2.0])
    rows = dist.Normal(means, 1.0).log_prob(torch.tensor([[0.0], [1.0], [2.0]])) + weights.log()
    assert contract_to_tensor(run.factors, run.sum_dims).item() == pytest.approx(rows.logsumexp(-1).sum().item())


def test_masks_are_those_that_were_given() -> None:
    normal, mask = dist.Normal(torch.zeros(2), 1.0), torch.tensor([True, False])
    assert private.mask_of(normal.mask(mask)) is mask
    assert private.mask_of(normal.mask(False)) is False
    assert private.mask_of(normal) is None


def test_an_autoguide_is_given_its_model_back() -> None:
    guide = AutoNormal(mixture)
    model, kept = guide.model, private.autoguide_model(guide)
    guide.__getstate__()  # what copying calls; it drops the model
    assert private.autoguide_model(guide) is None
    private.give_autoguide_model(guide, kept)
    assert guide.model is model


def test_nuts_tells_energy_steps_acceptance_and_divergences() -> None:
    pyro.set_rng_seed(0)
    kernel = RecordingNUTS(lambda z: 0.5 * (z**2).sum(), max_tree_depth=3)
    kernel.initial_params = {"z": torch.zeros(2)}
    kernel.setup(40)
    kernel.restart_step_size({"z": torch.zeros(2)})
    z = {"z": torch.zeros(2)}
    for _ in range(60):
        before, evaluations = 0.5 * float((z["z"] ** 2).sum()), kernel.evaluations
        z = kernel.sample(z)
        assert kernel.energy >= before and kernel.evaluations > evaluations
    assert kernel.divergences == 0 and 0.5 < kernel.mean_accept_prob <= 1


def test_nuts_counts_the_transitions_that_diverge() -> None:
    pyro.set_rng_seed(0)
    kernel = RecordingNUTS(lambda z: 1e8 * (z**2).sum(), step_size=10.0, adapt_step_size=False)
    kernel.initial_params = {"z": torch.zeros(2)}
    kernel.setup(0)
    kernel.sample({"z": torch.zeros(2)})
    assert kernel.divergences == 1
