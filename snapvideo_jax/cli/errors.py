"""User errors: one line on stderr and exit code 2."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line where the user's input is at fault."""
    try:
        yield
    except ValueError as error:
        print(f"snapvideo: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
