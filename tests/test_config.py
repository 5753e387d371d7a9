"""A config says what it holds, refuses what it does not, and survives its workdir."""

import dataclasses
import pathlib

import pytest

from snapvideo_jax import config as configs
from snapvideo_jax.diffusion import EDM, Sampler
from snapvideo_jax.models import FIT, MODELS, Network
from snapvideo_jax.optim import Optimizer
from snapvideo_jax.step import Training

ROOT = pathlib.Path(__file__).parent.parent
WHERE = pathlib.Path("runs/one")
DOCUMENTED = [
    "fit.py",
    "fit.py:size=500m",
    "fit.py:size=3p9b",
    "fit.py:ablation=none",
    "fit.py:ablation=edm",
    "fit.py:ablation=ii",
    "fit.py:ablation=iii",
    "fit.py:ablation=iv",
    "fit.py:size=3p9b,ablation=ii",
    "fit_upsampler.py",
    "mixture.py",
    "unet.py",
    "unet.py:size=85m",
    "unet.py:size=284m",
    "unet.py:pod=v5p:4x4x8",
    "dit.py",
    "dit.py:match=parameters",
    "dit.py:match=flops",
    "dit.py:match=parameters,pod=v5p:4x4x8",
    "demo.py",
    "demo.py:quick",
    "demo.py:quick=True",
    "demo_long.py",
    "demo_long.py:quick",
    "demo_upsampler.py",
    "demo_upsampler.py:quick",
    "clips.py",
    "clips.py:subset=8",
    "clips.py:subset=8,steps=50",
    "scaling.py",
]


def load(name, *overrides):
    return configs.load(str(ROOT / "configs" / name), list(overrides))


def build(name, *overrides):
    return configs.build(load(name, *overrides))


# --- Arguments and sections ----------------------------------------------------------


def test_an_argument_takes_the_type_of_its_default():
    arg = configs.parse_arg("steps=12,rate=3,quick", steps=1, rate=0.5, quick=False)
    assert arg.to_dict() == {"steps": 12, "rate": 3.0, "quick": True}
    assert isinstance(arg.rate, float)


@pytest.mark.parametrize("text", [None, ""])
def test_without_an_argument_the_defaults_stay(text):
    assert configs.parse_arg(text, size="500m").size == "500m"


@pytest.mark.parametrize(
    "text, value",
    [("quick", True), ("quick=True", True), ("quick=1", True)]
    + [("quick=false", False), ("quick=0", False)],
)
def test_a_flag_is_true_or_false(text, value):
    assert configs.parse_arg(text, quick=not value).quick is value


