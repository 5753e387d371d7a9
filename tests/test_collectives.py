"""Who takes part in a collective, along which axis, and how long its links need."""

import pytest

from snapvideo_jax.parallel.chips import CHIPS
from snapvideo_jax.planning.forecast.collectives import OPS, Network, groups_of

V5E, V5P = CHIPS["v5e"], CHIPS["v5p"]
ALL = (tuple(range(8)),)


def network(chip=V5P, devices=8, mesh=None, links=None, slices=1):
    return Network(chip, devices, mesh or {}, links or {}, slices)


# Groups.


@pytest.mark.parametrize(
    "written, groups",
    [
        ("{}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("{{0,1,2,3},{4,5,6,7}}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8,'b'=1] {'a'}", (tuple(range(8)),)),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        (
            "mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}",
            ((0, 1, 2, 3), (4, 5, 6, 7)),
        ),
        ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8] {'a':(4)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        (
            "mesh['a'=2,'b'=4], device_ids=([8]<=[4,2]T(1,0)) {'b'}",
            ((0, 2, 4, 6), (1, 3, 5, 7)),
        ),
    ],
)
def test_groups_are_read_in_every_form(written, groups):
    rest = f"channel_id=1, replica_groups={written}, dimensions={{0}}"
    assert groups_of(rest, devices=8) == groups


def test_collectives_without_groups_are_of_all():
    assert groups_of("channel_id=1", devices=3) == ((0, 1, 2),)


@pytest.mark.parametrize(
    "pairs, groups",
    [
        ("{{0,1},{1,2},{2,3},{3,0}}", ((0, 1, 2, 3),)),
        ("{{0,1},{1,0},{2,3},{3,2}}", ((0, 1), (2, 3))),
        ("{{1,2},{0,1}}", ((0, 1, 2),)),
        ("{{2,2}}", ((2,),)),
    ],
)
def test_those_that_pass_their_arrays_on_are_a_group(pairs, groups):
    assert groups_of(f"source_target_pairs={pairs}, channel_id=2", 4) == groups


def test_groups_in_another_form_are_refused():
    with pytest.raises(ValueError, match="replica_groups=@there is in an unknown form"):
        groups_of("replica_groups=@there", devices=8)


# Axes and slices.


@pytest.mark.parametrize(
    "groups, axis",
    [
        (((0, 1, 2, 3), (4, 5, 6, 7)), "fsdp"),
        (((0, 4), (1, 5), (2, 6), (3, 7)), "data"),
        (ALL, "data+fsdp"),
        (((0,),), ""),
    ],
)
def test_a_group_lies_along_the_axes_that_its_devices_differ_in(groups, axis):
    assert network(mesh={"data": 2, "fsdp": 4, "tensor": 1}).axis(groups) == axis


def test_without_a_mesh_no_axis_has_a_name():
    assert network().axis(ALL) == ""


def test_a_group_reaches_the_slices_that_its_devices_lie_in():
    halves = network(slices=2)
    assert halves.reach(((0, 1, 2, 3), (4, 5, 6, 7))) == 1
    assert halves.reach(((0, 4), (1, 5))) == halves.reach(ALL) == 2


def test_a_mesh_or_slices_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'fsdp': 4} has 4 devices, but .* is for 8"):
        network(mesh={"fsdp": 4})
    with pytest.raises(ValueError, match="slices=3 does not divide the 8 devices"):
        network(slices=3)


# Times. 90 GB over 6 links of 90 GB/s are 1/6 s.


@pytest.mark.parametrize(
    "op, seconds",
    [
        ("all-gather", 7 / 8 / 6),
        ("reduce-scatter", 7 / 8 / 6),
        ("all-reduce", 2 * 7 / 8 / 6),
        ("collective-broadcast", 7 / 8 / 6),
        ("collective-permute", 1),
        ("all-to-all", 2 / 8),  # The middle of a cube of 2 x 2 x 2 is the limit.
        ("ragged-all-to-all", 2 / 8),
    ],
)
def test_a_torus_is_used_in_both_directions_of_all_dimensions(op, seconds):
    assert network().seconds(op, 90e9, ALL) == pytest.approx(seconds)


def test_every_collective_has_a_time_and_none_alone():
    for op in OPS:
        assert network().seconds(op, 90e9, ALL) > 0
        assert network().seconds(op, 90e9, ((0,), (1,))) == 0


def test_an_axis_may_have_fewer_links():
    ring = network(mesh={"data": 2, "fsdp": 4}, links={"fsdp": 2})
    along, across = ((0, 1, 2, 3),), ((0, 4),)
    assert ring.seconds("all-gather", 90e9, along) == pytest.approx(3 / 4 / 2)
    assert ring.seconds("all-gather", 90e9, across) == pytest.approx(1 / 2 / 6)


def test_all_to_all_in_a_ring_of_eight_is_bound_by_its_middle():
    # Half of 8 x 45 GB crosses two links in each direction, half of it each way.
    ring = network(V5E, mesh={"x": 8}, links={"x": 2})
    assert ring.seconds("all-to-all", 45e9, ALL) == pytest.approx(8 * 45 / 4 / 2 / 45)


def test_across_slices_the_chips_of_a_slice_share_the_way():
    # 6.25 GB/s of four chips to the other slice, after 3/4 over the links inside.
    halves = network(slices=2)
    expected = 3 / 4 * 90 / 540 + 90 / 2 / (4 * 6.25)
    assert halves.seconds("all-gather", 90e9, ALL) == pytest.approx(expected)
    assert halves.seconds("all-reduce", 90e9, ALL) == pytest.approx(2 * expected)
    alone = 90 / 2 / 6.25
    assert halves.seconds("all-gather", 90e9, ((0, 4),)) == pytest.approx(alone)
    assert halves.seconds("all-to-all", 90e9, ((0, 4),)) == pytest.approx(alone)
    assert halves.seconds("collective-permute", 6.25e9, ((0, 4),)) == pytest.approx(1)
