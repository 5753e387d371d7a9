"""`snapvideo export`."""

import argparse
from pathlib import Path

from snapvideo_jax.export.export import _export_run, _export_stages, check
from snapvideo_jax.io.messages import human_bytes


def run(arguments: argparse.Namespace) -> None:
    """`snapvideo export`."""
    check(arguments)
    out, workdir = Path(arguments.out), Path(arguments.workdir)
    if arguments.cascade:
        _export_stages(workdir, Path(arguments.cascade), out, arguments)
    else:
        _export_run(workdir, out, arguments)
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {human_bytes(size, 4)}: {out}")
