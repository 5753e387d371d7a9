"""`snapvideo encode_text`, and training and sampling with what T5 makes of captions."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
import pytest
import t5_folder
from helpers import TINY_CONFIG, clips_folder, read_metrics, tiny_config
from processes import end, start, together

from snapvideo_jax import config as configs
from snapvideo_jax.models.t5 import SIZES, encoder_flops
from snapvideo_jax.parallel.sharding import MeshConfig, batch_sharding, make_mesh
from snapvideo_jax.sampling.generator import Generator, Request
from snapvideo_jax.state import fresh_state
from snapvideo_jax.text import CachedText
from snapvideo_jax.text.cache import read_keys, shards_of
from snapvideo_jax.text.costs import padded_length
from snapvideo_jax.text.t5 import T5Text
from snapvideo_jax.train import train

WIDTH, TOKENS = t5_folder.SIZES["d_model"], 24


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return t5_folder.write(tmp_path_factory.mktemp("encoders") / "t5", gated=True)


@pytest.fixture
def encode(run):
    """Runs the verb in this process; gives its exit code, output and errors."""
    return functools.partial(run, "encode_text")


@pytest.fixture
def captions(tmp_path):
    """A file of 40 captions, each twice, with blank lines between."""
    path = tmp_path / "captions.txt"
    path.write_text("\n\n".join(2 * t5_folder.captions(40)))
    return path


def options(encoder, captions, out):
    """40 captions in 5 shards, by batches of 8 on 8 devices."""
    return [
        *("--encoder", encoder, "--captions", captions, "--out", out),
        *("--tokens", TOKENS, "--batch", 8, "--shard_captions", 8),
    ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def online(encoder, captions):
    """Embeddings as training makes them of a batch, and the mask."""
    text = T5Text(str(encoder), TOKENS, WIDTH)
    mesh = make_mesh(MeshConfig(), len(captions))
    ids, mask = text.encode(captions)
    inputs = jax.device_put((ids, mask), batch_sharding(mesh))
    return np.asarray(text.on_devices(mesh)(*inputs)), mask


# --- Encoding -------------------------------------------------------------------------


def test_cached_embeddings_are_those_made_online(encode, encoder, captions, tmp_path):
    code, _, err = encode(*options(encoder, captions, tmp_path / "cache"))
    assert code == 0, err
    asked = [*t5_folder.captions(40)[:7], ""]
    cached = CachedText(str(tmp_path / "cache"), TOKENS, WIDTH)
    text, mask = cached.encode(asked)
    expected, known = online(encoder, asked)
    np.testing.assert_array_equal(mask, known)
    assert mask.sum(axis=1).min() == 0 and mask.sum(axis=1).max() > 10
    # Captions are padded to another length: a bfloat16 may round the other way.
    np.testing.assert_allclose(text, expected, atol=0.05)
    assert np.mean(text == expected) > 0.5


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_bytes(encode, encoder, captions, tmp_path):
    assert encode(*options(encoder, captions, tmp_path / "whole"))[0] == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "snapvideo_jax", "encode_text"]
    command += map(str, options(encoder, captions, out))
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(shards_of(out)) < 1:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(shards_of(out)) < 5
    assert encode(*options(encoder, captions, out))[0] == 0
    for folder in (out, tmp_path / "whole"):
        for left in folder.glob("*.tmp"):
            left.unlink()
    assert contents(out) == contents(tmp_path / "whole")


def test_a_deleted_shard_is_written_again(encode, encoder, captions, tmp_path):
    out = tmp_path / "cache"
    assert encode(*options(encoder, captions, out))[0] == 0
    before = contents(out)
    shards_of(out)[2].unlink()
    assert encode(*options(encoder, captions, out))[0] == 0
    assert contents(out) == before


def test_more_captions_are_added_and_those_there_are_left(
    encode, encoder, captions, tmp_path
):
    out = tmp_path / "cache"
    assert encode(*options(encoder, captions, out))[0] == 0
    before = contents(out)
    assert len(before) == 6
    more = tmp_path / "more.jsonl"
    lines = [{"caption": x} for x in ("a red fox", "panda", t5_folder.captions(1)[0])]
    more.write_text("\n".join(map(json.dumps, lines)))
    assert encode(*options(encoder, more, out))[0] == 0
    after = contents(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == 7 and len(read_keys(shards_of(out)[-1])) == 2
    cached = CachedText(str(out), TOKENS, WIDTH)
    assert cached.check(["a red fox", "panda", *t5_folder.captions(40)]) is None


@pytest.mark.parametrize(
    "change, words",
    [
        (["--captions", "nowhere.txt"], "--captions=nowhere.txt: there is no such"),
        (["--encoder", "nowhere"], "nowhere is not a T5 encoder: it needs config.json"),
        (["--config", "a.py"], "Give --captions FILE, or --config FILE"),
        (["--batch", "0"], "argument --batch: 0 is too small; use 1 or more."),
        (["--out", ""], "--out is missing"),
        (["--plan", "9"], "--plan needs --config FILE"),
    ],
)
def test_invalid_options_are_one_line(
    encode, encoder, captions, tmp_path, change, words
):
    code, _, err = encode(*options(encoder, captions, tmp_path / "out"), *change)
    assert code == 2 and err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("a.txt", b"caf\xe9", "is not UTF-8"),
        ("a.txt", b"\n \n", "has no captions"),
        (
            "a.jsonl",
            b'{"caption": "a"}\n{"text": "b"}',
            "line 2 has caption=None, wanted a string",
        ),
    ],
)
def test_an_invalid_file_of_captions_is_refused(
    encode, encoder, tmp_path, name, data, words
):
    (tmp_path / name).write_bytes(data)
    code, _, err = encode(*options(encoder, tmp_path / name, tmp_path / "out"))
    assert code == 2 and words in err


# --- Plans ----------------------------------------------------------------------------


def test_a_plan_reports_bytes_rates_and_flops(encode):
    code, out, err = encode(
        *("--encoder", "t5-11b", "--plan", 10_000_000, "--mean_tokens", 25, "--json"),
        *("--config", "configs/fit.py:size=3p9b", "--step_seconds", 0.5),
    )
    assert code == 0, err
    plan = json.loads(out)
    embedding = 25 * 1024 * 2
    assert plan["cache_bytes"] == 10_000_000 * (embedding + 16)
    assert plan["read_gb_per_second"] == pytest.approx(4096 * embedding / 0.5 / 1e9)
    assert plan["encoder_parameters"] == 4_864_791_552
    # 2 FLOPs for each parameter of a block and token, and the scores.
    assert plan["online_flops_per_step"] == 4096 * encoder_flops(SIZES["t5-11b"], 128)
    tokens = 4096 * 128
    assert plan["online_flops_per_step"] / (2 * 4.83e9 * tokens) == pytest.approx(
        1, abs=0.1
    )
    assert 0 < plan["online_share_of_step"] < 10


def test_captions_are_padded_to_few_lengths():
    found = [padded_length(n, 128) for n in (1, 16, 17, 64, 65, 128)]
    assert found == [16, 16, 32, 64, 128, 128]
    assert padded_length(20, 24) == 24


# --- Training -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return clips_folder(tmp_path_factory.mktemp("clips") / "data", {})


def run_tiny(clips, workdir, *text):
    """Losses of the tiny run, whose captions have up to 4 tokens of 8 channels."""
    changes = ["data.source=folder", "run.checkpoint_every_steps=12"]
    train(tiny_config(clips, *changes, *text), workdir)
    return [line["loss"] for line in read_metrics(workdir)]


@pytest.mark.slow
def test_training_encodes_online_or_reads_what_was_encoded(
    encode, encoder, clips, tmp_path
):
    code, _, err = encode(
        *("--encoder", encoder, "--out", tmp_path / "cache"),
        *("--config", TINY_CONFIG, f"--config.data.root={clips}"),
        "--config.data.source=folder",
    )
    assert code == 0, err
    name, path = "text.name=cached", f"text.path={tmp_path / 'cache'}"
    cached = run_tiny(clips, tmp_path / "cached", name, path)
    name, path = "text.name=t5", f"text.path={encoder}"
    online = run_tiny(clips, tmp_path / "online", name, path)
    np.testing.assert_allclose(cached, online, rtol=1e-3)
    assert len(online) == 12


def test_samples_are_made_with_the_encoder_of_the_run(encoder):
    """T5 in the run's sampler: other words give other clips."""
    config = tiny_config("nowhere", "text.name=t5", f"text.path={encoder}")
    experiment = configs.build(config)
    mesh = make_mesh(MeshConfig(), 8)
    params = jax.jit(lambda: nn.unbox(fresh_state(experiment)).params)()
    params = jax.tree.map(
        lambda x: (
            x + 0.3 * np.cos(np.arange(x.size)).reshape(x.shape).astype(np.float32)
        ),
        params,
    )
    generator = Generator(experiment, experiment.sampler, mesh)

    def clips_of(*prompts):
        settings = dict(seed=0, guidance=0.0, fps=8.0, resolution=(14, 16))
        return generator(params, Request(prompts, range(len(prompts)), **settings))

    one, two = clips_of("panda", "red circle"), clips_of("panda", "blue square")
    np.testing.assert_array_equal(one[0], two[0])
    assert np.any(one[1] != two[1])


