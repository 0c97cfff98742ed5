"""An institution behind a SuperNode: its own policy and ledger decide, whatever comes through Flower."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ledgers import clock
from lepton_client.ledger import Ledger
from lepton_client.supernode import Institution
from lepton_client.supernode_app import HOME, SETTINGS, on_node, site_settings
from lepton_client.supernode_site import home_of, opened
from proposals import POLICY, SUMMED, terms, write

from lepton_fl.errors import ConfigError
from lepton_fl.federation.codec import Route, decode, encode
from lepton_fl.federation.contract import Contract, Parties, Purpose, offer
from lepton_fl.federation.flower_offer import FEDERATION, offering, who_am_i
from lepton_fl.federation.local_grid import LocalGrid
from lepton_fl.federation.named_grid import gathered
from lepton_fl.files import InUse
from lepton_fl.flower import ConfigRecord, Context, Message, RecordDict, enter_run
from lepton_fl.flower_deployment import federate
from lepton_fl.flower_node import serve

NAMES = ("Cleveland", "Hungary")
ALLOWS: dict[str, Any] = {"hours": None, "least_cohort": 2, "may_leave": ["noised-update", "noised-counts"]}
NARROW = {"budget": {"unit": "record", "epsilon": 1.2, "delta": 1e-4}}
SMALL = "secure_aggregation=off rounds=2 training.local_steps=1 training.sampling_rate=1.0 evaluation.every=2"


def home(folder: Path, name: str = "Cleveland", **fields: Any) -> Path:
    """A home that is not enrolled, with a policy."""
    path = folder / name.lower()
    path.mkdir(exist_ok=True)
    write(path, POLICY | ALLOWS | fields)
    return path


def node(path: Path, name: str = "Cleveland") -> dict[str, str]:
    """What the institution writes in its SuperNode's node config."""
    return {HOME: str(path), SETTINGS: f"institution={name}"}


def run_config(folder: Path, settings: str = SMALL) -> dict[str, object]:
    whole = f"{settings} institutions=2 output={folder / 'out'}"
    return {"settings": whole, "least-cohort": 2, "purpose": "", "retention-days": 30, "contact": ""}


def entries(folder: Path, name: str) -> str:
    return (folder / name.lower() / "ledger" / "ledger.jsonl").read_text()


def contract(run_id: int = 1, names: tuple[str, ...] = NAMES, federation: str = FEDERATION, **parts: Any) -> Contract:
    keys = dict.fromkeys(names, bytes(32))
    return offer(terms(**parts), run_id, federation, Parties(names, 2, keys), Purpose("a first model", 365, ""))


