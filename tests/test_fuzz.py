"""Damaged clips are decoded or refused, and never crash or hang a reader."""

import pathlib
import re
import subprocess
import sys

FUZZ = pathlib.Path(__file__).parent.parent / "benchmarks" / "fuzz_clips.py"


def test_no_damaged_file_crashes_hangs_or_gives_false_frames():
    # In a separate process: a crash of FFmpeg would end the tests as well.
    run = subprocess.run(
        [sys.executable, str(FUZZ), "--files", "100", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    counts = {
        reason: int(count)
        for count, reason in re.findall(r"^ *(\d+) (.+)$", run.stdout, re.MULTILINE)
        if "files, longest" not in reason
    }
    decoded = sum(n for reason, n in counts.items() if reason.startswith("decoded"))
    assert sum(counts.values()) == 100
    assert 10 < decoded < 90, "the damage is to hit some files and spare others"
