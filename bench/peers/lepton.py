"""W2 by the product: whole rounds as `lepton-sim` runs them, from whom to ask to the model they made."""

from __future__ import annotations

import sys
from pathlib import Path

import workload

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    """Rounds by request."""
    began = workload.before()
    workload.limit_threads()
    turns = workload.Turns("lepton-sim", began)
    from simulation import COHORT, SITES, WORKLOADS, Asked, Product

    product = Product(WORKLOADS["W2"], SITES, COHORT, Asked("auto", None, 1))
    turns.ready()
    for round in turns:
        product.round(round)
        turns.done(product.values)


if __name__ == "__main__":
    main()
