"""Settings of the whole suite, made before anything imports JAX.

This file must not import the package: the type checks of the signatures
(--jaxtyping-packages in pyproject.toml) are planted when a module is first imported.
"""

import collections
import gc
import logging
import os
import pathlib
import sys

import xla_flags

_CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"

os.environ["JAX_PLATFORMS"] = "cpu"
# The tests run by themselves also where they are started inside of a cluster.
os.environ["SNAPVIDEO_PROCESS_COUNT"] = "1"
# Eight devices to test sharding on.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), xla_flags.devices(8), xla_flags.FAST_COMPILE]
).strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402  (reads the environment above)
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# JAX makes so many objects that the default of 700 takes a tenth of all time.
gc.set_threshold(100_000, 20, 20)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain reads flags, which only absl's app.run parses.

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)


def pytest_collection_modifyitems(items):
    """Files with the most marked tests come first, so that no process ends late."""
    marked = collections.Counter(
        item.path
        for item in items
        for name in ("slow", "tpu_compile")
        if item.get_closest_marker(name)
    )
    items.sort(key=lambda item: -marked[item.path])


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """A small data set of moving shapes: its folder of files and records."""
    from snapvideo_jax.data.shapes import dataset

    return dataset.build(tmp_path_factory.mktemp("shapes"), videos=24, images=12)


@pytest.fixture(scope="session")
def trained(shapes_root, tmp_path_factory):
    """The workdir of a finished tiny run of 12 steps, on 8 devices. Not to be changed.

    It made sheets after step 6 and 12, and tells its MFU for a made-up peak.
    """
    from helpers import tiny_config

    from snapvideo_jax.train import train

    workdir = tmp_path_factory.mktemp("trained")
    config = tiny_config(
        shapes_root,
        "sheets.every_steps=6",
        "run.peak_tflops=1",
        "run.keep=2",
        "run.keep_every_steps=4",
    )
    train(config, workdir)
    return workdir


@pytest.fixture(autouse=True)
def fresh_log():
    """The package's log as on import, whatever commands did to it in earlier tests and
    in fixtures of a module: their handlers write to streams that are closed, and pytest
    would hear the lines of a log that does not propagate twice."""
    logger = logging.getLogger("snapvideo_jax")

    def forget():
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

    forget()
    yield
    forget()


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command in this process; gives its exit code, output and errors."""
    from snapvideo_jax import __main__ as cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["snapvideo", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def one_device(monkeypatch):
    """Makes the verbs that sample use one device, so that no batch is filled up."""
    from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh
    from snapvideo_jax.sampling import loading

    mesh = make_mesh(MeshConfig(), batch=1, devices=jax.devices()[:1])
    monkeypatch.setattr(loading, "make_mesh", lambda *_, **__: mesh)


@pytest.fixture
def nothing_compiles():
    """Fails a test in which a program is compiled for a device."""
    before = len(COMPILED)
    jax.jit(lambda: before)()
    known = len(COMPILED)
    assert known > before, "compilations are not noticed"
    yield
    assert len(COMPILED) == known
