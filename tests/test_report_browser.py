"""A real browser opens the report: what it shows is what the report says, hostile names and all, on paper too.

Needs Debian's `chromium`; skipped where there is none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_folder
from report_folder import HOSTILE, figures

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-extensions",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check",
)  # fmt: skip
TRAP = "<script>document.title='it ran'</script>"


class Words(HTMLParser):
    """The text of a document, and the elements in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def browser(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, (folder / "report.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module", params=["plain", "hostile"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of four institutions and its page."""
    folder = tmp_path_factory.mktemp("opened")
    names = report_folder.NAMES if request.param == "plain" else (*HOSTILE[:3], TRAP)
    made = report_folder.make(report_folder.write(folder / "run", names))
    (folder / "report.json").write_bytes(made.report)
    (folder / "report.html").write_bytes(made.page)
    return folder


def test_the_browser_shows_every_figure_and_runs_nothing(opened: Path) -> None:
    done = browser(opened, "--dump-dom")
    words = Words()
    words.feed(done.stdout)
    shown = " ".join(" ".join(words.text).split())
    found = 0
    for one in figures(json.loads((opened / "report.json").read_text())):
        for text in (one["value"], one["ci"] and " – ".join(one["ci"])):
            if text is not None and one["source"] != "this report":
                assert " ".join(text.split()) in shown
                found += 1
    assert found > 150
    assert not {"script", "img"} & {*words.elements}
    assert "it ran" not in shown.replace(TRAP, "")
    assert "violates" not in done.stderr  # of the page's own policy


def test_the_browser_applies_the_style_that_the_policy_allows(opened: Path) -> None:
    """Without its style the verdict has no ground of its own: the first screen would be of one colour but for text."""
    picture = opened / "page.png"
    browser(opened, f"--screenshot={picture}", "--window-size=1000,700", "--hide-scrollbars")
    from matplotlib.image import imread

    pixels = imread(str(picture))[..., :3].reshape(-1, 3)
    accent = abs(pixels - [0x0F / 255, 0x66 / 255, 0x73 / 255]).max(axis=1) < 0.02
    assert accent.sum() > 500  # the rule above the verdict alone is 3 x 860


def test_it_is_printed_on_several_pages_of_a4(opened: Path) -> None:
    paper = opened / "report.pdf"
    browser(opened, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF-")
    assert 5 < content.count(b"/Type /Page\n") < 60
    width, height = (float(n) for n in content.split(b"/MediaBox [0 0 ")[1].split(b"]")[0].split())
    assert (width, height) == pytest.approx((595, 842), abs=2)  # points: 210 x 297 mm
