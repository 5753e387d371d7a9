"""Why a run ends before its last step, and the exit code that tells it.

Codes are for schedulers: 75 asks for another start of the same command, all others for
a look first. 0 is a finished run, 1 an error that nobody foresaw, 2 something that the
user has to correct.
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk that takes no more."""
FULL_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
)
"""The same where only a text comes through."""


class RunStopped(RuntimeError):
    """A run ends before its last step; the message is for the user."""

    exit_code = 1


class SaveFailed(RunStopped):
    """A checkpoint could not be written; the ones before it are kept."""

    exit_code = 4


class Stalled(RunStopped):
    """No step finished for too long."""

    exit_code = 5


class Preempted(RunStopped):
    """The run was told to stop; the same command goes on with it.

    The code is EX_TEMPFAIL of sysexits.h: try again later.
    """

    exit_code = 75


def is_disk_full(error: BaseException) -> bool:
    """True for the error of a disk that takes no more, however deep it lies."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if any(word in str(seen) for word in FULL_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]
