"""Was joining worth it: local-only, federated and personal on an institution's own hold-out; few people, no verdict."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from lepton_fl.evaluation.assess import Assessment, assessment_from_json
from lepton_fl.evaluation.histogram import Layout
from lepton_fl.fairness.settings import Ditto
from lepton_fl.fairness.worth import (
    FEDERATED,
    LOCAL,
    MODELS,
    PERSONAL,
    Counting,
    local_model,
    personal_model,
    worth,
    worth_as_json,
    worth_lines,
)
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples, Site, per_record_loss
from lepton_fl.training.settings import Training

GROUPS = Groups((Attribute("sex", ("female", "male")),))
COUNTING = Counting(Layout(GROUPS, 2, 20), confidence=0.95, one_per_subject=False)
TRAINING = Training(1, 1.0, 4.0, 0.9, 0.0, 0.0, 256, "sgd")
DITTO = Ditto(pull=1.0, steps=300, learning_rate=0.5)


def records(count: int, slope: float, seed: int, women: int = 0) -> Examples:
    """Labels follow the first feature with this slope; the first `women` records are women's."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, generator=draw)
    labels = (torch.rand(count, generator=draw) < torch.sigmoid(slope * features[:, 0])).long()
    return Examples(features, labels, groups=(torch.arange(count) >= women).long())


def site(slope: float = 3.0, held_out: int = 400, women: int = 0) -> Site:
    return Site("Cleveland", records(200, slope, 1), records(held_out, slope, 2, women), records(0, slope, 3))


def linear(value: float = 0.0) -> nn.Module:
    model = nn.Linear(2, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def personal(pull: float, federated: nn.Module) -> nn.Module:
    made = copy.deepcopy(federated)
    personal_model(replace(DITTO, pull=pull), made, site(), TRAINING, Randomness(0))
    return made


@cache
def made(women: int) -> dict[str, Assessment]:
    here = site(women=women)
    return worth(replace(DITTO, steps=100), here, (linear(), linear(0.3)), TRAINING, COUNTING, Randomness(0))


def test_without_a_pull_the_personal_model_is_the_local_one() -> None:
    local = linear()
    local_model(DITTO, local, site(), TRAINING, Randomness(0))
    assert torch.allclose(flat(personal(0.0, linear(0.3))), flat(local), atol=1e-3)


def test_the_stronger_the_pull_the_nearer_the_federations_model() -> None:
    federated = linear(-0.5)
    away = [float((flat(personal(pull, federated)) - flat(federated)).norm()) for pull in (0.0, 0.3, 1.5)]
    assert away[0] > away[1] > away[2] > 0


def test_the_personal_model_is_where_ditto_says() -> None:
    """The gradient of the local loss plus pull * (model - federated) is zero there."""
    federated, here = linear(-0.5), site()
    made = personal(0.5, federated)
    per_record_loss(made(here.train.features), here.train.labels).mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])
    assert torch.allclose(gradient, 0.5 * (flat(federated) - flat(made)), atol=1e-4)


def test_the_models_that_were_handed_in_stay_as_they_are() -> None:
    start, federated = linear(), linear(0.3)
    worth(replace(DITTO, steps=3), site(), (start, federated), TRAINING, COUNTING, Randomness(0))
    assert torch.equal(flat(start), flat(linear()))
    assert torch.equal(flat(federated), flat(linear(0.3)))


def test_an_institution_unlike_the_others_is_served_better_by_its_own_models() -> None:
    found = worth(
        replace(DITTO, pull=0.05), site(slope=-3.0), (linear(), linear(0.5)), TRAINING, COUNTING, Randomness(0)
    )
    accuracy = {name: found[name].overall[1].value or 0.0 for name in MODELS}
    assert found[LOCAL].overall[1].metric == "accuracy"
    assert accuracy[FEDERATED] < 0.5 < accuracy[PERSONAL]
    assert accuracy[LOCAL] > 0.7


def test_a_group_of_ten_is_suppressed_and_a_gap_to_it_is_not_resolved() -> None:
    found = made(10)
    for name in MODELS:
        women = next(one for one in found[name].groups if one.group == "female")
        assert {one.status for one in women.figures if one.metric != "records"} <= {"suppressed", "not measured"}
        assert all(one.value is None for one in women.figures if one.metric == "recall")
        assert all(gap.figure.status != "shown" for gap in found[name].gaps)


def test_equal_groups_have_a_gap_that_is_not_resolved_and_never_called_fair() -> None:
    found = made(200)
    gaps = [gap.figure for gap in found[FEDERATED].gaps if gap.figure.metric == "equal opportunity difference"]
    assert [one.status for one in gaps] == ["not resolved"]
    assert "fair" not in str(found)


def test_the_table_reads_back() -> None:
    found = made(200)
    document = worth_as_json("Cleveland", found)
    assert document["institution"] == "Cleveland"
    assert {name: assessment_from_json(one) for name, one in document["models"].items()} == found


def test_the_terminal_shows_each_institution_once_with_a_column_for_each_model() -> None:
    lines = worth_lines({"Cleveland": made(10)}, "sex")
    assert lines[0].split() == ["local-only", "federated", "personal"]
    assert [line.startswith("Cleveland") for line in lines[1:]] == [True, False, False, False, False]
    assert any("recall, sex female" in line and line.count("suppressed") == 3 for line in lines)


@pytest.mark.parametrize(("name", "value"), [("pull", -0.1), ("steps", 0), ("learning_rate", 0.0)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(Exception, match=rf"fairness\.{name}"):
        replace(DITTO, **{name: value})
