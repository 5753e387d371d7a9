"""The command line does what its help says, and ends in one line where it cannot."""

import json
import pathlib
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
from helpers import TINY_CONFIG, assert_one_line, kept_steps, strip
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
FIT = str(ROOT / "configs" / "fit.py")


def train(root, workdir, *overrides):
    """The arguments of a tiny run on a folder of clips."""
    return [
        *("train", "--config", TINY_CONFIG, "--workdir", workdir),
        *(f"--config.data.root={root}", "--config.data.source=folder", *overrides),
    ]


def folder(path, *lines):
    """A folder that lists files in captions.jsonl."""
    path.mkdir()
    (path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return path


# --- Help and plans ------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb, flags",
    [
        (
            "train",
            ["--config", "--workdir", "--dry-run", "--json", "--coordinator"]
            + ["--process_count", "--process_index", "--connect_seconds"],
        ),
        (
            "sample",
            ["--workdir", "--prompt", "--prompts", "--out", "--num_samples", "--format"]
            + ["--steps", "--solver", "--churn", "--guidance", "--fps", "--seed"]
            + ["--batch", "--raw", "--oscillate", "--guidance_interval", "--threshold"]
            + ["--negative_prompt", "--autoguide", "--autoguidance", "--ema_profile"]
            + ["--cascade", "--small_clips", "--small_noise", "--cascade_steps"]
            + ["--cascade_guidance", "--save_trajectory", "--overwrite"],
        ),
        (
            "extend",
            ["--workdir", "--prompt", "--out", "--frames", "--rates", "--image"]
            + ["--known", "--reconstruction", "--rule", "--products", "--overwrite"],
        ),
        (
            "search_noise",
            ["--cascade", "--out", "--clips", "--count", "--grid", "--score"],
        ),
        (
            "judge",
            ["--workdir", "--out", "--count", "--steps", "--guidance", "--raw"]
            + ["--coordinator", "--process_count"],
        ),
        (
            "ema",
            ["--workdir", "--config", "--length", "--half_life", "--step", "--out"]
            + ["--most_error", "--plan", "--json"],
        ),
        (
            "plan",
            ["--config", "--topology", "--slices", "--sampler", "--batch", "--search"]
            + ["--search_limit", "--layout", "--flags", "--golden", "--json"],
        ),
        (
            "encode_text",
            ["--encoder", "--captions", "--config", "--out", "--tokens", "--batch"]
            + ["--shard_captions", "--dtype", "--plan", "--mean_tokens", "--json"]
            + ["--step_seconds", "--coordinator"],
        ),
        (
            "replay",
            [
                "--workdir",
                "--step",
                "--samples",
                "--from_checkpoint",
                "--out",
                "--json",
            ],
        ),
        (
            "evaluate",
            ["--clips", "--against", "--out", "--metrics", "--weights", "--features"]
            + ["--frames", "--fps", "--position", "--real_fps", "--real_position"]
            + ["--seed", "--size", "--view", "--image_frames", "--fvd", "--fid"]
            + ["--clip", "--splits", "--batch", "--shards", "--threads"]
            + ["--coordinator", "--process_count"],
        ),
        (
            "export",
            ["--workdir", "--out", "--cascade", "--format", "--weights", "--dtype"]
            + ["--platforms", "--prompt", "--shard_gb", "--steps", "--solver"],
        ),
        ("verify", ["--workdir", "--weights", "--tolerance"]),
        ("import", ["--workdir"]),
        (
            "protocol generate",
            ["--workdir", "--out", "--captions", "--classes", "--num_samples"]
            + ["--only", "--part", "--steps", "--guidance", "--seed", "--coordinator"],
        ),
        (
            "protocol score",
            ["--samples", "--against", "--clips", "--weights", "--features", "--only"]
            + ["--metrics", "--shards", "--coordinator"],
        ),
        (
            "scaling generate",
            ["--config", "--out", "--budgets", "--width", "--blocks", "--latents"]
            + ["--patch", "--validation"],
        ),
        ("scaling run", ["--out", "--part", "--samples", "--coordinator"]),
        ("scaling fit", ["--out", "--flops", "--plan", "--draws", "--seed", "--json"]),
        ("convert", ["--network", "--weights", "--out", "--mean", "--quick_gelu"]),
        (
            "rehearse",
            ["--config", "--out", "--steps", "--processes", "--seed", "--faults"]
            + ["--kills", "--json"],
        ),
    ],
)
def test_help_names_every_flag(run, verb, flags):
    code, out, err = run(*verb.split(), "--help")
    assert (code, err) == (0, "")
    for flag in flags:
        assert f"{flag} " in out or f"{flag}\n" in out or f"{flag}]" in out, flag


