"""What processes exchange through JAX's coordination service: values and barriers."""

import contextlib
import json
import time

import jax

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
    service, key = client(), f"snapvideo/agree/{name}"
    if jax.process_index() == 0:
        service.key_value_set(key, value)
        return
    theirs = service.blocking_key_value_get(key, WAIT_MILLISECONDS)
    if theirs != value:
        raise ValueError(f"{name} is {value} here and {theirs} for process 0; {cure}.")


def barrier(name: str) -> None:
    """Waits until all processes are here; a name is for one use."""
    if jax.process_count() > 1:
        client().wait_at_barrier(f"snapvideo/{name}", WAIT_MILLISECONDS)


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
    service, patience = client(), int(1000 * seconds) if seconds else WAIT_MILLISECONDS
    service.key_value_set(f"{key}/{jax.process_index()}", value)
    try:
        # Process 0 asks all and tells all, for n processes in place of n squared.
        if jax.process_index() == 0:
            each = [f"{key}/{index}" for index in range(count)]
            said = [service.blocking_key_value_get(one, patience) for one in each]
            service.key_value_set(f"{key}/all", json.dumps(said))
            return said
        return json.loads(service.blocking_key_value_get(f"{key}/all", patience))
    except RuntimeError:
        if seconds is None:
            raise
        return None


def publish(key: str, value: str) -> None:
    """Tells all processes that `listen`; whoever is first is heard."""
    with contextlib.suppress(RuntimeError):  # another was first, or all end
        client().key_value_set(key, value)


def wait_for(key: str) -> str | None:
    """Waits for what is told under a key; None where the coordinator is gone."""
    while True:
        try:
            return client().blocking_key_value_get(key, WAIT_MILLISECONDS)
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
        service = client()
        service.key_value_set(f"{key}/{jax.process_index()}", value, True)
        time.sleep(seconds)
        pairs = service.key_value_dir_get(f"{key}/")
    except RuntimeError:  # all end
        return {}
    return {int(name.rpartition("/")[2]): said for name, said in pairs}


def withdraw(key: str) -> None:
    """Takes back what this process has said by `report`."""
    if jax.process_count() > 1:
        with contextlib.suppress(RuntimeError):  # all end
            client().key_value_delete(f"{key}/{jax.process_index()}")


def client():
    """The client of the coordination service; None where this process is alone."""
    return state().client


def state():
    """JAX's state of the processes: ``client``, ``num_processes``, ``process_id``.

    Unlike `jax.process_count`, it does not wait for devices. This is the only use of
    private API of JAX in the package: the client has no public name.
    """
    from jax._src import distributed

    return distributed.global_state
