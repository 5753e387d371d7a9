"""Log files: one for every process of a run."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax


class _LogFile(logging.FileHandler):
    """A log file that is created with its first line."""

    def _open(self):
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


@contextlib.contextmanager
def to_file(folder: Path) -> Iterator[None]:
    """Logs this process to a file, and process 0 also to the terminal.

    Debug lines, such as tracebacks, go to the file only.
    """
    index = jax.process_index()
    log = logging.getLogger("snapvideo_jax")
    terminals = [each for each in log.handlers if type(each) is logging.StreamHandler]
    for terminal in terminals:
        terminal.setLevel(logging.INFO)
        if index:
            log.removeHandler(terminal)
    file = _LogFile(folder / "logs" / f"process_{index:04d}.log", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(file)
        file.close()
