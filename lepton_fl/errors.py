"""Errors: one class per decision a caller can take, each with its exit code.

A `LeptonError` reaches the terminal as one line, `error: what happened; what is safe; what to do`; a daemon with
`log=json` says the same as a JSON object.
`docs/exit-codes.md` lists the codes. Messages never carry data, keys or norms of private updates.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lepton_fl.logs import say_last

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class LeptonError(Exception):
    """Something a person can act on; everything else that is raised is a bug."""

    exit_code = 1


class ConfigError(LeptonError):
    """The configuration asks for something that cannot be done, or not safely."""

    exit_code = 2


class BudgetSpent(LeptonError):
    """The next step would break the promise made to the people in the data."""

    exit_code = 3


class DataError(LeptonError):
    """The data does not fit the task's schema."""

    exit_code = 4


class UnsupportedModel(LeptonError):
    """The model cannot be trained with a bound on each record's influence."""

    exit_code = 5


class TrainingFailed(LeptonError):
    """No round produced a model: every reply was missing or refused."""

    exit_code = 6


class WorkerLost(LeptonError):
    """A process that computed for a simulation ended by itself; the run is over for every institution."""

    exit_code = 6


class Stopped(LeptonError):
    """Somebody asked this process to end, with SIGTERM; what it was doing can be continued."""

    exit_code = 11


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a `LeptonError` into one line on stderr and its exit code; Ctrl-C into 130, a full disk into 9."""
    try:
        yield
    except LeptonError as error:
        say_last(" ".join(str(error).split()), error.exit_code)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" ({error.filename})" if error.filename else ""
        say_last(
            f"the disk is full{where}; files already written are whole; make room, then run the same command again", 9
        )
        raise SystemExit(9) from None
    except KeyboardInterrupt:
        say_last(
            "interrupted; files already written are whole; a simulation starts anew, and a run over the network goes "
            "on with the same command",
            130,
        )
        raise SystemExit(130) from None