@pytest.mark.parametrize(
    "prompts, words",
    [
        (0, "lacks 12 of 12 captions, as '0'; add them"),
        (1, "lacks 2 of 2 captions, as 'a red cross mov"),
    ],
    ids=["captions", "prompts of sheets"],
)
def test_training_reports_missing_captions_before_it_starts(
    encode, encoder, clips, tmp_path, prompts, words
):
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join([str(i) for i in range(8)] if prompts else ["a"]))
    command = [
        "--encoder",
        encoder,
        "--captions",
        captions,
        "--out",
        tmp_path / "cache",
    ]
    assert encode(*command, "--tokens", 4)[0] == 0
    name, path = "text.name=cached", f"text.path={tmp_path / 'cache'}"
    with pytest.raises(ValueError, match=words):
        run_tiny(clips, tmp_path / "run", name, path, f"sheets.every_steps={prompts}")
    assert not list(tmp_path.glob("run/checkpoints/*[0-9]"))


# --- Two processes --------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_share_the_shards_and_write_the_bytes_of_one(
    encoder, captions, tmp_path
):
    """Each of them with 4 devices, as the one that they are compared with."""
    one, two = tmp_path / "one", tmp_path / "two"

    def command(out):
        return list(map(str, ["encode_text", *options(encoder, captions, out)]))

    ends = [*end([start(command(one), 4)]), *together(command(two))]
    for code, _, errors in ends:
        assert code == 0, errors[-3000:]
    assert len(shards_of(one)) == 5
    logs = [(two / "logs" / f"process_000{i}.log").read_text() for i in (0, 1)]
    for number in range(5):
        made = f"text-0000{number}.array_record: 8 captions"
        assert [made in log for log in logs] == [number % 2 == 0, number % 2 == 1]
    shutil.rmtree(two / "logs")
    assert contents(two) == contents(one)


