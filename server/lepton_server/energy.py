"""What institutions tell of a run's energy, and what the operator's own process took: kept in the run's folder."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from lepton_fl.energy import lines
from lepton_fl.energy.meter import Meter, of_this_machine
from lepton_fl.energy.settings import Energy
from lepton_fl.energy.spent import AGGREGATE, NOTHING, Line, Spent
from lepton_fl.energy.summary import Account
from lepton_fl.federation.metered import OPERATOR
from lepton_fl.link.energy_frame import Told
from lepton_fl.link.frames import BadFrame

_log = logging.getLogger(__name__)
_MOST_A_ROUND = 8  # frames of one institution: more is a flood


@dataclass(frozen=True)
class OfRun:
    """Whose energy is kept, and where."""

    run_id: int
    rounds: int
    folder: Path
    settings: Energy


class EnergyBook:
    """The energy of the run that is under way; used by the thread that runs it and the one that writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: OfRun | None = None
        self._lines: dict[tuple[int, str, str], Spent] = {}
        self._frames: dict[str, int] = {}
        self._meter: Meter | None = None

    def begin(self, run: OfRun, *, is_new: bool) -> Account:
        """Keep this run's from now on; one that goes on after a crash keeps what was told before."""
        run.folder.mkdir(parents=True, exist_ok=True)
        if is_new:
            lines.write(run.folder, ())
        self._lines = {}
        for line in lines.read(run.folder):
            self._add(line)
        self._frames, self._meter = {}, of_this_machine(run.settings.power_w, phase=AGGREGATE)
        self._run = run
        return Account(run.settings, self.lines)

    def told(self, institution: str, told: Told) -> None:
        """An institution told; of another run nothing is kept.

        Raises:
            BadFrame: of a round that there is not, or too often.
        """
        run = self._run
        if run is None or told.run_id != run.run_id:
            return
        frames = self._frames[institution] = self._frames.get(institution, 0) + 1
        if told.round > run.rounds or frames > _MOST_A_ROUND * (run.rounds + 1):
            raise BadFrame("energy is told of a round that there is not, or too often")
        new = [Line(told.round, institution, phase, spent) for phase, spent in told.phases.items()]
        with self._lock:
            for line in new:
                self._add(line)
        try:
            lines.append(run.folder, new)
        except OSError as error:
            _log.warning("the energy that %s told cannot be written: %s", institution, error.strerror)

    def lines(self) -> tuple[Line, ...]:
        """Everything told so far, and the operator's own up to now, in the last round that was told of."""
        with self._lock:
            if self._meter is not None:
                last = max((round for round, _, _ in self._lines), default=0)
                for phase, spent in self._meter.take().items():
                    self._add(Line(last, OPERATOR, phase, spent))
            return tuple(Line(*place, self._lines[place]) for place in sorted(self._lines))

    def end(self) -> None:
        """The file holds one line for each round, institution and phase."""
        if self._run is not None:
            lines.write(self._run.folder, self.lines())

    def _add(self, line: Line) -> None:
        place = (line.round, line.institution, line.phase)
        self._lines[place] = self._lines.get(place, NOTHING) + line.spent
