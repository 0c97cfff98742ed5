"""W2 by a plain torch loop, the yardstick: one model, its values put back for each institution."""

from __future__ import annotations

import torch
import workload


def main() -> None:
    """Rounds by request."""
    began = workload.before()
    workload.limit_threads()
    turns = workload.Turns("plain torch loop", began)
    data, net = workload.institutions(), workload.model()
    parameters = list(net.parameters())
    turns.ready()
    for round in turns:
        start = [one.detach().clone() for one in parameters]
        total = [torch.zeros_like(one) for one in start]
        for institution in workload.cohort(round):
            with torch.no_grad():
                for one, value in zip(parameters, start, strict=True):
                    one.copy_(value)
            workload.train(net, *data[institution])
            with torch.no_grad():
                for one, value in zip(total, parameters, strict=True):
                    one.add_(value)
        with torch.no_grad():
            for one, value in zip(parameters, total, strict=True):
                one.copy_(value / workload.COHORT)
        turns.done(parameters)


if __name__ == "__main__":
    main()
