"""What a ServerApp and the institutions behind SuperNodes say to each other before a run's first round.

Each question is a message of the kind `query`: who an institution is, and whether it takes part under a contract. The
contract is the one that lepton-server would offer, less what Flower has no place for: nobody signed it.
"""

from __future__ import annotations

from collections.abc import Mapping

from lepton_fl.errors import ConfigError
from lepton_fl.fairness.settings import LocalReweighing
from lepton_fl.federation.contract import LARGEST, Contract, digest, from_bytes, to_bytes
from lepton_fl.federation.named_grid import IDENTITY, INSTITUTION, NamedGrid, said_by
from lepton_fl.federation.terms import SHARED, Terms
from lepton_fl.flower import ConfigRecord, Message, MessageType, RecordDict

FEDERATION = "flower"  # in a contract and in a ledger, where a run of lepton-server has the key of its CA
_OFFER, _CONTRACT, _SHA256 = "offer", "contract", "sha256"


def unkept(terms: Terms) -> tuple[str, str] | None:
    """Why such a run needs what a node of Flower's does not keep, and what to choose; None where it does not."""
    if terms.is_summed or terms.noise == SHARED:
        return (
            "a node of Flower's keeps nothing between the steps of secure aggregation, nor a contract that others "
            "signed",
            "secure_aggregation=off and noise=own",
        )
    if terms.strategy.needs_exact_loss or isinstance(terms.fairness, LocalReweighing):
        return "this strategy or fairness keeps something in each institution", "another"
    return None


def offering(contract: Contract) -> RecordDict:
    """A question: does the institution take part under this contract?"""
    return RecordDict({_OFFER: ConfigRecord({_CONTRACT: to_bytes(contract)})})


def offered(content: RecordDict) -> Contract | None:
    """The contract in a question; None if another thing was asked.

    Raises:
        ConfigError: it cannot be read, or is no contract of Flower's.
    """
    if [*content] != [_OFFER]:
        return None
    found = content.config_records[_OFFER].get(_CONTRACT)
    if not isinstance(found, bytes) or len(found) > LARGEST:
        raise ConfigError("the contract of the run cannot be read; nothing was read or sent; tell the operator")
    contract = from_bytes(found)
    if contract.federation != FEDERATION or contract.log_key:
        raise ConfigError(
            "the contract is another federation's, and under Flower nobody signs one; nothing was read or sent; tell "
            "the operator"
        )
    return contract


def who_am_i(institution: str) -> RecordDict:
    """An answer: this is whose node it is."""
    return RecordDict({IDENTITY: ConfigRecord({INSTITUTION: institution})})


def takes_part(contract: Contract) -> RecordDict:
    """An answer: the institution takes part under this contract."""
    return RecordDict({_OFFER: ConfigRecord({_SHA256: digest(contract)})})


def agreed_by_all(grid: NamedGrid, contract: Contract, wait_s: float) -> None:
    """Return once every institution said that it takes part.

    Raises:
        ConfigError: one refuses, or does not say; what each of them said is named.
    """
    asked = [Message(offering(contract), node, MessageType.QUERY, group_id=_OFFER) for node in grid.get_node_ids()]
    replies = {one.metadata.src_node_id: one for one in grid.send_and_receive(asked, timeout=wait_s)}
    refused = [
        f"{grid.names[node]}: {why}"
        for node in grid.get_node_ids()
        if (why := _why_not(replies, node, digest(contract))) is not None
    ]
    if refused:
        raise ConfigError(f"the run does not begin, since {', '.join(refused)}; nothing was trained; ask them")


def _why_not(replies: Mapping[int, Message], node: int, sha256: str) -> str | None:
    reply = replies.get(node)
    if reply is None:
        return "it did not answer"
    if reply.has_error():
        return said_by(reply)
    said = reply.content.config_records.get(_OFFER)
    return None if said is not None and said.get(_SHA256) == sha256 else "it said something else"
