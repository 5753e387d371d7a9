"""Computes published values with the converted metric networks.

Each anchor needs weights, and some need files too that cannot be redistributed: CLIP's
diagram CLIP.png, elefant.jpg and elefant_inception_output.npy of jax-fid,
guided-diffusion's .npz files, CIFAR-10's binary version, and UCF-101 with its lists.
Missing files are listed with where to put them; what did not run has not passed.

    python benchmarks/selfcheck.py --weights nets --anchors anchors
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from snapvideo_jax.data.container import UnusableClip
from snapvideo_jax.evaluation import clips
from snapvideo_jax.evaluation.clips import Item, Selection
from snapvideo_jax.evaluation.features import (
    CaptionEmbedder,
    Extractor,
    cosine_similarity,
)
from snapvideo_jax.evaluation.frechet import frechet_distance
from snapvideo_jax.evaluation.nets import CLIP, c3d, inception
from snapvideo_jax.evaluation.preprocess import VARIANTS
from snapvideo_jax.evaluation.results import read_statistics
from snapvideo_jax.evaluation.stats import Marginals, Moments, assign_splits
from snapvideo_jax.evaluation.tokenizer import (
    MERGES,
    OPENAI,
    VOCABULARY,
    read_tokenizer,
)
from snapvideo_jax.evaluation.weights.convert import Weights, load
from snapvideo_jax.io.npz import open_npz

ROWS = 16
"""Clips or images that are computed at once."""
CIFAR = "cifar-10-batches-bin"
CIFAR_TRAIN = tuple(f"{CIFAR}/data_batch_{number}.bin" for number in range(1, 6))
LOGIT_SCALE = 100
"""Factor of cosines that CLIP was trained with."""


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A published value.

    name: of the check.
    network: whose weights it needs.
    files: that it needs in the folder of anchors.
    expected, tolerance: of every value.
    source: who published it.
    compute: the values, from the weights, their folder and the folder of anchors.
    """

    name: str
    network: str
    files: tuple[str, ...]
    expected: tuple[float, ...]
    tolerance: float
    source: str
    compute: Callable[[Weights, Path, Path], tuple[float, ...]]


