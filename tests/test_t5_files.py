"""What a T5 folder has to hold, how it is read, and what is said where it is wrong."""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest
import t5_folder
from safetensors.numpy import save_file

from snapvideo_jax.models.t5 import T5Encoder
from snapvideo_jax.parallel.sharding import MeshConfig, make_mesh
from snapvideo_jax.text.checkpoint import load_params
from snapvideo_jax.text.config import Text
from snapvideo_jax.text.files import Weights, check_folder, fingerprint, read_sizes
from snapvideo_jax.text.t5 import T5Text

MESH = make_mesh(MeshConfig(fsdp=8), batch=8)
WIDTH = t5_folder.SIZES["d_model"]


@pytest.fixture
def folder(tmp_path):
    return t5_folder.write(tmp_path / "t5")


def load(folder, dtype="float32"):
    return load_params(folder, T5Encoder(read_sizes(folder), dtype), MESH)


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def change(folder, **tensors):
    """Replaces tensors of a folder; None takes one out."""
    changed = t5_folder.tensors() | tensors
    kept = {name: value for name, value in changed.items() if value is not None}
    save_file(kept, folder / "model.safetensors")


def split_over_files(folder, save, suffix):
    """The weights in two files and an index, with what a decoder adds."""
    tensors = t5_folder.tensors() | {"decoder.final_layer_norm.weight": np.ones(WIDTH)}
    stem, kind = (
        ("model", "safetensors")
        if suffix == "safetensors"
        else (
            "pytorch_model",
            "bin",
        )
    )
    files = {name: f"{stem}-{len(name) % 2}.{kind}" for name in tensors}
    for file in set(files.values()):
        save({n: tensors[n] for n in tensors if files[n] == file}, folder / file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    (folder / "model.safetensors").unlink()
    return folder


# --- Reading --------------------------------------------------------------------------


def test_tensors_become_the_parameters_of_their_layer(folder):
    tensors, params = t5_folder.tensors(), load(folder)
    np.testing.assert_array_equal(params["embedding"], tensors["shared.weight"])
    for layer in range(3):
        name = f"encoder.block.{layer}.layer.0.SelfAttention.k.weight"
        found = params["blocks"]["key"]["kernel"][layer]
        np.testing.assert_array_equal(found, tensors[name].T)


def test_matrices_take_the_type_that_is_computed_in_and_the_rest_float32(folder):
    params = load(folder, "bfloat16")
    assert params["embedding"].dtype == params["blocks"]["out"]["kernel"].dtype
    assert params["embedding"].dtype == "bfloat16"
    assert params["position_bias"].dtype == params["norm"]["scale"].dtype == "float32"


def test_several_files_with_an_index_are_one_checkpoint(folder):
    expected = load(folder)
    assert_same(load(split_over_files(folder, save_file, "safetensors")), expected)


@pytest.mark.parametrize("several", [False, True], ids=["one file", "several"])
def test_pytorch_files_give_the_same(folder, several):
    torch = pytest.importorskip("torch", reason="comes with the convert extra")
    expected = load(folder)

    def save(tensors, path):
        torch.save({n: torch.from_numpy(x) for n, x in tensors.items()}, path)

    if several:
        split_over_files(folder, save, "bin")
    else:
        save(t5_folder.tensors(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert_same(load(folder), expected)


def test_a_pytorch_file_that_would_run_code_is_refused(folder, tmp_path):
    pytest.importorskip("torch", reason="comes with the convert extra")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"shared.weight": Evil()}))
    with pytest.raises(ValueError, match="pytorch_model.bin cannot be read safely"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_no_device_waits_for_more_than_its_part(folder, monkeypatch):
    """Of a matrix divided by 8, no read is of more than an eighth."""
    read, sizes = Weights.read, {}

    def noted(weights, name, part):
        found = read(weights, name, part)
        sizes.setdefault(name, []).append(found.size)
        return found

    monkeypatch.setattr(Weights, "read", noted)
    load(folder)
    for name, tensor in t5_folder.tensors().items():
        assert sum(sizes[name]) == tensor.size, "read once, whatever the devices"
        if tensor.ndim == 2 and "bias" not in name:
            assert max(sizes[name]) == tensor.size / 8


def test_fingerprints_identify_encoders(folder, tmp_path):
    same = shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(same) == fingerprint(folder)
    change(same, **{"encoder.final_layer_norm.weight": np.ones(WIDTH, np.float32)})
    assert fingerprint(same) != fingerprint(folder)


# --- What is wrong --------------------------------------------------------------------


def test_missing_files_are_listed_with_those_that_are_there(folder):
    (folder / "spiece.model").unlink()
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(ValueError) as error:
        check_folder(folder)
    message = str(error.value)
    assert "it needs config.json, spiece.model and one of model.safetensors" in message
    assert "missing: spiece.model; one of model.safetensors.index.json" in message
    assert message.endswith("found: config.json, weights.safetensors.")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="missing: config.json.* found: nothing"):
        read_sizes(tmp_path / "t5")