def test_help_names_every_verb(run):
    code, out, _ = run("--help")
    assert code == 0
    verbs = ("train", "sample", "judge", "ema", "plan", "replay", "rehearse")
    verbs += ("export", "verify", "import", "protocol", "scaling")
    for verb in (*verbs, "evaluate", "convert", "compare"):
        assert f"\n    {verb} " in out


def test_every_verb_loads_without_the_packages_of_extras():
    extras = ("apache_beam", "beartype", "matplotlib", "selenium", "torch")
    script = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({extras!r}))  # importing these fails
from snapvideo_jax import __main__ as cli
verbs = next(a.choices for a in cli._parser()._actions if a.choices)
for verb in verbs:
    name = cli.MODULES.get(verb, verb)
    module = importlib.import_module("snapvideo_jax.cli.verbs." + name)
    assert callable(module.run), verb
print(len(verbs))
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 20


def test_a_dry_run_tells_the_parameters_of_the_paper():
    """As its own process, with nothing else in its output."""
    ran = subprocess.run(
        [*(sys.executable, "-m", "snapvideo_jax", "train", "--dry-run", "--json")]
        + ["--config", "configs/fit.py:size=500m", "--config.mesh.fsdp=4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(ran.stdout)
    assert plan["parameters"] == 502_011_184
    assert plan["tokens"] == {
        "patches": 16 * 10 * 16,
        "groups": 8,
        "latents": 512,
        "context": 128 + 4,
    }
    assert plan["batch"] == 4096
    assert plan["mesh"] == dict.fromkeys(plan["mesh"], 1) | {"fsdp": 4}
    memory = plan["state_bytes_per_device"]
    # Parameters and EMA once, moments twice, in float32; fsdp leaves a good quarter.
    assert memory["ema"] == memory["params"]
    assert memory["opt_state"] == pytest.approx(2 * memory["params"], rel=1e-6)
    assert 0.25 < memory["params"] / (4 * plan["parameters"]) < 0.3
    assert plan["config"]["model"]["patch_width"] == 768
    assert plan["forward_flops_per_sample"] > 1e11


def test_a_dry_run_for_people_tells_the_same(run):
    command = ["train", "--dry-run", "--config", TINY_CONFIG]
    code, out, _ = run(*command)
    plan = json.loads(run(*command, "--json")[1])
    assert code == 0
    assert f"parameters        {plan['parameters']:,}\n" in out
    assert "tokens            32 patches, 4 groups, 8 latents, 8 context\n" in out
    assert "batch             8\n" in out
    assert '"patch_width": 8,' in out
    assert "kernel[blocks, embed, mlp]  2 x 16 x 64  " in out


# --- Errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, parts",
    [
        ("optimizer.learning_rte=1", ["optimizer", "learning_rte", "'learning_rate'"]),
        ("model.group=(4,4)", ["model.group=(4, 4)", "use one of [1, 2, 5, 10]"]),
        ("optimizer.steps=many", ["config.optimizer.steps=many"]),
        ("data.source=records", ["data.root is empty"]),
        ("mesh.fsdp=3", ["mesh.fsdp=3 does not divide the 8 devices"]),
        ("mesh.fsdp=0", ["mesh.fsdp=0 is too small; use at least 1"]),
    ],
)
def test_a_wrong_config_ends_training_in_one_line(
    run, nothing_compiles, tmp_path, override, parts
):
    workdir = tmp_path / "run"
    result = run(
        *("train", "--config", FIT, "--workdir", workdir, f"--config.{override}")
    )
    assert_one_line(result, *parts)
    assert not workdir.exists()


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--config", "configs/none.py"], ["configs/none.py", "no such"]),
        (["--config", f"{FIT}:sise=500m", "--dry-run"], ["'sise'", "'size'"]),
        (["--config", FIT], ["--workdir is missing"]),
        (["--config", FIT, "--confg.seed=1"], ["confg.seed"]),
        (["--config", FIT, "seed=1"], ["'seed=1'", "--help"]),
    ],
)
def test_a_wrong_command_ends_training_in_one_line(run, arguments, parts):
    assert_one_line(run("train", *arguments), *parts)


