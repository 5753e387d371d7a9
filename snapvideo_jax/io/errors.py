"""Errors that stop a run before its last step, and their exit codes.

Exit codes are for schedulers: 75 means that the same command should be started again;
all other non-zero codes need attention first. 0 is a finished run, 1 an unexpected
error, 2 an error of the user.
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""
FULL_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
)
"""Messages of a full disk, for libraries that pass on only the text."""


class RunStopped(RuntimeError):
    """A run stopped before its last step; the message is for the user."""

    exit_code = 1


class SaveFailed(RunStopped):
    """A checkpoint could not be written; earlier ones are unchanged."""

    exit_code = 4


class Stalled(RunStopped):
    """No step finished within the time limit."""

    exit_code = 5


class Preempted(RunStopped):
    """The run was preempted (SIGTERM) and saved; the same command resumes it.

    The exit code is EX_TEMPFAIL of sysexits.h: try again later.
    """

    exit_code = 75


def is_disk_full(error: BaseException) -> bool:
    """True for the error of a full disk, also as the cause of another error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if any(word in str(seen) for word in FULL_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its repr where it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0]