def message(content: RecordDict, kind: str = "query", run_id: int = 1, message_id: str = "first") -> Message:
    """What Flower brings to a node."""
    enter_run(run_id)
    return decode(encode(Message(content, 2, kind)), Route(run_id, 1, 2, message_id))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A node says where its log goes, which is a matter of its whole process."""
    root = logging.getLogger()
    before = [*root.handlers], root.level
    yield
    root.handlers[:], root.level = before


def said(node_config: Any, asked: Message) -> str:
    """Why a node refuses."""
    return str(on_node(asked, Context(1, 2, {**node_config}, RecordDict(), {})).error.reason)


@dataclass
class Nodes:
    """Two institutions behind nodes, and the last round that was asked of one of them."""

    folder: Path
    institutions: dict[str, Institution]
    asked: Message | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            self.asked = message
        return self.institutions[str(context.node_config["institution"])].answer(message)


@pytest.fixture(scope="module")
def after_a_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    with ExitStack() as held:
        settings = {name: site_settings(node(home(folder, name, **NARROW), name)) for name in NAMES}
        sites = {name: Institution(held.enter_context(opened(one, 0.0))) for name, one in settings.items()}
        nodes = Nodes(folder, sites)
        federate(LocalGrid(nodes, NAMES), run_config(folder))
        yield nodes


def test_a_private_run_is_charged_to_each_institutions_own_ledger_with_all_that_left(after_a_run: Nodes) -> None:
    assert (after_a_run.folder / "out" / "model.safetensors").exists()
    for name in NAMES:
        known = Ledger.open(after_a_run.folder / name.lower() / "ledger", clock).run("1")
        assert known is not None
        assert known.declared.operator == "flower"
        assert known.declared.mechanism is not None
        assert (known.rounds, known.last_settled) == (2, 2)
        written = entries(after_a_run.folder, name)
        assert (written.count('"noised-update"'), written.count('"noised-counts"')) == (2, 1)


def test_a_round_that_was_answered_is_not_answered_again(after_a_run: Nodes) -> None:
    assert after_a_run.asked is not None
    before = entries(after_a_run.folder, "Hungary")
    reply = after_a_run.institutions["Hungary"].answer(after_a_run.asked)
    assert reply.error.reason == "BudgetSpent"
    added = entries(after_a_run.folder, "Hungary").removeprefix(before)
    assert added.count("\n") == 1
    assert '"failure"' in added


def test_a_run_beyond_the_budget_is_refused_before_the_ledger_knows_it(after_a_run: Nodes) -> None:
    before = entries(after_a_run.folder, "Cleveland")
    reply = after_a_run.institutions["Cleveland"].answer(message(offering(contract(2)), run_id=2))
    assert reply.error.reason == "policy.budget.epsilon refuses; nothing was trained or sent"
    assert entries(after_a_run.folder, "Cleveland") == before


def test_a_run_whose_terms_change_is_refused(after_a_run: Nodes) -> None:
    reply = after_a_run.institutions["Cleveland"].answer(message(offering(contract(1, rounds=29))))
    assert "Refused; nothing was trained or sent" in reply.error.reason


def test_a_round_under_another_contract_is_refused(after_a_run: Nodes) -> None:
    asked = message(RecordDict({"config": ConfigRecord({"contract": "ab" * 32, "server-round": 1})}), "train")
    before = entries(after_a_run.folder, "Cleveland")
    assert "Refused; nothing was trained" in after_a_run.institutions["Cleveland"].answer(asked).error.reason
    assert entries(after_a_run.folder, "Cleveland") == before


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (contract(**SUMMED), "choose secure_aggregation=off and noise=own, or take part with lepton-client"),
        (contract(2), "the contract is another run's"),
        (contract(names=("Hungary", "Switzerland")), "names others alone"),
        (contract(federation="ab" * 32), "ConfigError"),
        (contract(seed=3), "policy.public_data refuses"),
        (contract(rounds=31), "policy.run.rounds refuses"),
    ],
)
def test_what_the_institution_cannot_uphold_or_does_not_allow_is_refused_in_a_line(
    tmp_path: Path, made: Contract, why: str
) -> None:
    reason = said(node(home(tmp_path)), message(offering(made)))
    assert why in reason
    assert "\n" not in reason
    assert not (tmp_path / "cleveland" / "supernode").exists()
    assert '"declared"' not in entries(tmp_path, "Cleveland")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"accept": "by-hand"}, "policy.accept is by-hand, and behind a SuperNode no person is asked"),
        ({"tasks": ["adult"]}, "policy.tasks refuses"),
        ({"secure_aggregation": "required"}, "policy.secure_aggregation refuses"),
        ({"least_cohort": 3}, "policy.least_cohort refuses"),
    ],
)
def test_a_policy_refuses_by_the_name_of_a_field_and_no_value_leaves(
    tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    reason = said(node(home(tmp_path, **fields)), message(offering(contract())))
    assert reason.startswith(why)
    assert "adult" not in reason


def test_work_before_a_contract_is_refused(tmp_path: Path) -> None:
    asked = message(RecordDict({"config": ConfigRecord({"server-round": 1})}), "train")
    assert said(node(home(tmp_path)), asked).startswith("no contract of this run was agreed to here")


def test_another_kind_of_message_is_refused(tmp_path: Path) -> None:
    assert "trains and evaluates" in said(node(home(tmp_path)), message(RecordDict({}), "train.more"))


def test_a_node_whose_own_settings_name_no_home_refuses_everything() -> None:
    for content, kind in ((RecordDict({}), "query"), (offering(contract()), "query"), (RecordDict({}), "train")):
        assert said({"partition-id": 0}, message(content, kind)).startswith("this SuperNode names no home")


def test_what_is_wrong_with_a_home_is_told_there_and_by_its_kind_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home(tmp_path).joinpath("policy.yaml").unlink()
    for config in (node(tmp_path / "none"), {HOME: str(tmp_path)}, node(tmp_path / "cleveland")):
        assert said(config, message(RecordDict({}))).startswith("ConfigError; nothing was trained or sent")
        assert str(tmp_path) in capsys.readouterr().err


def test_an_enrolled_home_has_the_name_that_it_was_enrolled_with(tmp_path: Path) -> None:
    (tmp_path / "client.json").write_text('{"institution": "elm", "addresses": []}')
    config = site_settings({HOME: str(tmp_path)})
    assert home_of(config).institution == "elm"
    with pytest.raises(ConfigError, match="is the home of elm and institution=oak is another"):
        home_of(replace(config, institution="oak"))


def test_a_home_serves_one_process_at_a_time(tmp_path: Path) -> None:
    config = site_settings(node(home(tmp_path)))
    with opened(config, 0.0), pytest.raises(InUse), opened(config, 0.0):
        raise AssertionError("two at once")
    with opened(config, 0.0) as site:
        assert site.home.institution == "Cleveland"


@pytest.mark.parametrize("address", ["10.0.0.7:9094", "127.0.0.1", "127.0.0.1:none", "0.0.0.0:9094"])
def test_only_a_supernode_on_this_machine_is_asked_for_messages(address: str) -> None:
    with pytest.raises(ConfigError, match="a SuperNode on this machine"):
        serve(address, lambda message: message)


def test_two_nodes_of_one_name_are_no_federation() -> None:
    def says(message: Message, context: Context) -> Message:
        return Message(who_am_i("elm"), reply_to=message)

    with pytest.raises(ConfigError, match="2 SuperNodes gave 1 names"):
        gathered(LocalGrid(says, NAMES), 2, 0.0, lambda seconds: None)


@pytest.mark.parametrize("settings", ["institution='ash", "nothing=1", "log=loud"])
def test_a_setting_that_there_is_not_is_refused(settings: str) -> None:
    with pytest.raises(ConfigError):
        site_settings({HOME: "/srv/lepton", SETTINGS: settings})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("secure_aggregation=off institutions=2", "output must name a folder"),
        ("secure_aggregation=off output=/out", "nobody said how many institutions"),
        ("institutions=2 output=/out", "choose secure_aggregation=off and noise=own"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_a_node_is_asked(settings: str, why: str) -> None:
    def nobody(message: Message, context: Context) -> Message:
        raise AssertionError("a node was asked")

    with pytest.raises(ConfigError, match=why):
        federate(LocalGrid(nobody, NAMES), {"settings": settings})


def test_the_run_does_not_begin_where_one_institution_refuses(tmp_path: Path) -> None:
    configs = {
        "Cleveland": node(home(tmp_path)),
        "Hungary": node(home(tmp_path, "Hungary", accept="by-hand"), "Hungary"),
    }

    def answers(message: Message, context: Context) -> Message:
        return on_node(message, Context(1, 2, {**configs[str(context.node_config["institution"])]}, RecordDict(), {}))

    with pytest.raises(ConfigError, match=r"does not begin, since Hungary: policy\.accept is by-hand"):
        federate(LocalGrid(answers, NAMES), run_config(tmp_path))
    assert '"reserved"' not in entries(tmp_path, "Cleveland")