def test_data_that_cannot_be_used_ends_training_before_anything_is_compiled(
    run, nothing_compiles, shapes_root, tmp_path
):
    workdir = tmp_path / "run"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (16, 16)).save(pictures / "0.png")
    assert_one_line(run(*train(pictures, workdir)), "captions.jsonl", str(pictures))
    empty = folder(tmp_path / "empty")
    assert_one_line(run(*train(empty, workdir)), "holds no video", str(empty))
    missing = folder(
        tmp_path / "missing", {"file": "0.mp4", "type": "video", "caption": ""}
    )
    assert_one_line(run(*train(missing, workdir)), "'0.mp4'", "delete its line")
    assert_one_line(run(*train(tmp_path / "none", workdir)), "is not a folder")
    records = ["--config.data.source=records", "--config.data.frames=64"]
    assert_one_line(
        run(*train(shapes_root, workdir, *records)),
        "data.frames=64 is more than any of the 24 probed clips has",
        "use data.frames<=48",
    )


def test_an_error_of_a_process_has_no_traceback():
    ran = subprocess.run(
        [sys.executable, "-m", "snapvideo_jax", "sample"]
        + ["--workdir", "none", "--prompt", "a", "--out", "none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert_one_line((ran.returncode, ran.stdout, ran.stderr), "--workdir=none holds no")
    assert not (ROOT / "none").exists()


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--prompt", "a", "--format", "mp4,avi"], ["'avi'", "mp4, gif, png"]),
        ([], ["nothing to sample", "--prompt"]),
        (["--prompts", "none.txt"], ["--prompts=none.txt", "no such file"]),
        (["--prompt", "a", "--solver", "rk4"], ["'rk4'", "heun"]),
        (["--prompt", "a", "--solver", "dpmpp"], ["'dpmpp'", "'dpmpp_2m'"]),
        (
            ["--prompt", "a", "--solver", "dpmpp_2m", "--churn", "3"],
            ["sampler.churn=3.0", "'heun'"],
        ),
        (["--prompt", "a", "--steps", "0"], ["argument --steps: 0", "use 1 or more"]),
        (
            ["--prompt", "a", "--num_samples", "0"],
            ["--num_samples: 0", "1 or more"],
        ),
        (["--prompt", "a", "--batch", "0"], ["argument --batch: 0", "use 1 or more"]),
        (["--prompt", "a", "--fps", "-1"], ["argument --fps: -1", "use at least 0"]),
        (["--prompt", "a", "--seed", "-1"], ["argument --seed: -1", "use 0 or more"]),
    ],
)
def test_wrong_options_end_sampling_in_one_line(
    run, trained, nothing_compiles, tmp_path, arguments, parts
):
    out = tmp_path / "out"
    assert_one_line(
        run("sample", "--workdir", trained, "--out", out, *arguments), *parts
    )
    assert not out.exists()


@pytest.mark.parametrize("verb", ["sample", "judge"])
def test_a_workdir_without_a_run_is_refused(run, trained, tmp_path, verb):
    more = ["--prompt", "a"] if verb == "sample" else []
    command = [verb, "--workdir", tmp_path, "--out", tmp_path / "out", *more]
    assert_one_line(run(*command), f"--workdir={tmp_path} holds no run: config.json")
    shutil.copy(trained / "config.json", tmp_path)
    assert_one_line(run(*command), f"--workdir={tmp_path} has no checkpoint; train")


def test_a_count_below_one_is_refused(run, trained, tmp_path):
    result = run(
        *("judge", "--workdir", trained, "--out", tmp_path / "out", "--count", 0)
    )
    assert_one_line(result, "argument --count: 0", "use 1 or more")


def test_arguments_that_a_verb_does_not_have_are_refused(run):
    result = run("judge", "--workdir", "a", "--out", "b", "--config.seed=1")
    assert_one_line(result, "unknown argument '--config.seed=1'; see --help.")


# --- Sampling ------------------------------------------------------------------------


