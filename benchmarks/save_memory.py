"""Host memory over many saves, which has to stay constant.

    python benchmarks/save_memory.py --saves 200 --megabytes 200 --out FOLDER

Saves a state of the given size repeatedly, as training does, through `Checkpoints` of
`snapvideo_jax.training.checkpoints`, each time with other values, and prints the
resident memory after every tenth save, once it is on disk. The last line has the
largest growth after the tenth save, relative to the memory then.
"""

import argparse
import json
import pathlib
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp

from snapvideo_jax.state import TrainState
from snapvideo_jax.training.checkpoints.checkpoints import Checkpoints

LEAVES = 40
"""Arrays the state is divided into, about as many as a small network has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--saves", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--out", help="folder for the checkpoints (default: a new one)")
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.out or tempfile.mkdtemp(prefix="save_memory_"))
    try:
        sizes = measure(folder, arguments.saves, arguments.megabytes)
    finally:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(json.dumps(summary(sizes)))


def measure(folder: pathlib.Path, saves: int, megabytes: float) -> list[float]:
    """Resident memory in MB after each save."""
    state = fresh(megabytes)
    move = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0
    )
    checkpoints = Checkpoints(folder, every_steps=1, keep=3)
    sizes, began = [], time.monotonic()
    for step in range(1, saves + 1):
        state = move(state)
        checkpoints.save(step, state, {"next": step})
        checkpoints.wait()
        sizes.append(resident())
        if step % 10 == 0:
            seconds = time.monotonic() - began
            print(f"save {step}: {sizes[-1]:.0f} MB, {seconds:.0f} s", flush=True)
    checkpoints.close()
    return sizes


def fresh(megabytes: float) -> TrainState:
    """A state of random numbers, which do not compress, in four equal parts."""
    count = int(megabytes * 1e6 / 4 / LEAVES)

    def part(number):
        keys = jax.random.split(jax.random.key(number), LEAVES // 4)
        return {
            f"leaf_{i}": jax.random.normal(key, count) for i, key in enumerate(keys)
        }

    params, first, second, ema = map(part, range(4))
    opt_state = {"first": first, "second": second}
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, ema)


def resident() -> float:
    """Resident memory of this process in MB."""
    text = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def summary(sizes: list[float]) -> dict:
    tenth = sizes[min(9, len(sizes) - 1)]
    most = max(sizes[9:] or sizes)
    return {
        "saves": len(sizes),
        "mb_after_the_tenth": round(tenth),
        "mb_at_most_after": round(most),
        "mb_at_the_end": round(sizes[-1]),
        "growth": round(most / tenth - 1, 4),
    }


if __name__ == "__main__":
    main()
