"""Values and barriers of JAX's coordination service, which need no devices."""

import contextlib
import json
import time

import jax

WAIT_MILLISECONDS = 3_600_000
"""Longest wait for other processes during a run; a failure ends it immediately."""


def assert_equal(name: str, value: str, cure: str) -> None:
    """Asserts that all processes hold the same value.

    Args:
      name: of the value, in the error; used once.
      value: of this process.
      cure: advice in the error.

    Raises:
      ValueError: the value differs from that of process 0.
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
    """Waits until all processes have called this; a name is used once."""
    if jax.process_count() > 1:
        client().wait_at_barrier(f"snapvideo/{name}", WAIT_MILLISECONDS)


def gather(key: str, value: str, seconds: float | None = None) -> list[str] | None:
    """The values of all processes, by process index.

    Args:
      key: used once.
      value: of this process.
      seconds: longest wait for each of the others; None has no limit.

    Returns:
      None if a process has set no value within ``seconds``.

    Raises:
      RuntimeError: the coordinator has stopped.
    """
    count = jax.process_count()
    if count == 1:
        return [value]
    service, patience = client(), int(1000 * seconds) if seconds else WAIT_MILLISECONDS
    service.key_value_set(f"{key}/{jax.process_index()}", value)
    try:
        # Process 0 collects and publishes: n messages, not n squared.
        if jax.process_index() == 0:
            each = [f"{key}/{index}" for index in range(count)]
            values = [service.blocking_key_value_get(one, patience) for one in each]
            service.key_value_set(f"{key}/all", json.dumps(values))
            return values
        return json.loads(service.blocking_key_value_get(f"{key}/all", patience))
    except RuntimeError:
        if seconds is None:
            raise
        return None


def publish(key: str, value: str) -> None:
    """Sets the value of a key for all processes; the first one to do so wins."""
    with contextlib.suppress(RuntimeError):  # another was first, or the run ends
        client().key_value_set(key, value)


def wait_for(key: str) -> str | None:
    """Waits for the value of a key; None where the coordinator has stopped."""
    while True:
        try:
            return client().blocking_key_value_get(key, WAIT_MILLISECONDS)
        except RuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return None


def poll(key: str, value: str, seconds: float) -> dict[int, str]:
    """Sets the value of this process, and returns those of all after some seconds.

    A value stays until its process sets another one or calls `withdraw`.

    Returns:
      Values by process index; processes that set none are missing.
    """
    if jax.process_count() == 1:
        return {0: value}
    try:
        service = client()
        service.key_value_set(f"{key}/{jax.process_index()}", value, True)
        time.sleep(seconds)
        pairs = service.key_value_dir_get(f"{key}/")
    except RuntimeError:  # the run ends
        return {}
    return {int(name.rpartition("/")[2]): value for name, value in pairs}


def withdraw(key: str) -> None:
    """Deletes the value that this process has set by `poll`."""
    if jax.process_count() > 1:
        with contextlib.suppress(RuntimeError):  # the run ends
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
