"""Both daemons log sentences for people or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from lepton_fl.logs import JsonLine


def line(message: str, extra: dict[str, object] | None = None) -> str:
    record = logging.getLogger("lepton_server.hub").makeRecord(
        "lepton_server.hub", logging.INFO, "hub.py", 1, message, (), None, extra=extra
    )
    return JsonLine().format(record)


def said(program: str) -> subprocess.CompletedProcess[str]:
    """What a process of its own says: logging is global, and the tests' own must stay as it is."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_record_is_an_object_with_its_time_level_logger_and_message() -> None:
    got = json.loads(line("North connected"))
    assert list(got) == ["time", "level", "logger", "message"]
    assert (got["level"], got["logger"], got["message"]) == ("info", "lepton_server.hub", "North connected")
    assert got["time"].endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(got["time"])).total_seconds()) < 60


def test_what_is_passed_as_extra_is_a_field_of_its_own() -> None:
    got = json.loads(line("connected", {"institution": "North", "round": 3, "run": 7}))
    assert (got["institution"], got["round"], got["run"]) == ("North", 3, 7)


@pytest.mark.parametrize("name", ["time", "level", "logger"])
def test_an_extra_field_does_not_replace_a_fixed_one(name: str) -> None:
    assert json.loads(line("connected", {name: "forged"}))[name] != "forged"


@pytest.mark.parametrize("message", ['a "quote"', "two\nlines", "\x1b[31mred\x00", "\u2028separator", "snow \u2603"])
def test_a_record_is_one_line_of_ascii_whatever_its_message_holds(message: str) -> None:
    got = line(message)
    assert got.isascii()
    assert got.isprintable()
    assert json.loads(got)["message"] == message


def test_an_exception_travels_inside_the_object() -> None:
    done = said(
        "import logging\nfrom lepton_fl.logs import set_up\nset_up('json')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.getLogger('lepton_fl.x').exception('went wrong')"
    )
    (only,) = done.stderr.splitlines()
    assert "ZeroDivisionError" in json.loads(only)["traceback"]


def test_text_is_the_message_alone_on_stderr() -> None:
    done = said(
        "import logging\nfrom lepton_fl.logs import set_up\nset_up('text')\n"
        "logging.getLogger('lepton_client.agent').info('joined', extra={'run': 1})"
    )
    assert (done.stdout, done.stderr) == ("", "joined\n")


def test_other_libraries_are_heard_from_warnings_up() -> None:
    done = said(
        "import logging\nfrom lepton_fl.logs import set_up\nset_up('text')\n"
        "logging.getLogger('other').info('chatter')\nlogging.getLogger('other').warning('trouble')"
    )
    assert done.stderr == "trouble\n"


def test_a_python_warning_is_an_object_like_the_rest() -> None:
    done = said("import warnings\nfrom lepton_fl.logs import set_up\nset_up('json')\nwarnings.warn('old')")
    assert [json.loads(one)["level"] for one in done.stderr.splitlines()] == ["warning"]


@pytest.mark.parametrize(("form", "expected"), [("text", "error: no; nothing was done\n"), ("json", None)])
def test_the_last_line_of_a_mistake_has_the_form_of_the_log(form: str, expected: str | None) -> None:
    done = said(
        f"from lepton_fl.logs import set_up\nset_up('{form}')\n"
        "from lepton_fl.errors import ConfigError, exit_on_error\n"
        "with exit_on_error():\n    raise ConfigError('no; nothing\\n   was done')"
    )
    assert done.returncode == 2
    if expected is not None:
        assert done.stderr == expected
    else:
        got = json.loads(done.stderr)
        assert (got["level"], got["message"], got["exit_code"]) == ("error", "no; nothing was done", 2)


def test_without_any_set_up_a_mistake_is_one_plain_line() -> None:
    done = said(
        "from lepton_fl.errors import Stopped, exit_on_error\nwith exit_on_error():\n    raise Stopped('by day')"
    )
    assert (done.returncode, done.stderr) == (11, "error: by day\n")