def main() -> None:
    """Computes what can be computed; exits with 1 unless all anchors passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR")
    parser.add_argument("--anchors", type=Path, default=Path("anchors"), metavar="DIR")
    arguments = parser.parse_args()
    raise SystemExit(not selfcheck(arguments.weights, arguments.anchors))


def selfcheck(weights: Path, anchors: Path) -> bool:
    """Prints a line for each anchor.

    Args:
      weights: folder of the converted networks.
      anchors: folder of the files that some need.

    Returns:
      Whether all anchors were computed and passed.
    """
    counts = {"passed": 0, "FAILED": 0, "not run": 0}
    for anchor in ANCHORS:
        verdict, about = _judge(anchor, weights, anchors)
        counts[verdict] += 1
        print(f"{verdict:<8} {anchor.name:<18} {about}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    return counts["passed"] == len(ANCHORS)


def _judge(anchor: Anchor, weights: Path, anchors: Path) -> tuple[str, str]:
    missing = _missing(anchor, weights, anchors)
    if missing:
        return "not run", f"lacks {'; '.join(missing)}"
    try:
        loaded = load(weights / f"{anchor.network}.safetensors", anchor.network)
        found = anchor.compute(loaded, weights, anchors)
    except (OSError, ValueError, KeyError, UnusableClip) as error:
        return "FAILED", f"a file is damaged ({error})"
    published = ", ".join(f"{x:.7g}" for x in anchor.expected)
    about = (
        f"{', '.join(f'{x:.7g}' for x in found)} (published {published}, "
        f"+- {anchor.tolerance:g}, {anchor.source})"
    )
    pairs = zip(found, anchor.expected, strict=True)
    near = all(abs(x - y) <= anchor.tolerance for x, y in pairs)
    return ("passed" if near else "FAILED"), about


def _missing(anchor: Anchor, weights: Path, anchors: Path) -> list[str]:
    found = []
    file = weights / f"{anchor.network}.safetensors"
    if not file.is_file():
        made = f"snapvideo convert --network {anchor.network} --weights FILE --out"
        found.append(f"{file} (make it: {made} {file})")
    if anchor.name == "clip-diagram" and not (
        (weights / OPENAI).is_file() or (weights / VOCABULARY).is_file()
    ):
        found.append(f"{weights / VOCABULARY} and {MERGES}, or {weights / OPENAI}")
    found += [
        str(anchors / name) for name in anchor.files if not (anchors / name).exists()
    ]
    return found


# --- FVD ----------------------------------------------------------------------------


def _fvd_noise(weights: Weights, *_) -> tuple[float, ...]:
    """Uniform noise in [0, 1], as it is, of two seeds."""
    extract = Extractor("i3d", weights, ROWS)
    sets = []
    for seed in (1, 2):
        stream, moments = np.random.RandomState(seed), Moments.empty(400)
        for _ in range(128 // ROWS):
            noise = stream.rand(ROWS, 16, 224, 224, 3).astype(np.float32)
            moments = moments.update(extract(noise))
        sets.append(moments)
    return (_distance(*sets),)


def _fvd_constant(weights: Weights, *_) -> tuple[float, ...]:
    """Black clips against white ones."""
    extract = Extractor("i3d", weights, 1)
    sets = []
    for level in (0, 255):
        frames = np.full((30, 64, 64, 3), level, np.uint8)
        ready = VARIANTS["i3d"]["stylegan-v"].apply(frames)
        features = np.repeat(extract(ready[None]), 8, axis=0)  # eight equal clips
        sets.append(Moments.empty(400).update(features))
    return (_distance(*sets),)


def _distance(one: Moments, other: Moments) -> float:
    return frechet_distance(one.mean, one.covariance(), other.mean, other.covariance())


# --- FID and the Inception score ----------------------------------------------------


def _inception_picture(weights: Weights, _, anchors: Path) -> tuple[float, ...]:
    """The mean difference from features of one picture, which is not resized."""
    with Image.open(anchors / "elefant.jpg") as picture:
        levels = np.asarray(picture.convert("RGB"), np.float32)
    ours = Extractor("inception", weights, 1)(levels[None] / 127.5 - 1)
    theirs = np.load(anchors / "elefant_inception_output.npy", allow_pickle=False)
    return (float(np.abs(ours.ravel() - theirs.ravel()).mean()),)


def _fid_adm(name: str) -> Callable[..., tuple[float, ...]]:
    def compute(weights: Weights, _, anchors: Path) -> tuple[float, ...]:
        real = read_statistics(anchors / ADM_REAL)
        with open_npz(anchors / name) as file:
            pictures = file["arr_0"]
        moments = _moments("inception", "tf", weights, pictures, inception.FEATURES)
        return (
            frechet_distance(
                moments.mean, moments.covariance(), real.mean, real.covariance
            ),
        )

    return compute


def _is_cifar(weights: Weights, _, anchors: Path) -> tuple[float, ...]:
    pictures = np.concatenate([_cifar(anchors / name) for name in CIFAR_TRAIN])
    extract = Extractor("inception", weights, 4 * ROWS, {"logits": True})
    splits = assign_splits(len(pictures), 10, seed=2020)
    sums = Marginals.empty(10, inception.CLASSES)
    for first in range(0, len(pictures), 4 * ROWS):
        some = slice(first, first + 4 * ROWS)
        ready = VARIANTS["inception"]["tf"].apply(pictures[some])
        sums = sums.update(extract(ready), splits[some])
    return (float(sums.scores().mean()),)


def _cifar(path: Path) -> UInt8[np.ndarray, "b 32 32 3"]:
    """The pictures of a file of CIFAR-10's binary version: a label, then planes."""
    rows = np.fromfile(path, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _moments(
    network: str, variant: str, weights: Weights, pictures: np.ndarray, width: int
) -> Moments:
    method = CLIP.image if network == "clip" else None
    extract = Extractor(network, weights, 4 * ROWS, method=method)
    moments = Moments.empty(width)
    for first in range(0, len(pictures), 4 * ROWS):
        ready = VARIANTS[network][variant].apply(pictures[first : first + 4 * ROWS])
        moments = moments.update(extract(ready))
    return moments


# --- CLIP and C3D -------------------------------------------------------------------


def _clip_fid_cifar(weights: Weights, _, anchors: Path) -> tuple[float, ...]:
    """The first 5,000 pictures of training against the first 5,000 of the test set."""
    sets = [
        _moments("clip", "squash", weights, _cifar(anchors / name)[:5000], 512)
        for name in (CIFAR_TRAIN[0], f"{CIFAR}/test_batch.bin")
    ]
    return (_distance(*sets),)


def _clip_diagram(weights: Weights, folder: Path, anchors: Path) -> tuple[float, ...]:
    with Image.open(anchors / "CLIP.png") as picture:
        frames = np.asarray(picture.convert("RGB"))[None]
    ready = VARIANTS["clip"]["openai"].apply(frames)
    image = Extractor("clip", weights, 1, method=CLIP.image)(ready)
    labels = ("a diagram", "a dog", "a cat")
    text = CaptionEmbedder(read_tokenizer(folder), weights, len(labels))(labels)
    return tuple(map(float, _probabilities(image, text)))


def _probabilities(
    image: Float32[np.ndarray, "1 d"], text: Float32[np.ndarray, "n d"]
) -> np.ndarray:
    scores = cosine_similarity(text[None], image[None])[0]
    return np.asarray(jax.nn.softmax(LOGIT_SCALE * scores))


def _c3d_accuracy(weights: Weights, _, anchors: Path) -> tuple[float, ...]:
    """Of the middle 16 frames of every test clip of UCF-101, split 1, in percent."""
    lines = (anchors / "classInd.txt").read_text().split("\n")
    names = dict(reversed(line.split()) for line in lines if line.strip())
    listed = (anchors / "testlist01.txt").read_text().split()
    extract = Extractor("c3d", weights, ROWS)
    selection = Selection(c3d.FRAMES, position="center")
    right = 0
    for first in range(0, len(listed), ROWS):
        some = listed[first : first + ROWS]
        items = [Item(name, anchors / "UCF-101" / name) for name in some]
        ready = [
            VARIANTS["c3d"]["tgan"].apply(clips.read(item, selection)) for item in items
        ]
        # The folder names the class; one class's files spell it differently.
        wanted = [int(names[name.split("/")[0]]) - 1 for name in some]
        right += int((extract(np.stack(ready)).argmax(axis=1) == wanted).sum())
    return (100 * right / len(listed),)


ADM_REAL = "VIRTUAL_imagenet256_labeled.npz"
ANCHORS = (
    Anchor("fvd-noise", "i3d", (), (10.138085,), 0.01, "fvd-comparison", _fvd_noise),
    Anchor(
        "fvd-constant", "i3d", (), (151.256,), 1.0,
        "common_metrics_on_video_quality", _fvd_constant,
    ),
    Anchor(
        "inception-picture", "inception",
        ("elefant.jpg", "elefant_inception_output.npy"), (0.0,), 1e-5,
        "jax-fid", _inception_picture,
    ),
    Anchor(
        "fid-adm", "inception", (ADM_REAL, "admnet_imagenet256.npz"), (10.94,), 0.15,
        "guided-diffusion", _fid_adm("admnet_imagenet256.npz"),
    ),
    Anchor(
        "fid-adm-guided", "inception", (ADM_REAL, "admnet_guided_imagenet256.npz"),
        (4.59,), 0.1, "guided-diffusion", _fid_adm("admnet_guided_imagenet256.npz"),
    ),
    Anchor(
        "is-cifar10", "inception", CIFAR_TRAIN, (11.23678,), 0.03, "torch-fidelity",
        _is_cifar,
    ),
    Anchor(
        "clip-fid-cifar10", "clip", (CIFAR_TRAIN[0], f"{CIFAR}/test_batch.bin"),
        (0.492375,), 1e-3, "torch-fidelity", _clip_fid_cifar,
    ),
    Anchor(
        "clip-diagram", "clip", ("CLIP.png",), (0.9927937, 0.00421068, 0.00299572),
        2e-3, "openai/CLIP", _clip_diagram,
    ),
    Anchor(
        "c3d-ucf101", "c3d", ("UCF-101", "testlist01.txt", "classInd.txt"), (80.19,),
        3.0, "the guide of C3D", _c3d_accuracy,
    ),
)  # fmt: skip
"""The numbers, where they come from, and how near ours have to be."""

if __name__ == "__main__":
    main()
