"""Layouts that replicate too much are refused; others are reported."""

import functools
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers import tiny_config
from jax.sharding import AbstractMesh

from snapvideo_jax import config as configs
from snapvideo_jax.parallel import layout_report, sharding
from snapvideo_jax.parallel.layout_report import checked_shardings
from snapvideo_jax.parallel.sharding import AXES, Rules
from snapvideo_jax.state import abstract_state
from snapvideo_jax.step import jit_train_step


def mesh_of(**sizes):
    return AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)


def state(**params):
    """A state of float32 parameters, each given by its shape and logical axes."""
    return types.SimpleNamespace(
        params={
            name: nn.LogicallyPartitioned(
                jax.ShapeDtypeStruct(shape, jnp.float32), axes
            )
            for name, (shape, axes) in params.items()
        }
    )


def check(mesh, rules=Rules(), **params):  # noqa: B008
    """Checks parameters as those of a state, whose other parts do not matter."""
    boxed = state(**params).params
    layout_report.check_rules(boxed, rules)
    places = sharding.state_shardings(boxed, mesh, rules)
    layout_report.check_sharded(
        list(layout_report.parameter_layouts(boxed, places)), mesh, rules
    )


KERNEL = ("embed", "mlp")
LARGE = ((8192, 8192), KERNEL)


@functools.cache
def tiny():
    """The tiny experiment, and its state with logical axes."""
    experiment = configs.build(tiny_config("nowhere"))
    return experiment, abstract_state(experiment)


# --- What is refused -----------------------------------------------------------------


def test_a_mesh_axis_that_divides_no_parameter_is_refused():
    wanted = r"mesh.tensor=4 divides no parameter; the largest .*wide\[embed, mlp\]"
    with pytest.raises(ValueError, match=wanted):
        check(mesh_of(tensor=4), wide=((8, 6), KERNEL), norm=((8,), ("norm",)))
    check(mesh_of(tensor=4), wide=((8, 8), KERNEL), odd=((8, 6), KERNEL))
    # Axes that divide the batch only need no parameter.
    check(mesh_of(data=4, replica=2), odd=((7, 5), KERNEL))


def test_a_large_parameter_whose_sizes_do_not_divide_is_refused():
    wanted = r"sizes of 1 parameters do not divide.*odd\[.*\] of 1999 .*mesh.fsdp=4"
    with pytest.raises(ValueError, match=wanted):
        check(mesh_of(fsdp=4), large=LARGE, odd=((1999, 1999), KERNEL))
    # A hundredth of the bytes, or a few megabytes, are not worth a refusal.
    check(mesh_of(fsdp=4), large=LARGE, odd=((1999, 99), KERNEL))
    check(mesh_of(fsdp=4), small=((8, 8), KERNEL), odd=((7, 7), KERNEL))


def test_parameters_that_are_mostly_replicated_are_refused():
    params = {f"norm_{n}": ((1000, 1000), ("blocks", "norm")) for n in range(7)}
    wanted = r"10.1% of the parameters are replicated.*at most 2%; .* are norm_6"
    with pytest.raises(ValueError, match=wanted) as refused:
        check(mesh_of(fsdp=4), large=((8192, 7600), KERNEL), **params)
    assert len(re.findall(r"norm_\d", str(refused.value))) == 5
    # Without fsdp everything is meant to be whole.
    check(mesh_of(data=4), large=LARGE, **params)


def test_colliding_axes_name_the_five_largest_parameters():
    params = {f"kernel_{n}": ((n, 8), KERNEL) for n in range(1, 8)}
    wanted = r"cannot shard 7 parameters; the largest are kernel_7.*Colliding mesh axes"
    with pytest.raises(ValueError, match=wanted) as refused:
        check(mesh_of(fsdp=4), Rules(mlp="fsdp"), **params)
    assert "kernel_3" in str(refused.value) and "kernel_2" not in str(refused.value)


def test_an_axis_without_a_rule_names_its_parameter():
    with pytest.raises(ValueError, match=r"odd\['width'\]: .*'width' has no rule"):
        check(mesh_of(fsdp=4), odd=((8,), ("width",)))


def test_training_and_dry_runs_refuse_the_same_layouts():
    _, boxed = tiny()
    with pytest.raises(ValueError, match="mesh.fsdp=3 divides no parameter"):
        checked_shardings(boxed, mesh_of(fsdp=3))
    places = checked_shardings(boxed, mesh_of(fsdp=4))
    assert places == sharding.state_shardings(boxed, mesh_of(fsdp=4))


def test_every_rule_is_used_by_a_parameter_or_an_activation(monkeypatch):
    """A step is traced; one table serves all models, so no run can refuse this."""
    experiment, boxed = tiny()
    used, spec = set(), Rules.spec

    def recording(rules, names):
        used.update(names)
        return spec(rules, names)

    monkeypatch.setattr(Rules, "spec", recording)
    mesh = jax.make_mesh(
        (1,) * len(AXES),
        AXES,
        devices=jax.devices()[:1],
        axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
    )
    places = checked_shardings(boxed, mesh)
    step = jit_train_step(experiment, mesh, places)
    from snapvideo_jax.planning.programs import abstract_batch

    key = jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(step, nn.unbox(boxed), abstract_batch(experiment), key)
    assert used - {None} == set(Rules.__dataclass_fields__)


# --- What is reported ----------------------------------------------------------------


def test_a_report_appends_the_layout_to_the_name():
    _, boxed = tiny()
    mesh = mesh_of(fsdp=4, tensor=2)
    rows = layout_report.report(boxed.params, checked_shardings(boxed, mesh).params)
    by_name = {row["name"]: row for row in rows}
    row = by_name["blocks/write/feed_forward/out/kernel"]
    assert row["layout"] == "[blocks, from_mlp_tensor_fsdp, to_embed]"
    assert row["shape"] == [2, 32, 8] and row["bytes_per_device"] == 4 * 2 * 32 // 8 * 8
    text = layout_report.describe(rows)
    assert "out/kernel[blocks, from_mlp_tensor_fsdp, to_embed]  2 x 32 x 8  " in text


def test_a_report_has_every_byte_and_begins_with_the_largest():
    _, boxed = tiny()
    places = checked_shardings(boxed, mesh_of(fsdp=4)).params
    rows = layout_report.report(boxed.params, places)
    sizes = [row["bytes_per_device"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    params = nn.unbox(boxed.params)
    assert sum(sizes) == sharding.bytes_per_device(params, places)
    assert sum(row["count"] for row in rows) == len(jax.tree.leaves(params))


def test_parameters_whose_names_differ_in_a_number_share_a_line():
    params = {f"layer_{n}": ((8, 8), KERNEL) for n in range(3)} | {
        "last": ((64, 64), KERNEL)
    }
    boxed = state(**params).params
    places = sharding.state_shardings(boxed, mesh_of(fsdp=4))
    rows = layout_report.report(boxed, places)
    assert layout_report.describe(rows).splitlines() == [
        "last[embed_fsdp, mlp]  64 x 64  0.0041 MB",
        "layer_*[embed_fsdp, mlp]  8 x 8  3 times  0.000192 MB",
        "4 parameters  0.00429 MB in a device",
    ]
