"""What processes exchange through JAX's coordination service: values and barriers."""

import contextlib
import json
import time

import jax
from jax._src import distributed as jax_distributed  # the client has no public name

WAIT_MILLISECONDS = 3_600_000
"""How long processes wait for each other later; a failure ends the wait at once."""


def assert_equal(name: str, value: str, cure: str) -> None:
    """Makes sure that this process has of something what process 0 has.

    Args:
      name: what it is; every name is asked for once.
      value: what this process has.
      cure: what to do where they differ, for the error.

    Raises:
      ValueError: they differ.
    """
    if jax.process_count() == 1:
        return
    client, key = _client(), f"snapvideo/agree/{name}"
    if jax.process_index() == 0:
        client.key_value_set(key, value)
        return
    theirs = client.blocking_key_value_get(key, WAIT_MILLISECONDS)
    if theirs != value:
        raise ValueError(f"{name} is {value} here and {theirs} for process 0; {cure}.")


def barrier(name: str) -> None:
    """Waits until all processes are here; a name is for one use."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"snapvideo/{name}", WAIT_MILLISECONDS)


def gather(key: str, value: str, seconds: float | None = None) -> list[str] | None:
    """What all processes say under a key, in their order; a key is for one use.

    Args:
      key: what is asked.
      value: what this process says.
      seconds: to wait for each of the others; None for as long as it takes.

    Returns:
      None where some process says nothing within ``seconds``.

    Raises:
      RuntimeError: the coordinator is gone.
    """
    count = jax.process_count()
    if count == 1:
        return [value]
    client, patience = _client(), int(1000 * seconds) if seconds else WAIT_MILLISECONDS
    client.key_value_set(f"{key}/{jax.process_index()}", value)
    try:
        # Process 0 asks all and tells all, for n processes in place of n squared.
        if jax.process_index() == 0:
            each = [f"{key}/{index}" for index in range(count)]
            said = [client.blocking_key_value_get(one, patience) for one in each]
            client.key_value_set(f"{key}/all", json.dumps(said))
            return said
        return json.loads(client.blocking_key_value_get(f"{key}/all", patience))
    except RuntimeError:
        if seconds is None:
            raise
        return None


def publish(key: str, value: str) -> None:
    """Tells all processes that `listen`; whoever is first is heard."""
    with contextlib.suppress(RuntimeError):  # another was first, or all end
        _client().key_value_set(key, value)


def wait_for(key: str) -> str | None:
    """Waits for what is told under a key; None where the coordinator is gone."""
    while True:
        try:
            return _client().blocking_key_value_get(key, WAIT_MILLISECONDS)
        except RuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return None


def poll(key: str, value: str, seconds: float) -> dict[int, str]:
    """The last word of each process under a key after some seconds, by its number.

    A word stands until the process says another one or takes it back.
    """
    if jax.process_count() == 1:
        return {0: value}
    try:
        client = _client()
        client.key_value_set(f"{key}/{jax.process_index()}", value, True)
        time.sleep(seconds)
        pairs = client.key_value_dir_get(f"{key}/")
    except RuntimeError:  # all end
        return {}
    return {int(name.rpartition("/")[2]): said for name, said in pairs}


def withdraw(key: str) -> None:
    """Takes back what this process has said by `report`."""
    if jax.process_count() > 1:
        with contextlib.suppress(RuntimeError):  # all end
            _client().key_value_delete(f"{key}/{jax.process_index()}")


def _client():
    return jax_distributed.global_state.client
