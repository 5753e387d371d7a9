"""Checkpoints of every known layout are converted, and wrong ones refused."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from metric_files import foreign
from safetensors import safe_open
from safetensors.numpy import save_file

from snapvideo_jax.evaluation import nets
from snapvideo_jax.evaluation.nets import (
    C3D,
    CLIP,
    NETWORKS,
    CLIPSizes,
    c3d,
)
from snapvideo_jax.evaluation.weights.convert import convert, load, random_weights
from snapvideo_jax.io import files

SMALL = CLIPSizes(
    size=64, patch=32, width=16, layers=2, heads=2, text_width=8, text_layers=2,
    text_heads=2, vocabulary=600, embedding=8,
)  # fmt: skip
NUMBERS = {"i3d": 12_711_824, "inception": 23_884_384, "c3d": 79_011_686}


@pytest.fixture
def small_clip(monkeypatch):
    """CLIP of the same structure with few parameters."""
    small = dataclasses.replace(
        NETWORKS["clip"],
        module=lambda: CLIP(SMALL),
        inputs=(((1, 64, 64, 3), "float32"), ((1, 77), "int32")),
    )
    monkeypatch.setitem(NETWORKS, "clip", small)


def write(path, tensors):
    """Writes a file in the format of its suffix."""
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        tree = {"params": unflatten_dict(tensors, sep="/")}
        path.write_bytes(serialization.msgpack_serialize(tree))
    return path


def converted(network, path, **options):
    out = path.parent / f"out-{network}.safetensors"
    header = convert(network, path, out, **options)
    return header, flatten_dict(load(out, network).params, sep="/")


# --- Sizes --------------------------------------------------------------------------


@pytest.mark.parametrize("network", NUMBERS)
def test_parameter_counts_of_the_networks(network):
    shapes = NETWORKS[network].shapes()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == NUMBERS[network]


def test_published_counts_of_trained_parameters():
    """I3D's without statistics, C3D's without its mean clip, CLIP's with a scale."""
    sizes = {
        network: {
            path: int(np.prod(x)) for path, x in NETWORKS[network].shapes().items()
        }
        for network in NETWORKS
    }
    statistics = ("/mean", "/var")
    i3d = sum(n for path, n in sizes["i3d"].items() if not path.endswith(statistics))
    c3d = sum(n for path, n in sizes["c3d"].items() if path not in ("gain", "offset"))
    assert i3d == 12_697_264
    assert c3d == 78_409_573
    assert sum(sizes["clip"].values()) + 1 == 151_277_313
    assert len(sizes["clip"]) + 1 == 398
    counters = sum(path.endswith("/mean") for path in sizes["i3d"])
    assert len(sizes["i3d"]) + counters == 344
    counters = sum(path.endswith("/mean") for path in sizes["inception"])
    assert counters == 94 and len(sizes["inception"]) + 1 + counters == 566


# --- Layouts ------------------------------------------------------------------------


def test_i3d_of_tats(tmp_path):
    tensors = foreign("i3d", "TATS")
    tensors["Mixed_3b.b0.bn.num_batches_tracked"] = np.zeros((), np.int64)
    header, params = converted("i3d", write(tmp_path / "i3d.safetensors", tensors))
    assert header["layout"] == "TATS, safetensors"
    kernel = tensors["Conv3d_1a_7x7.conv3d.weight"]
    np.testing.assert_array_equal(
        params["conv1a/unit/conv/kernel"], kernel.transpose(2, 3, 4, 1, 0)
    )
    np.testing.assert_array_equal(
        params["mixed5c/b3b/norm/var"], tensors["Mixed_5c.b3b.bn.running_var"]
    )
    np.testing.assert_array_equal(
        params["logits/conv/bias"], tensors["logits.conv3d.bias"]
    )


def test_i3d_of_tensorflow_has_no_scales_and_one_misnamed_unit(tmp_path):
    tensors = foreign("i3d", "TensorFlow")
    assert len(tensors) == 230
    _, params = converted("i3d", write(tmp_path / "hub.npz", tensors))
    name = "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3"
    np.testing.assert_array_equal(
        params["mixed5b/b2b/unit/conv/kernel"], tensors[f"{name}/conv_3d/w"]
    )
    beta = tensors[f"{name}/batch_norm/beta"]
    assert beta.shape == (1, 1, 1, 1, 128)
    np.testing.assert_array_equal(params["mixed5b/b2b/norm/bias"], beta[0, 0, 0, 0])
    np.testing.assert_array_equal(params["mixed5b/b2b/norm/scale"], 1)


