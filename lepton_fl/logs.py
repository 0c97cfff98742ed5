"""What a daemon says while it works, on stderr: sentences for people, or one JSON object a line for machines.

Messages never carry data, keys, secrets or norms of private updates, in either form.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

# gRPC's core writes its own lines to stderr, past every handler, and reads this when it is first used.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_OURS = ("lepton_fl", "lepton_server", "lepton_client")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_log = logging.getLogger(__name__)


class JsonLine(logging.Formatter):
    """One record as one JSON object: time, level, logger, message, and whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`; never more than one line."""
        fixed = {
            "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",  # RFC 3339
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            extra["traceback"] = self.formatException(record.exc_info)
        # An extra field of the same name does not replace a fixed one.
        return json.dumps({**fixed, **extra, **fixed}, default=str)


def set_up(form: str) -> None:
    """Send every log record to stderr as `form`, text or json, says; of other libraries only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if form == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(form == "json")


def say_last(message: str, exit_code: int) -> None:
    """The line a process ends with: `error: …`, or a JSON object like every other line where those were asked for."""
    if any(isinstance(handler.formatter, JsonLine) for handler in logging.getLogger().handlers):
        _log.error(message, extra={"exit_code": exit_code})
    else:
        sys.stderr.write(f"error: {message}\n")