def test_files_that_an_index_lists_and_that_are_missing_are_named(folder):
    split_over_files(folder, save_file, "safetensors")
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match="missing: model-1.safetensors; found: config"):
        load(folder)


def test_missing_unknown_and_misshapen_tensors_are_named(folder):
    norm = "encoder.final_layer_norm.weight"
    key = "encoder.block.1.layer.0.SelfAttention.k.weight"
    change(folder, **{norm: None, "extra": np.ones(1), key: np.ones((2, 3))})
    with pytest.raises(ValueError) as error:
        load(folder)
    shapes = f"has {key} of (2, 3), wanted (32, 8)"
    for part in (f"lacks {norm}", "has an unknown extra", shapes):
        assert part in str(error.value)


def test_damaged_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "bert"}, "model_type='bert', wanted 't5'"),
        ({"feed_forward_proj": "gated-silu"}, "'gated-silu'; use a model with one of"),
        ({"d_kv": None}, "d_kv=None, wanted a whole number"),
    ],
)
def test_configs_of_other_models_are_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        read_sizes(t5_folder.write(tmp_path / "t5", **change))


# --- Tokens ---------------------------------------------------------------------------


def test_tokens_are_those_of_sentencepiece_and_an_end(folder):
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_proto=t5_folder.tokenizer())
    captions = ["a red circle moves left", "panda", "Kот 🐈", "\ud800"]
    ids, mask = T5Text(str(folder), 32, WIDTH).encode(captions)
    for row, length, caption in zip(ids, mask.sum(axis=1), captions, strict=True):
        expected = theirs.encode(caption.encode("utf-8", "replace").decode())
        assert row[:length].tolist() == [*expected, 1]
        assert not row[length:].any()


def test_long_captions_are_cut_and_end_all_the_same(folder):
    long, _ = T5Text(str(folder), 64, WIDTH).encode(["panda " * 30])
    cut, mask = T5Text(str(folder), 6, WIDTH).encode(["panda " * 30])
    assert cut[0].tolist() == [*long[0, :5], 1] and mask.all()


def test_blank_captions_have_no_tokens(folder):
    ids, mask = T5Text(str(folder), 4, WIDTH).encode(["", " \n"])
    assert not ids.any() and not mask.any()


def test_embeddings_of_another_width_are_refused_before_anything_is_loaded(folder):
    with pytest.raises(ValueError, match="text.width=4, .* use text.width=8"):
        T5Text(str(folder), 4, 4).on_devices(MESH)


def test_an_invalid_tokenizer_is_refused(folder):
    (folder / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="spiece.model is not a SentencePiece model"):
        T5Text(str(folder), 4, WIDTH).encode(["a"])


def test_a_vocabulary_larger_than_the_embedding_table_is_refused(tmp_path):
    folder = t5_folder.write(tmp_path / "t5", vocab_size=8)
    with pytest.raises(
        ValueError, match="pieces, but the encoder of this folder has 8"
    ):
        T5Text(str(folder), 4, WIDTH).encode(["a"])


def test_the_settings_say_whether_there_is_a_folder():
    assert isinstance(Text(name="t5", path="folder").encoder(), T5Text)
    for fields in ({"name": "t5"}, {"name": "cached"}, {"path": "folder"}):
        with pytest.raises(ValueError, match="text.path=.* do not match"):
            Text(**fields)
