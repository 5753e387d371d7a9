"""Every second of a run belongs to one part, over all of its starts."""

import json
import logging
import time

import pytest
from processes import PATIENCE_SECONDS

from snapvideo_jax.training import goodput
from snapvideo_jax.training.goodput import PARTS, Goodput, RunSummary, process_seconds
from snapvideo_jax.training.run_folder import RunFolder
from snapvideo_jax.training.watchdog import Watchdog


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(goodput.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(goodput.time, "time", lambda: 5000 + self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_inner_parts_do_not_count_twice(clock):
    spent = Goodput(before=2.0)
    clock.now += 3
    spent.started()
    with spent.timing("evaluation"):
        clock.now += 5
        with spent.timing("compile"):
            clock.now += 7
        clock.now += 11
    clock.now += 13
    expected = dict.fromkeys(PARTS, 0.0)
    expected |= {"start": 5.0, "evaluation": 16.0, "compile": 7.0, "other": 13.0}
    assert spent.seconds() == expected
    assert sum(expected.values()) == spent.wall()


def test_the_parts_add_up_to_the_wall_time_by_real_clocks():
    before, spent, began = time.monotonic(), Goodput(), time.monotonic()
    spent.started()
    for _ in range(50):
        with spent.timing("data"), spent.timing("step"):
            time.sleep(0.001)
    ended, whole = time.monotonic(), sum(spent.seconds().values())
    assert ended - began <= whole <= time.monotonic() - before
    assert spent.seconds()["step"] >= 0.05


def test_a_part_ends_also_with_an_error(clock):
    spent = Goodput()
    with pytest.raises(KeyError), spent.timing("save"):
        clock.now += 1
        raise KeyError
    assert spent.current == ("start", clock.now)
    assert spent.seconds()["save"] == 1.0


def run_steps(clock, summary, spent, steps, saves=()):
    """Steps of 10 s, each of which waits for data for 1 s."""
    for step in steps:
        with spent.timing("data"):
            clock.now += 1
        with spent.timing("step"):
            clock.now += 10
        if step in saves:
            summary.saved(step)
        summary.write(step)


def test_steps_that_are_done_again_are_lost(clock, tmp_path):
    spent = Goodput()
    spent.started()
    summary = RunSummary(RunFolder(tmp_path).at(0, 8), spent)
    run_steps(clock, summary, spent, range(1, 6), saves=(2,))
    clock.now += 100  # killed, and started again later
    spent = Goodput()
    clock.now += 4
    spent.started()
    summary = RunSummary(RunFolder(tmp_path).at(2, 8), spent)
    run_steps(clock, summary, spent, range(3, 9), saves=(8,))
    summary.write(8, "finished")
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["runs"] == 2 and found["restarts"] == 1 and found["lost_steps"] == 3
    expected = dict.fromkeys(PARTS, 0.0)
    expected |= {"data": 8.0, "step": 80.0, "start": 4.0, "lost": 33.0}
    assert found["seconds"] == pytest.approx(expected)
    assert found["wall_seconds"] == pytest.approx(55 + 70)
    assert found["between_seconds"] == pytest.approx(100)
    assert found["goodput"] == pytest.approx(80 / 125)
    assert found["ended"] == "finished" and found["step"] == found["steps"] == 8


@pytest.mark.parametrize("text", ["", "[]", "{", '{"step": 1}'])
def test_an_unreadable_summary_is_replaced(clock, tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    spent = Goodput()
    clock.now += 1
    summary = RunSummary(RunFolder(tmp_path).at(2, 8), spent)
    summary.write(3)
    assert json.loads((tmp_path / "summary.json").read_text())["runs"] == 1


def test_the_shares_are_logged(clock, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    spent = Goodput()
    clock.now += 1
    summary = RunSummary(RunFolder(tmp_path).at(0, 8), spent)
    with spent.timing("step"):
        clock.now += 3
    summary.log()
    assert caplog.messages == [
        "4 s in 1 start: step 75.0%, start 25.0%; 0 steps were recomputed"
    ]


def test_the_time_before_the_first_line_of_a_program_counts():
    assert 0 < process_seconds() < 86400 * 365


# --- The watchdog --------------------------------------------------------------------


@pytest.fixture
def reports(caplog):
    def wait(count=1):
        end = time.monotonic() + PATIENCE_SECONDS
        while len(caplog.messages) < count and time.monotonic() < end:
            time.sleep(0.01)
        return caplog.messages

    return wait


def a_place_of_its_own(reports):
    return reports()


@pytest.mark.parametrize(
    "part, words",
    [
        ("data", "waiting for data"),
        ("step", "waiting for the device"),
        ("save", "waiting for a checkpoint to be saved"),
    ],
)
def test_the_watchdog_reports_the_part_and_the_stacks(part, words, reports):
    spent = Goodput()
    spent.started()
    watchdog = Watchdog(0.3 / 60, 100.0, False, spent)
    watchdog.step_finished(7)
    with spent.timing(part):
        (first, *_) = a_place_of_its_own(reports)
    watchdog.close()
    assert f"since step 7: this process is {words}. All threads:" in first
    assert "in a_place_of_its_own" in first and "most recent call first" in first


def test_steps_and_compilations_do_not_make_it_report(reports, caplog):
    spent = Goodput()
    spent.started()
    watchdog = Watchdog(2 / 60, 100.0, False, spent)
    with spent.timing("compile"):
        time.sleep(2.5)
    for step in range(25):
        time.sleep(0.1)
        watchdog.step_finished(step)
    watchdog.close()
    assert not caplog.messages


def test_a_compilation_that_takes_too_long_is_reported(reports):
    spent = Goodput()
    watchdog = Watchdog(100.0, 0.2 / 60, False, spent)
    with spent.timing("compile"):
        assert "this process is compiling" in reports()[0]
    watchdog.close()


def test_it_ends_a_run_that_stalls_where_asked(reports, monkeypatch):
    ends = []
    monkeypatch.setattr(
        "snapvideo_jax.parallel.processes.end_all_processes", ends.append
    )
    spent = Goodput()
    spent.started()
    watchdog = Watchdog(0.1 / 60, 100.0, True, spent)
    reports()
    watchdog.close()
    assert ends[0].exit_code == 5
    assert str(ends[0]).endswith("; the newest checkpoint remains.")
