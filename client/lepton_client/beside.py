"""Training beside the exchange of keys: one piece of work after another, in a thread that no exit waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from lepton_fl.secure_aggregation.vector import Words


class Beside:
    """Where the vectors of masked rounds are computed; see `federation.masked_app.Computes.begin`."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None
        self.seconds = 0.0  # that the last piece of work took

    def begin(self, work: Callable[[], Words]) -> Callable[[], Words]:
        """Start this work when the one before is done, since both train the same model; returns what waits for it."""
        future: Future[Words] = Future()
        before = self._last

        def run() -> None:
            if before is not None:
                before.join()
            began = time.monotonic()
            try:
                made = work()
            except BaseException as error:  # whoever waits for it gets it
                future.set_exception(error)
                return
            self.seconds = time.monotonic() - began
            future.set_result(made)

        # A thread of the pool kind would keep the process alive until the training is done.
        self._last = threading.Thread(target=run, name="masked-training", daemon=True)
        self._last.start()
        return future.result