def test_networks_of_magvit(tmp_path):
    tensors = foreign("i3d", "magvit")
    header, params = converted("i3d", write(tmp_path / "i3d_k400.flax", tensors))
    assert header["layout"] == "magvit, flax"
    name = "Mixed_5b/Branch_2.Conv3d_0b_3x3/conv_3d/kernel"
    np.testing.assert_array_equal(params["mixed5b/b2b/unit/conv/kernel"], tensors[name])


def test_inception_of_pytorch_fid(tmp_path):
    tensors = foreign("inception", "pytorch-fid")
    tensors |= {"fc.bias": np.zeros(1008, np.float32)}
    tensors |= {"AuxLogits.fc.bias": np.zeros(1000, np.float32)}
    path = write(tmp_path / "pt_inception-2015-12-05.safetensors", tensors)
    _, params = converted("inception", path)
    np.testing.assert_array_equal(params["fc"], tensors["fc.weight"].T)
    kernel = tensors["Mixed_6b.branch7x7dbl_2.conv.weight"]
    assert kernel.shape[2:] == (7, 1)
    np.testing.assert_array_equal(
        params["mixed6b/branch7x7dbl_2/unit/conv/kernel"], kernel.transpose(2, 3, 1, 0)
    )


@pytest.fixture
def narrow_c3d(monkeypatch):
    """C3D of the same structure with few channels."""
    stages = tuple(tuple((name, 4) for name, _ in stage) for stage in c3d.STAGES)
    monkeypatch.setattr(c3d, "STAGES", stages)
    monkeypatch.setattr(c3d, "HIDDEN", 8)
    network = dataclasses.replace(NETWORKS["c3d"], module=lambda: C3D())
    monkeypatch.setitem(NETWORKS, "c3d", network)


def test_c3d_of_tgan_with_its_mean_clip(tmp_path, narrow_c3d):
    tensors = foreign("c3d", "chainer")
    mean = np.random.default_rng(1).uniform(80, 130, (3, 16, 128, 171))
    del tensors["mean"]
    path = write(tmp_path / "conv3d_deepnetA_ucf.npz", tensors)
    with pytest.raises(ValueError, match="needs the mean clip mean2.npz"):
        converted("c3d", path)
    np.savez(tmp_path / "elsewhere.npz", mean=mean)
    _, params = converted("c3d", path, mean=tmp_path / "elsewhere.npz")
    assert params["gain"].ravel() == np.float32(256 / 255)
    corner = -mean[:, 2, 8, 8]
    np.testing.assert_allclose(params["offset"][2, 0, 0], corner, rtol=1e-6)
    np.testing.assert_array_equal(params["fc8/kernel"], tensors["fc8/W"].T)


def test_c3d_of_magvit_has_its_mean_clip_inside(tmp_path, narrow_c3d):
    tensors = foreign("c3d", "magvit")
    _, params = converted("c3d", write(tmp_path / "c3d_ucf101.flax", tensors))
    assert params["gain"].ravel() == 1
    np.testing.assert_array_equal(params["offset"], tensors["x_offset"])


def test_clip_of_hugging_face_openai_and_flax_agree(tmp_path, small_clip):
    """The same tensors under three sets of names, written out by hand."""
    hf = foreign("clip", "Hugging Face")
    hf["logit_scale"] = np.full((), 4.6, np.float32)
    (tmp_path / "config.json").write_text(
        json.dumps({"text_config": {"hidden_act": "quick_gelu"}, "vision_config": {}})
    )
    _, expected = converted("clip", write(tmp_path / "model.safetensors", hf))
    for name, tensors in (
        ("open_clip.safetensors", openai_names(hf)),
        ("flax_model.msgpack", flax_names(hf)),
    ):
        _, found = converted("clip", write(tmp_path / name, tensors))
        assert found.keys() == expected.keys()
        for path, value in found.items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


