"""A proposal from a contract: its terms, its price here, and the time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime

from lepton_client.clauses import Proposal
from lepton_client.policy import Policy
from lepton_client.price import Spending, hours, megabytes_out, price
from lepton_fl.federation.client_app import ClientProgram
from lepton_fl.federation.contract import Contract
from lepton_fl.federation.installed import Document


def propose(
    policy: Policy, tasks: Mapping[str, Document], contract: Contract, made: tuple[ClientProgram, Spending, datetime]
) -> Proposal:
    """What `clauses` compares with the policy; takes up to a second, and reads no record.

    Args:
        tasks: that the policy names, `approved_tasks`.
        made: the program of the contract's terms, on the device that would train; the ledger's figures, with this run
            and without; and the local time.
    """
    program, spending, now = made
    terms = contract.settings()
    leaving = [kind for kind in (*contract.must_leave, *contract.may_leave) if kind in policy.may_leave]
    took = hours(terms, program, len(contract.institutions), time.perf_counter)
    cost = price(spending, took, megabytes_out(terms, program, leaving), policy.power_w)
    return Proposal(contract, terms, cost, now.time(), tasks)
