"""The metric networks are the originals in PyTorch, through the converter.

Weights, biases and the statistics of norms are random, for those that training begins
with would hide a wrong order or epsilon. CONTRIBUTING.md tells how the originals are
installed.
"""

import dataclasses
import sys
import types
import warnings
import zipfile
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metric_files import foreign
from safetensors.numpy import save_file

from snapvideo_jax.evaluation import nets
from snapvideo_jax.evaluation.preprocess import VARIANTS
from snapvideo_jax.evaluation.tokenizer import Tokenizer, openai_vocabulary
from snapvideo_jax.evaluation.weights.convert import convert, load
from snapvideo_jax.evaluation.weights.files import read

torch = pytest.importorskip("torch", reason="PyTorch comes with the parity extra")

TOLERANCE = 1e-5


def randomize(module, last, gain=2.0, seed=0):
    """Draws everything, so that outputs are of the size of 1, as trained ones are.

    ``gain`` is that of kernels but for the layer that ``last`` names.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(normal(buffer) / 5)
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                size = 0.1 if name.startswith(last) else gain
                fan_in = parameter[0].numel()
                parameter.copy_(normal(parameter) * (size / fan_in) ** 0.5)
            else:
                is_scale = name.endswith("weight")
                parameter.copy_(normal(parameter) / 5 + is_scale)
    return module.eval()


def converted(network, module, folder, name="weights.pt"):
    torch.save(module.state_dict(), folder / name)
    convert(network, folder / name, folder / f"{network}.safetensors")
    return load(folder / f"{network}.safetensors", network).params


def assert_same(ours, theirs):
    theirs = theirs.numpy()
    assert np.abs(theirs).max() > 0.3 and np.std(theirs) > 0.03
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=TOLERANCE, rtol=0)


def uniform(*shape, seed=0, low=-1.0, high=1.0):
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return values.astype(np.float32)


def channels_first(values):
    return torch.from_numpy(np.moveaxis(values, -1, 1).copy())


# --- I3D ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def i3d(tmp_path_factory):
    original = pytest.importorskip("cdfvd.third_party.i3d.pytorch_i3d")
    module = randomize(original.InceptionI3d(400), "logits")
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.eps = 1e-3
    params = converted("i3d", module, tmp_path_factory.mktemp("i3d"), "i3d_400.pt")
    return module, params


@pytest.mark.parametrize("frames", [9, 16, 17])
def test_i3d(i3d, frames):
    module, params = i3d
    clips = uniform(1, frames, 224, 224, 3, seed=frames)
    with torch.no_grad():
        theirs = module(channels_first(clips))
    assert_same(jax.jit(nets.I3D().apply)({"params": params}, clips), theirs)


# --- Inception ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's network; its package itself would import torchvision."""
    spec = find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_fidelity", package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_fidelity.feature_extractor_inceptionv3 as original
        patch.setattr(original, "load_state_dict_from_url", lambda *_, **__: {})

        class Random(original.FeatureExtractorInceptionV3):
            def load_state_dict(self, *_, **__):
                return None

        module = Random("net", ["2048", "logits_unbiased"])
    randomize(module, "fc", gain=1.5)
    return module, converted("inception", module, tmp_path_factory.mktemp("fid"))