def test_sampling_writes_clips_and_their_settings(run, trained, tmp_path):
    out, prompts = tmp_path / "out", tmp_path / "prompts.txt"
    prompts.write_text("a green square\n\n  ein blauer Kreis  \n", encoding="utf-8")
    code, _, err = run(
        *("sample", "--workdir", trained, "--out", out, "--format", "mp4,gif,png"),
        *("--prompt", "a red circle", "--prompts", prompts, "--num_samples", 2),
        *("--guidance", 1.5, "--seed", 7, "--steps", 3, "--fps", 4),
    )
    assert code == 0, err
    kinds = ("mp4", "gif", "png", "json")
    numbers = [f"{number:05d}" for number in range(6)]
    assert {path.name for path in out.iterdir()} == {
        *("sheet.gif", "sheet.png"),
        *(f"{number}.{kind}" for number in numbers for kind in kinds),
    }
    asked = [
        json.loads((out / f"{number}.json").read_text())["prompt"] for number in numbers
    ]
    each = ["a red circle", "a green square", "ein blauer Kreis"]
    assert asked == [prompt for prompt in each for _ in range(2)]

    about = json.loads((out / "00001.json").read_text())
    assert about["number"] == 1 and about["seed"] == 7 and about["fps"] == 4
    assert (about["guidance"], about["guidance_1_plus_g"]) == (1.5, 2.5)
    assert about["sampler"]["steps"] == 3 and about["sampler"]["solver"] == "heun"
    assert about["step"] == 12 and about["weights"] == "ema"
    assert about["workdir"] == str(trained) and about["resolution"] == [64, 64]

    picture = np.asarray(Image.open(out / "00000.png"))
    assert picture.shape == (14, 2 * 16, 3)
    with av.open(str(out / "00000.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert float(film.streams.video[0].average_rate) == 4
    assert len(frames) == 2 and frames[0].shape == (14, 16, 3)
    assert kept_steps(trained) == [4, 8, 10, 12]


def test_a_clip_does_not_depend_on_the_batch(run, one_device, trained, tmp_path):
    """Up to one step of 256: sums may be taken in another order."""
    for batch in (1, 4):
        code, _, err = run(
            *("sample", "--workdir", trained, "--out", tmp_path / str(batch)),
            *("--prompt", "a red circle", "--num_samples", 4),
            *("--format", "png", "--batch", batch),
        )
        assert code == 0, err
    clips = [strip(tmp_path / "4", number) for number in range(4)]
    for number, clip in enumerate(clips):
        assert np.abs(strip(tmp_path / "1", number) - clip).max() <= 1
    assert np.abs(clips[0] - clips[1]).max() > 10


def test_raw_weights_images_and_no_guidance_are_options(run, trained, tmp_path):
    settings = {"ema": [], "raw": ["--raw"]}
    for name, more in settings.items():
        code, _, err = run(
            *("sample", "--workdir", trained, "--out", tmp_path / name),
            *("--prompt", "", "--format", "png", "--fps", 0, "--guidance", 0, *more),
        )
        assert code == 0, err
        about = json.loads((tmp_path / name / "00000.json").read_text())
        assert (about["weights"], about["fps"], about["guidance"]) == (name, 0, 0)
        assert about["prompt"] == ""
    assert (strip(tmp_path / "ema", 0) != strip(tmp_path / "raw", 0)).any()


def test_judging_counts_obeyed_prompts(run, trained, tmp_path):
    code, out, err = run(
        *("judge", "--workdir", trained, "--out", tmp_path / "out"),
        *("--count", 4, "--steps", 2),
    )
    assert code == 0, err
    assert "of 4 held-out prompts obeyed" in out and out.count("\n") == 1
    judged = json.loads((tmp_path / "out" / "judged.json").read_text())
    assert len(judged["clips"]) == 4 and judged["step"] == 12
    for field in ("colour", "shape", "direction"):
        mean = np.mean([clip[field] for clip in judged["clips"]])
        assert judged["shares"][field] == pytest.approx(mean)
    obeyed = [
        all(clip[field] for field in ("colour", "shape", "direction"))
        for clip in judged["clips"]
    ]
    assert [clip["obeyed"] for clip in judged["clips"]] == obeyed
    assert judged["shares"]["all"] == pytest.approx(np.mean(obeyed))
    assert (tmp_path / "out" / "sheet.gif").stat().st_size > 0