@pytest.mark.slow
def test_a_cache_of_another_encoder_ends_both_processes(encoder, captions, tmp_path):
    out = tmp_path / "cache"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"tokens": 3}))
    arguments = list(map(str, ["encode_text", *options(encoder, captions, out)]))
    ends = together(arguments)
    assert [code for code, *_ in ends] == [2, 2]
    assert "was begun with other settings" in ends[0][2]
    assert not shards_of(out)


# --- Captions of records --------------------------------------------------------------


def cached_run(encode, encoder, root, tmp_path, captions):
    """A tiny run on the records of a folder, with a cache of some captions."""
    listed = tmp_path / "captions.txt"
    listed.write_text("\n".join(captions))
    cache = tmp_path / "cache"
    command = ["--encoder", encoder, "--captions", listed, "--out", cache]
    assert encode(*command, "--tokens", 4)[0] == 0
    text = "text.name=cached", f"text.path={cache}"
    train(tiny_config(root, *text), tmp_path / "run")


@pytest.mark.parametrize("listed", [True, False], ids=["headers", "records alone"])
def test_a_caption_of_records_that_a_cache_lacks_is_found_before_the_run(
    encode, encoder, shapes_root, tmp_path, listed, capsys
):
    """Captions come from header files if there are any, else from the records."""
    root = tmp_path / "records"
    root.mkdir()
    for path in shapes_root.iterdir():
        if path.suffix == ".array_record" or (listed and path.suffix == ".jsonl"):
            shutil.copy(path, root)
    with pytest.raises(ValueError, match="lacks 36 of 36 captions, as '.*; add them"):
        cached_run(encode, encoder, root, tmp_path, ["a"])
    assert not list(tmp_path.glob("run/checkpoints/*[0-9]"))
    told = "Checked the captions of 24 of 24 samples"
    assert (told in capsys.readouterr().err) is not listed