@pytest.mark.parametrize(
    "text, message",
    [
        ("sise=1", "has no field 'sise'; did you mean 'size'"),
        ("xyz=1", r"has no field 'xyz'; it has \['quick', 'size', 'steps'\]"),
        ("steps=many", "steps='many' is not of type int"),
        ("quick=perhaps", "quick='perhaps' is not of type bool"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        configs.parse_arg(text, size="500m", steps=1, quick=False)


def test_a_section_has_the_defaults_of_what_it_configures():
    section = configs.section(Optimizer, steps=7)
    defaults = dataclasses.asdict(Optimizer())
    assert section.to_dict() == defaults | {"steps": 7}


def test_a_section_leaves_out_what_follows_from_the_data():
    assert not {"videos", "images"} & set(configs.section(Training))
    for name in MODELS:
        derived = {"frames", "height", "width", "parent"}
        assert not derived & set(configs.model_section(name))


def test_a_section_refuses_a_name_it_does_not_have():
    with pytest.raises(ValueError, match="'sigma_im'; did you mean 'sigma_in'"):
        configs.section(EDM, sigma_im=1.0)


def test_a_row_that_a_table_lacks_is_refused():
    with pytest.raises(ValueError, match=r"size='2b' is unknown.*\['3p9b', '500m'\]"):
        load("fit.py:size=2b")


# --- Config files --------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_config_and_documented_argument_builds(name):
    experiment = build(name)
    assert isinstance(experiment.model, Network)
    assert experiment.data.frames == experiment.model.frames


def test_the_documented_list_leaves_out_no_config_file():
    files = {path.name for path in (ROOT / "configs").glob("*.py")}
    files.remove("prepare.py")  # no experiment; test_prepare.py builds it
    assert files == {name.partition(":")[0] for name in DOCUMENTED}


def test_an_override_changes_its_field_alone():
    config = load("demo.py")
    changed = load(
        "demo.py", "--config.optimizer.steps=5", "--config.model.group=(4,4)"
    )
    assert (changed.optimizer.steps, changed.model.group) == (5, (4, 4))
    changed.optimizer.steps = config.optimizer.steps
    changed.model.group = config.model.group
    assert changed == config


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "--config.optimizer.learning_rte=1",
            "config.optimizer has no field 'learning_rte'; did you mean 'learning_r",
        ),
        (
            "--config.optimiser.steps=1",
            "no field 'optimiser'; did you mean 'optimizer'",
        ),
        ("--config.nothing=1", r"config has no field 'nothing'; it has \['data'"),
        ("--config.seed.x=1", "config.seed=0 is a value and has no 'x'"),
        ("--config.optimizer.steps=many", "config.optimizer.steps=many: invalid.*int"),
        ("--config.optimizer.steps=1.5", "config.optimizer.steps=1.5: invalid.*int"),
        ("--config.optimizer.steps", "Missing value.*config.optimizer.steps"),
        ("--learning_rate=1", "Unknown command line flag 'learning_rate'"),
        ("steps=1", "Unknown argument 'steps=1'"),
    ],
)
def test_an_override_that_fits_no_field_is_refused_in_one_line(override, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load("fit.py", override)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("file", ["configs/none.py", "README.md", "configs"])
def test_a_missing_config_file_is_named(file):
    with pytest.raises(ValueError, match=f"--config={ROOT / file}: there is no such"):
        configs.load(str(ROOT / file), [])


# --- Checks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "model.group=(4,4)",
            r"model.group=\(4, 4\): 4 does not divide the 10 patches of model.height.*"
            r"use one of \[1, 2, 5, 10\]",
        ),
        (
            "model.group=(5,3)",
            r"model.group=\(5, 3\): 3 does not divide the 16 patches",
        ),
        ("model.dtype=float33", "model.dtype='float33' is unknown; use one of"),
        ("model.remat=foo", "model.remat='foo' is unknown; use one of"),
        ("model.group=4", r"model.group=\(4,\) is not 2 numbers of type int.*\(5, 4\)"),
        ("model.group=(5,4.0)", r"model.group=\(5, 4.0\) is not 2 numbers of type int"),
        ("model.latents=500", "model.latents=500 cannot be.* 8 groups; use a multiple"),
        ("model.name=gan", "model.name='gan' is unknown; use"),
        ("text.name=t6", "text.name='t6' is unknown; use"),
        (
            "training.self_conditioning_period=24",
            "batch of 4096.*not a multiple of training.self_conditioning_period=24",
        ),
        ("training.microbatches=3", "batch of 4096.*training.microbatches=3"),
        (
            "data.images_per_batch=1024",
            r"training.self_conditioning_period=32 is not a multiple of 3",
        ),
        ("training.microbatches=0", "training.microbatches=0 is too small; use at le"),
        (
            "training.label_dropout=1.5",
            "training.label_dropout=1.5 is not a share; use",
        ),
        ("run.log_every_steps=0", "run.log_every_steps=0 is too small; use at least 1"),
        ("run.checkpoint_every_steps=0", "run.checkpoint_every_steps=0 is too small"),
        (
            "run.grace_seconds=0.0",
            "grace_seconds=0.0 is not a time; use more than 0",
        ),
        (
            "run.stall_compile_minutes=-1.0",
            "compile_minutes=-1.0 is not a time",
        ),
        ("run.stall_minutes=-1.0", "run.stall_minutes=-1.0 is below 0; use a time, or"),
        (
            "run.local_every_steps=5",
            "run.local_folder='' and run.local_every_steps=5 do not go together; set",
        ),
        ("optimizer.name=sgd", "optimizer.name='sgd' is unknown; use one of"),
        ("sampler.solver=rk4", "sampler.solver='rk4' is unknown; use one of"),
        ("seed=-1", "seed=-1 is below 0"),
        ("model.group_chunks=3", r"chunks=3 does not divide the 8 groups; use one of"),
        ("model.in_channels=4", "in_channels=4 is neither model.out_channels=3 nor"),
        ("model.in_channels=6", r"low_resolution=\(0, 0\) and model.in_channels=6 do"),
        (
            "training.low_resolution=(9,16)",
            r"low_resolution=\(9, 16\) and model.in_channels=3 do not go together",
        ),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message) as refusal:
        build("fit.py", f"--config.{override}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "training.low_resolution=(35,64)",
            r"low_resolution=\(35, 64\) does not divide data.height=288",
        ),
        ("sheets.every_steps=5", "every_steps=5: an upsampler cannot make sheets"),
    ],
)
def test_an_upsampler_without_a_fitting_small_clip_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        build("fit_upsampler.py", f"--config.{override}")


