"""What tests of exported bundles share."""

import shutil

import pytest

from snapvideo_jax import __main__ as cli


def snapvideo(*arguments):
    """Runs a command in this process; it has to succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["snapvideo", *map(str, arguments)])
        cli.main()


def exported(workdir, out, *options):
    """A bundle of a run."""
    snapvideo("export", "--workdir", workdir, "--out", out, *options)
    return out


def copied(bundle, folder):
    """A copy that a test may damage."""
    return shutil.copytree(bundle, folder / "bundle")
