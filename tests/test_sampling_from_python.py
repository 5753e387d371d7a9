"""The example of the README runs from Python, and shows a GIF of two clips."""

import dataclasses
import re

import numpy as np
import pytest
from documented import ROOT, blocks

from snapvideo_jax.__main__ import _parser
from snapvideo_jax.cli.options import options
from snapvideo_jax.sampling.options import (
    ExtendOptions,
    SampleOptions,
    SearchNoiseOptions,
)

README = ROOT / "README.md"


def example():
    """Its lines, the last one an expression."""
    (text,) = blocks(README, "python")
    return text.strip().splitlines()


def test_the_docs_have_the_same_example():
    assert blocks(README, "python")[0] in blocks(
        ROOT / "docs" / "sampling.md", "python"
    )


def test_the_example_samples_two_prompts_and_shows_them(trained, tmp_path):
    pytest.importorskip("IPython", reason="needs pip install -e '.[notebook]'")
    lines = [
        re.sub(r" moving \w+", "", line)  # the tiny run takes 4 tokens
        .replace("runs/demo", str(trained))
        .replace('"OUT"', repr(str(tmp_path)))
        for line in example()
    ]
    assert len([line for line in lines if line]) <= 10
    names = {}
    exec("\n".join(lines[:-1]), names)
    shown = eval(lines[-1], names)
    assert shown.data.startswith(b"GIF8")
    assert names["frames"].shape == (2, 14, 16, 3)
    assert names["frames"].dtype == np.uint8
    clips = names["clips"]
    assert sorted(clips.missing) == [0, 1] and (tmp_path / "00001.mp4").is_file()
    # The same options sample nothing again, and read the same frames.
    again = names["sample"](names["options"])
    assert not again.missing
    np.testing.assert_array_equal(again.read(0), names["frames"])


@pytest.mark.parametrize(
    "more, parts",
    [
        ({}, "--workdir is missing"),
        ({"workdir": "a", "batch": 0}, "--batch=0 is too small; use 1 or more"),
        ({"workdir": "a", "num_samples": 0}, "--num_samples=0 is too small"),
        ({"workdir": "a", "seed": -1}, "--seed=-1 is too small; use 0 or more"),
        ({"workdir": "a", "formats": ("avi",)}, "'avi'"),
        ({"workdir": "a", "from_clip": "b", "strength": 1.5}, "1.5 is not a share"),
        ({"cascade": "a"}, "give --workdir of a first one"),
        ({"cascade": "a", "small_clips": "b", "prompt": ["c"]}, "leave out"),
    ],
)
def test_options_that_make_no_sense_are_refused(more, parts):
    with pytest.raises(ValueError, match=re.escape(parts)):
        SampleOptions(out="out", **more)


def test_a_single_prompt_may_be_a_text():
    two = SampleOptions(out="out", workdir="run", prompt="a cross", num_samples=2)
    assert two.captions() == ["a cross", "a cross"]


@pytest.mark.parametrize(
    "kind, required",
    [
        (SampleOptions, {"workdir": "run", "out": "out"}),
        (ExtendOptions, {"workdir": "run", "out": "out", "frames": 8}),
        (SearchNoiseOptions, {"cascade": "run", "out": "out"}),
    ],
)
def test_defaults_are_those_of_the_command_line(kind, required):
    verb = {SampleOptions: "sample", ExtendOptions: "extend"}.get(kind, "search_noise")
    words = [word for name, value in required.items() for word in (f"--{name}", value)]
    parsed = options(kind, _parser().parse_args([verb, *map(str, words)]))
    for name, value in dataclasses.asdict(kind(**required)).items():
        found = getattr(parsed, name)
        assert name in required or found == value or (found == [] and value == ())