def test_inception_with_its_resize(inception):
    module, params = inception
    frames = np.random.default_rng(0).integers(256, size=(2, 36, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        features, logits = module(torch.from_numpy(np.moveaxis(frames, -1, 1).copy()))
    ready = VARIANTS["inception"]["tf"].apply(frames)
    for setting, theirs in ((False, features), (True, logits)):
        net = nets.Inception(logits=setting)
        assert_same(jax.jit(net.apply)({"params": params}, ready), theirs)


# --- C3D ----------------------------------------------------------------------------


class TorchC3D(torch.nn.Module):
    """evaluation's C3D as Chainer computes it: pooling windows hang over the end."""

    CONVOLUTIONS = (
        ("conv1a", 3, 64), ("conv2a", 64, 128), ("conv3a", 128, 256),
        ("conv3b", 256, 256), ("conv4a", 256, 512), ("conv4b", 512, 512),
        ("conv5a", 512, 512), ("conv5b", 512, 512),
    )  # fmt: skip
    POOLED_AFTER = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")

    def __init__(self):
        super().__init__()
        for name, inputs, outputs in self.CONVOLUTIONS:
            self.add_module(name, torch.nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6 = torch.nn.Linear(8192, 4096)
        self.fc7 = torch.nn.Linear(4096, 4096)
        self.fc8 = torch.nn.Linear(4096, 101)

    def forward(self, signs, mean):
        """RGB clips in [-1, 1] of 112 x 112, and the mean clip."""
        x = signs.flip(1) * 128 + (128 - mean[None, :, :, 8:120, 8:120])
        for name, *_ in self.CONVOLUTIONS:
            x = torch.relu(getattr(self, name)(x))
            if name in self.POOLED_AFTER:
                window = (1 if name == "conv1a" else 2, 2, 2)
                x = torch.nn.functional.max_pool3d(x, window, ceil_mode=True)
        x = torch.relu(self.fc6(x.flatten(1)))
        return self.fc8(torch.relu(self.fc7(x)))


def test_c3d_and_its_mean_clip(tmp_path):
    module = randomize(TorchC3D(), "fc8")
    with torch.no_grad():
        module.conv1a.weight /= 64  # inputs are levels of grey
    leaf = {"weight": "W", "bias": "b"}
    arrays = {}
    for name, tensor in module.state_dict().items():
        layer, kind = name.split(".")
        arrays[f"{layer}/{leaf[kind]}"] = tensor.numpy()
    mean = uniform(3, 16, 128, 171, low=80, high=130)
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **arrays)
    np.savez(tmp_path / "mean2.npz", mean=mean)
    out = tmp_path / "c3d.safetensors"
    convert("c3d", tmp_path / "conv3d_deepnetA_ucf.npz", out)
    params = load(out, "c3d").params
    levels = uniform(1, 16, 112, 112, 3, low=0, high=255)
    with torch.no_grad():
        signs = channels_first(levels) / 255 * 2 - 1
        theirs = module(signs, torch.from_numpy(mean))
    assert_same(jax.jit(nets.C3D().apply)({"params": params}, levels), theirs)


# --- CLIP ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="comes with the parity extra")


@pytest.fixture(scope="module")
def clip(transformers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    module = transformers.CLIPModel(transformers.CLIPConfig()).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif "norm" in name or "layrnorm" in name:
                parameter.normal_(1, 0.1)
            elif parameter.ndim > 1 and "projection" not in name:
                parameter.mul_(2)
    tensors = {name: x.numpy() for name, x in module.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(module.config.to_json_string())
    out = folder / "clip.safetensors"
    convert("clip", folder / "model.safetensors", out)
    return module, load(out, "clip").params


def test_clip_embeds_pictures(clip):
    module, params = clip
    pictures = uniform(2, 224, 224, 3, low=-2, high=2)
    with torch.no_grad():
        seen = module.vision_model(channels_first(pictures)).pooler_output
        theirs = module.visual_projection(seen)
    image = jax.jit(lambda p, x: nets.CLIP().apply(p, x, method=nets.CLIP.image))
    assert_same(image({"params": params}, pictures), theirs)


def test_clip_embeds_captions(clip):
    module, params = clip
    tokens = np.full((3, 77), 49407, np.int32)
    tokens[:, 0] = 49406
    rng = np.random.default_rng(0)
    for row, length in zip(tokens, (1, 20, 75), strict=True):
        row[1 : 1 + length] = rng.integers(0, 49406, length)
    with torch.no_grad():
        seen = module.text_model(torch.from_numpy(tokens).long()).pooler_output
        theirs = module.text_projection(seen)
    text = jax.jit(lambda p, x: nets.CLIP().apply(p, x, method=nets.CLIP.text))
    assert_same(text({"params": params}, jnp.asarray(tokens)), theirs)


# --- Tokens -------------------------------------------------------------------------

WORDS = "low lower lowest newer wider panda pandas running café naïve 大熊猫 привет"
CAPTIONS = [
    "a panda",
    "",
    "  A   PANDA\trunning\n NEWER  ",
    "don't you're we've I'm he'll she'd it's",
    "café naïve ÅNGSTRÖM",
    "cafe\u0301 decomposed",
    "大熊猫 eats 竹 in 2024, at 12:30!",
    "emoji 🐼🎋 and 👩‍👩‍👧 family",
    "&lt;b&gt; &amp;amp; &quot;html&quot; <b>bold</b>",
    "<|startoftext|> inside <|endoftext|> caption",
    "½ Ⅷ ٣ ² digits of all kinds",
    "under_score snake_case a-b--c ...!!!???",
    "İstanbul ſharp ß ﬁne",
    "lower " * 120,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 zalgo t̷̢e̸x̶t̴",
]


def made_vocabulary():
    """Merges learnt from a few words, as byte pair encoding learns them."""
    letters = Tokenizer(*openai_vocabulary([]))
    names = {number: name for name, number in letters._vocabulary.items()}
    words = [
        [names[number] for number in letters.tokens(word)[1:-1]]
        for word in WORDS.split()
    ]
    merges = []
    for _ in range(60):
        counts: dict = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(sorted(counts), key=counts.get)
        merges.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [word[i] + word[i + 1]]
                i += 1
    return openai_vocabulary(merges)


@pytest.fixture(scope="module")
def tokenizers(transformers):
    vocabulary, merges = made_vocabulary()
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    return Tokenizer(vocabulary, merges), theirs


@pytest.mark.parametrize("caption", CAPTIONS)
def test_tokens_are_those_of_transformers(tokenizers, caption):
    ours, theirs = tokenizers
    found = ours.tokens(caption, repair=False)
    assert found == theirs(caption).input_ids
    if caption.startswith("lower"):
        assert len(found) < 240, "no merges were learnt"


def test_captions_that_are_too_long_end_like_those_of_transformers(tokenizers):
    ours, theirs = tokenizers
    long = "wider 🐼 " * 90
    rows, cut = ours.encode([long, "a panda"])
    expected = theirs(long, truncation=True, max_length=77).input_ids
    assert rows[0].tolist() == expected and cut == 1
    assert rows[0, -1] == len(ours) - 1 and rows[1, -1] == 0


# --- TorchScript --------------------------------------------------------------------


class Named(torch.nn.Module):
    """Holds tensors under the names of an archive, and calls an activation."""

    def __init__(self, tensors, activation):
        super().__init__()
        self.activation = activation
        for name, array in tensors.items():
            *parents, leaf = name.split(".")
            place = self
            for parent in parents:
                if parent not in place._modules:
                    place.add_module(parent, torch.nn.Module())
                place = place._modules[parent]
            place.register_buffer(leaf, torch.from_numpy(array))

    def forward(self, x):
        return self.activation(x)


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def save_archive(path, tensors, activation):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Named(tensors, activation)).save(path)
    return path


def test_i3d_of_an_archive_of_torchscript(tmp_path):
    tensors = foreign("i3d", "hassony2")
    path = save_archive(tmp_path / "i3d_torchscript.pt", tensors, QuickGELU())
    header = convert("i3d", path, tmp_path / "i3d.safetensors")
    assert header["layout"] == "hassony2, torchscript"
    params = load(tmp_path / "i3d.safetensors", "i3d").params
    kernel = tensors["mixed_4b.branch_1.1.conv3d.weight"]
    found = params["mixed4b"]["b1b"]["unit"]["conv"]["kernel"]
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 4, 1, 0))


def test_clip_of_an_archive_in_half_precision(tmp_path, monkeypatch):
    sizes = nets.CLIPSizes(
        width=16, layers=1, heads=2, text_width=8, text_layers=1, text_heads=2,
        vocabulary=600, embedding=8,
    )  # fmt: skip
    small = dataclasses.replace(nets.NETWORKS["clip"], module=lambda: nets.CLIP(sizes))
    monkeypatch.setitem(nets.NETWORKS, "clip", small)
    tensors = foreign("clip", "OpenAI")
    halves = {name: x.astype(np.float16) for name, x in tensors.items()}
    path = save_archive(tmp_path / "ViT-B-32.pt", halves, QuickGELU())
    out = tmp_path / "clip.safetensors"
    convert("clip", path, out)
    found = load(out, "clip").params["language"]["block0"]["key"]["kernel"]
    whole = halves["transformer.resblocks.0.attn.in_proj_weight"]
    np.testing.assert_array_equal(found, whole[8:16].T.astype(np.float32))
    path = save_archive(tmp_path / "gelu.pt", halves, torch.nn.GELU())
    with pytest.raises(ValueError, match="trained with gelu, expected quick_gelu"):
        convert("clip", path, out)


def test_an_archive_cannot_run_anything_nor_read_beyond_its_tensors(tmp_path):
    path = save_archive(tmp_path / "a.pt", {"x": np.zeros(3, np.float32)}, QuickGELU())
    for name, (old, new), reason in (
        ("evil.pt", (b"_rebuild_tensor_v2", b"_import_dotted_name"), "it asks for"),
        ("far.pt", (b"(K\x03", b"(K\x7f"), "outside of its storage"),
    ):
        with (
            zipfile.ZipFile(path) as whole,
            zipfile.ZipFile(tmp_path / name, "w") as changed,
        ):
            for member in whole.namelist():
                data = whole.read(member)
                if member.endswith("/data.pkl"):
                    assert old in data
                    data = data.replace(old, new)
                changed.writestr(member, data)
        with pytest.raises(ValueError, match=reason):
            read(tmp_path / name)