def openai_names(hf):
    """By the names of OpenAI, from those of Hugging Face."""
    out = {
        "visual.class_embedding": hf["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": hf["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": hf[
            "vision_model.embeddings.position_embedding.weight"
        ],
        "visual.proj": hf["visual_projection.weight"].T.copy(),
        "text_projection": hf["text_projection.weight"].T.copy(),
        "token_embedding.weight": hf["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": hf["text_model.embeddings.position_embedding.weight"],
        "logit_scale": hf["logit_scale"],
    }
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": "ln_final",
    }
    parts = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for kind in ("weight", "bias"):
        for theirs, ours in norms.items():
            out[f"{ours}.{kind}"] = hf[f"{theirs}.{kind}"]
        for model, prefix in (("vision_model", "visual."), ("text_model", "")):
            for layer in range(2):
                theirs = f"{model}.encoder.layers.{layer}"
                ours = f"{prefix}transformer.resblocks.{layer}"
                for one, other in parts.items():
                    out[f"{ours}.{other}.{kind}"] = hf[f"{theirs}.{one}.{kind}"]
                thirds = [hf[f"{theirs}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                out[f"{ours}.attn.in_proj_{kind}"] = np.concatenate(thirds)
    return out


def flax_names(hf):
    """By the names of Hugging Face's Flax classes, with transposed kernels."""
    out = {}
    for name, x in hf.items():
        if name.endswith("embedding.weight") and "patch" not in name:
            name = name.replace(".weight", ".embedding")
        elif name.endswith(".weight") and x.ndim == 4:
            name, x = name.replace(".weight", ".kernel"), x.transpose(2, 3, 1, 0)
        elif name.endswith(".weight") and x.ndim == 2:
            name, x = name.replace(".weight", ".kernel"), x.T
        elif name.endswith(".weight"):
            name = name.replace(".weight", ".scale")
        out[name.replace(".", "/")] = np.ascontiguousarray(x)
    return out


def test_half_precision_is_read_as_float32(tmp_path, small_clip):
    hf = foreign("clip", "Hugging Face")
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in hf.items()}
    path = write(tmp_path / "model.safetensors", half)
    _, params = converted("clip", path, quick_gelu=True)
    assert {x.dtype for x in params.values()} == {np.dtype(np.float32)}


# --- Wrong files --------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path, small_clip):
    tensors = foreign("clip", "Hugging Face")
    names = [name for name in tensors if "encoder.layers.1" in name]
    for name in names:
        del tensors[name]
    tensors["visual_projection.weight"] = np.zeros((8, 99), np.float32)
    tensors["text_model.extra"] = np.zeros(3, np.float32)
    path = write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        converted("clip", path, quick_gelu=True)
    message = str(error.value)
    assert f"{len(names)} missing (" in message
    assert f"and {len(names) - 5} more" in message
    assert "1 unexpected (text_model.extra)" in message
    assert "visual_projection.weight of (8, 99), wanted (8, 16)" in message
    assert not (tmp_path / "out-clip.safetensors").exists()


def test_another_number_of_classes_is_named(tmp_path):
    tensors = foreign("i3d", "TATS")
    tensors["logits.conv3d.weight"] = np.zeros((600, 1024, 1, 1, 1), np.float32)
    tensors["logits.conv3d.bias"] = np.zeros(600, np.float32)
    with pytest.raises(ValueError, match=r"logits.conv3d.bias of \(600,\), wanted"):
        converted("i3d", write(tmp_path / "k600.safetensors", tensors))


def test_a_checkpoint_of_another_network_is_recognized(tmp_path, small_clip):
    tensors = foreign("clip", "Hugging Face")
    path = write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="It looks like one of clip"):
        converted("inception", path)


@pytest.mark.parametrize("name", ["rgb_imagenet.safetensors", "model_rgb.safetensors"])
def test_the_released_i3d_is_refused_for_fvd(tmp_path, name):
    path = write(tmp_path / name, {"Conv3d_1a_7x7.conv3d.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="expected the one of TensorFlow Hub"):
        converted("i3d", path)


def test_the_released_i3d_is_known_by_its_tensors_too(tmp_path):
    """Its state dict is older than the counters that later ones have."""
    torch = pytest.importorskip("torch", reason="PyTorch comes with the convert extra")
    tensors = {name: torch.from_numpy(x) for name, x in foreign("i3d", "TATS").items()}
    torch.save(tensors, tmp_path / "renamed.pt")
    with pytest.raises(ValueError, match="by its tensors"):
        converted("i3d", tmp_path / "renamed.pt")
    counter = torch.tensor(1)
    torch.save(
        tensors | {"Mixed_3b.b0.bn.num_batches_tracked": counter}, tmp_path / "k400.pt"
    )
    assert converted("i3d", tmp_path / "k400.pt")[0]["layout"] == "TATS, torch"


@pytest.mark.parametrize(
    "file, config, message",
    [
        ("config.json", {"vision_config": {"hidden_act": "gelu"}}, "gelu and quick_ge"),
        (
            "open_clip_config.json",
            {"model_cfg": {"embed_dim": 512}},
            "trained with gel",
        ),
        ("open_clip_config.json", {}, "cannot be read"),
        ("other.json", {}, "It is unknown whether"),
    ],
)
def test_clip_with_another_activation_is_refused(
    tmp_path, small_clip, file, config, message
):
    path = write(tmp_path / "model.safetensors", foreign("clip", "Hugging Face"))
    (tmp_path / file).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        converted("clip", path)


def test_files_that_cannot_be_read_safely_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    (tmp_path / "net.pkl").write_bytes(pickle.dumps(Evil()))
    np.savez(tmp_path / "net.npz", x=np.array([Evil()], dtype=object))
    (tmp_path / "net.safetensors").write_bytes(b"nonsense")
    (tmp_path / "net.flax").write_bytes(b"\xc1\xff")
    for name, message in (
        ("net.pkl", "is a pickle"),
        ("net.npz", "cannot be read safely"),
        ("net.safetensors", "cannot be read"),
        ("net.flax", "is not Flax's msgpack"),
        ("gone.npz", "there is no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            convert("i3d", tmp_path / name, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="does not end with .safetensors"):
        convert("i3d", tmp_path / "net.npz", tmp_path / "out.npz")


def test_nan_is_refused(tmp_path, small_clip):
    tensors = foreign("clip", "Hugging Face")
    tensors["visual_projection.weight"][0, 0] = np.nan
    path = write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="NaN or infinity in vision/out/kernel"):
        converted("clip", path, quick_gelu=True)


def test_a_converted_file_records_its_source(tmp_path, small_clip):
    path = write(tmp_path / "model.safetensors", foreign("clip", "Hugging Face"))
    header, _ = converted("clip", path, quick_gelu=True)
    out = tmp_path / "out-clip.safetensors"
    with safe_open(out, "np") as file:
        assert file.metadata() == header
    weights = load(out, "clip")
    assert weights.sha256 == files.sha256_of(path) == header["source_sha256"]
    assert weights.source == "model.safetensors" and not weights.is_random
    with pytest.raises(ValueError, match="is of clip, wanted i3d"):
        load(out, "i3d")
    with pytest.raises(ValueError, match="not made by snapvideo convert"):
        load(path, "clip")


def test_random_weights_are_marked_and_repeat(small_clip):
    one, other, third = (random_weights("clip", seed) for seed in (3, 3, 4))
    assert one.sha256 == "random:3" and one.is_random
    same = jax.tree.map(np.array_equal, one.params, other.params)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(
        one.params["vision"]["positions"], third.params["vision"]["positions"]
    )


def test_clip_reads_a_caption_at_its_end_token_whatever_follows(small_clip):
    params = {"params": random_weights("clip", 0).params}
    tokens = np.zeros((2, 77), np.int32)
    tokens[:, :4] = 598, 7, 9, 599
    tokens[1, 4:] = 599
    text = jax.jit(lambda x: CLIP(SMALL).apply(params, x, method=CLIP.text))
    one, other = np.asarray(text(jnp.asarray(tokens)))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one).max() > 0.01


def test_i3d_needs_nine_frames():
    clips = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32)
    with pytest.raises(ValueError, match="8 frames; use 9 or more"):
        jax.eval_shape(nets.I3D().init, jax.random.key(0), clips)
