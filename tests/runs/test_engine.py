"""What an engine says of its workplace."""

from unittest.mock import create_autospec

from iclab.commands.progress import Plain
from iclab.runs import engine
from iclab.runs.engine import Engine
from iclab.runs.engines.local import Processes


def test_what_is_lacking_is_said_once_and_again_after_it_was_there(monkeypatch):
    monkeypatch.setattr(engine, "PAUSE", 0.0)
    display, workplace = create_autospec(Plain), create_autospec(Processes)
    workplace.lacks.side_effect = ["", "no worker", "no worker", "", "no worker"]
    made, said = Engine([], workplace, display), []
    for _ in range(5):
        made._look()
        said.append(display.note.call_count)
    assert said == [0, 1, 1, 1, 2]
    display.note.assert_called_with("no worker")