@pytest.mark.parametrize("name", ["unet.py", "dit.py"])
@pytest.mark.parametrize(
    "override, message",
    [
        (
            "training.self_conditioning=0.9",
            "self_conditioning=0.9: this network has no latents .*; use 0",
        ),
        ("training.low_resolution=(9,16)", "model.in_channels=3 do not go together"),
        ("model.in_channels=6", "is a first stage; use 3 and 3"),
        ("model.remat=foo", "model.remat='foo' is unknown; use one of"),
    ],
)
def test_a_network_without_latents_is_not_asked_for_what_takes_them(
    name, override, message
):
    with pytest.raises(ValueError, match=message):
        build(name, f"--config.{override}")


@pytest.mark.parametrize(
    "override, message",
    [
        ("mesh.context=2", "mesh.context=2: this network cannot divide a clip"),
        ("model.multiples=(1,2,3,4.0)", r"multiples=\(1, 2, 3, 4.0\) is not 4 numbers"),
        ("model.channels=100", "model.channels=100 is not a multiple of model.norm_gr"),
        ("data.height=30", "height \\+ pad_height=34 px cannot be halved 3 times"),
    ],
)
def test_a_u_net_that_cannot_be_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        build("unet.py", f"--config.{override}")


def test_a_u_net_may_have_fewer_levels():
    assert build("unet.py", "--config.model.multiples=(1,2)").model.multiples == (1, 2)


def test_a_section_that_is_missing_or_unknown_is_refused():
    config = load("demo.py").unlock()
    del config.mesh
    with pytest.raises(ValueError, match="config.mesh is missing"):
        configs.build(config)
    config = load("demo.py").unlock()
    config.meshes = config.mesh
    with pytest.raises(ValueError, match="no field 'meshes'; did you mean 'mesh'"):
        configs.build(config)


def test_a_field_that_only_the_file_could_add_is_refused_too():
    config = load("demo.py").unlock()
    config.sampler.step = 3
    with pytest.raises(ValueError, match="config.sampler has no field 'step'; did you"):
        configs.build(config)


# --- The config in the workdir -------------------------------------------------------


@pytest.mark.parametrize("name", ["fit.py:ablation=iv", "fit_upsampler.py", "demo.py"])
def test_a_config_comes_back_from_its_json_as_the_same_experiment(name):
    config = load(name)
    ours = configs.build(config)
    theirs = configs.build(configs.from_json(configs.to_json(config)))
    for field in dataclasses.fields(configs.Experiment):
        before, after = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name == "text":  # an encoder is not compared by its values
            before, after = vars(before), vars(after)
        assert before == after, field.name
    assert isinstance(theirs.model, FIT) and isinstance(theirs.model.group, tuple)
    assert isinstance(theirs.optimizer.betas, tuple)
    assert isinstance(theirs.sheets.prompts, tuple)


def test_infinity_survives_the_json():
    experiment = configs.build(configs.from_json(configs.to_json(load("demo.py"))))
    assert experiment.sampler.churn_max == Sampler().churn_max == float("inf")


def test_a_workdir_of_another_config_is_refused_with_both_values():
    saved = configs.to_json(load("fit.py"))
    config = load("fit.py", "--config.optimizer.learning_rate=0.5")
    with pytest.raises(
        ValueError, match="runs/one was begun with other settings"
    ) as it:
        configs.check_same(config, saved, WHERE)
    assert "optimizer.learning_rate=0.5 (was 0.005)" in str(it.value)


def test_a_field_that_a_workdir_does_not_know_is_named():
    config = load("demo.py").unlock()
    saved = configs.to_json(config)
    config.model.depth = 3
    with pytest.raises(ValueError, match=r"model.depth=3 \(was None\)"):
        configs.check_same(config, saved, WHERE)


@pytest.mark.parametrize(
    "override",
    ["run.keep=9", "sheets.every_steps=3", "sheets.prompts=('a','b')"]
    + ["sampler.steps=5", "mesh.fsdp=2", "model.remat=layer", "model.group_chunks=2"]
    + ["data.num_threads=7", "data.root=elsewhere"],
)
def test_what_does_not_change_the_result_may_change_on_resuming(override):
    saved = configs.to_json(load("demo.py"))
    changed = load("demo.py", f"--config.{override}")
    assert configs.to_json(changed) != saved
    assert configs.check_same(changed, saved, WHERE) is None


def test_images_that_are_not_videos_need_whole_periods_of_each_kind():
    with pytest.raises(
        ValueError, match="data.videos_per_batch=4 is not a multiple of"
    ):
        build("clips.py", "--config.diffusion.images_as_videos=False")
