"""Speed of our FIT compared with the same FIT in plain PyTorch, on this CPU.

    pip install -e '.[parity]'
    python benchmarks/torch_parity.py

FIT 500M with its widths divided by 8 and all of its tokens, in float32. The weights are
equal, so outputs have to agree before anything is timed. Then both run a whole training
step (noise, the first pass of self-conditioning on 9 of 10 samples, loss, gradients,
clipping, AdamW, EMA) and the forward pass alone, alternately, in one process and on all
cores: PyTorch's operators use one thread per core, and our batch is sharded over a mesh
with one device per core, since XLA runs much of a program in one thread per device.
Freed memory stays in the process for both, as in our training. There are fewer heads,
as wide as in FIT 500M: with heads of 6 channels the softmax would dominate.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# By default PyTorch's threads keep the cores busy while JAX runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from snapvideo_jax.parallel import host_memory  # noqa: E402

host_memory.retain_freed_pages()  # before any thread starts

import flax.linen as nn  # noqa: E402  (reads the environment above)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402
from torch_fit import TorchFIT, load  # noqa: E402

from snapvideo_jax import config as configs  # noqa: E402
from snapvideo_jax.diffusion import EDM  # noqa: E402
from snapvideo_jax.models.flops import (  # noqa: E402
    flops_forward,
    flops_per_sample,
)
from snapvideo_jax.optim import Optimizer  # noqa: E402
from snapvideo_jax.parallel.sharding import make_mesh  # noqa: E402
from snapvideo_jax.planning.bench import (  # noqa: E402
    PROGRAMS,
    Times,
    interleaved,
    synthetic_batch,
)
from snapvideo_jax.state import abstract_state  # noqa: E402
from snapvideo_jax.types import context_of  # noqa: E402

CONFIGS = Path(__file__).parent.parent / "configs"
TOLERANCE = 1e-4
"""Largest difference of outputs of about 1 that is accepted."""
PERIOD = 10
"""Samples of a period, of which 9 are self-conditioned, and of the batch."""


def narrow_config(divisor: int = 8, **model) -> ConfigDict:
    """FIT 500M with widths divided by ``divisor``, in float32.

    Args:
      divisor: 1 to 16; widths stay multiples of a head's.
      model: fields of the model that differ.
    """
    config = configs.load(f"{CONFIGS}/fit.py:size=500m", [])
    heads = 16 // divisor
    config.model.update(
        patch_width=48 * heads,
        latent_width=64 * heads,
        context_width=48 * heads,
        dtype="float32",
        remat="none",
        unroll=config.model.blocks,
        **model,
    )
    config.optimizer = configs.section(Optimizer, name="adam", warmup_steps=10)
    config.training.self_conditioning_period = PERIOD
    config.data.update(videos_per_batch=PERIOD, images_per_batch=0)
    config.text.width = 1024 // divisor
    return config


class TorchTraining:
    """The training step of an experiment in PyTorch.

    Args:
      experiment: gives diffusion, optimizer and shares.
      network: the network to train.
      batch: a `types.Batch`.
    """

    def __init__(self, experiment: configs.Experiment, network: TorchFIT, batch):
        self.experiment, self.network = experiment, network
        self.batch = {name: torch.from_numpy(value) for name, value in batch.items()}
        optimizer = experiment.optimizer
        named = dict(network.named_parameters())
        matrices = {n for n, p in named.items() if n.endswith("weight") and p.ndim == 2}
        self.parameters = list(named.values())
        self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [named[n] for n in sorted(matrices)]},
                {
                    "params": [p for n, p in named.items() if n not in matrices],
                    "weight_decay": 0.0,
                },
            ],
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def context(self, share: float):
        """Context of the batch, its text dropped for a share of the samples."""
        fields = ("text", "text_mask", "frame_interval", "resolution")
        context = {name: self.batch[name] for name in fields}
        context["drop_text"] = torch.rand(len(context["text"])) < share
        return context

    def noisy(self, clip, noise, sigma):
        """``c_in x_sigma``, at noise levels of the shape ``b 1 1 1 1``."""
        edm = self.experiment.diffusion
        scale = (edm.sigma_data**2 / edm.sigma_in**2 + sigma**2) ** -0.5
        return scale * (clip / edm.sigma_in + sigma * noise)

    def step(self):
        """One update, in the order of ours; returns the loss."""
        edm, training = self.experiment.diffusion, self.experiment.training
        network, chosen = self.network, training.self_conditioned
        clip = self.batch["video"].float() / 127.5 - 1
        noise, count = torch.randn_like(clip), len(clip)
        sigma = (edm.p_mean + edm.p_std * torch.randn(count)).exp()
        context = self.context(training.label_dropout)
        noisy = self.noisy(clip, noise, sigma[:, None, None, None, None])
        c_noise = sigma.log() / 4

        previous, known = nothing(network.model, count)
        with torch.no_grad():
            network.eval()
            first = {name: value[:chosen] for name, value in context.items()}
            _, previous[:chosen] = network(
                noisy[:chosen], c_noise[:chosen], first, *nothing(network.model, chosen)
            )
            known[:chosen] = True
        network.train()
        output, _ = network(noisy, c_noise, context, previous, known)
        loss = losses(edm, output, clip, noise, sigma).mean()
        self.optimizer.zero_grad()
        loss.backward()
        clip_norm = self.experiment.optimizer.clip_norm
        torch.nn.utils.clip_grad_norm_(self.parameters, clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1e-4)
        return loss.detach()

    @torch.no_grad()
    def forward(self):
        """The forward pass alone."""
        self.network.eval()
        clip = self.batch["video"].float() / 127.5 - 1
        count = len(clip)
        previous = nothing(self.network.model, count)
        return self.network(clip, torch.zeros(count), self.context(0.0), *previous)


def losses(edm: EDM, output, clip, noise, sigma):
    """``w |F - c_nrm F_tgt|^2``, the loss of every sample (Sec. 3.2, App. E)."""
    level, data = sigma[:, None, None, None, None], edm.sigma_data**2
    target = (data * noise - level * clip) / (data * (level**2 + data)) ** 0.5
    ratio = (sigma**2 + data) / (sigma**2 + data / edm.sigma_in)
    return ratio**2 * (output - target).square().mean((1, 2, 3, 4))


def nothing(model, count: int):
    """The latents of a first call: none."""
    return (
        torch.zeros(count, model.latents, model.latent_width),
        torch.zeros(count, dtype=torch.bool),
    )


def random_parameters(experiment: configs.Experiment):
    """Nonzero parameters; at init a FIT's output is zero for any input."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            return noise / leaf.shape[-2] ** 0.5
        return 0.3 * noise + (path[-1].key == "scale")

    shapes = nn.unbox(abstract_state(experiment).params)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def difference(experiment: configs.Experiment, batch, count: int = 2) -> float:
    """Largest difference of outputs and latents of both, from equal weights."""
    model, params = experiment.model, random_parameters(experiment)
    network = TorchFIT(model, experiment.text.width)
    load(network, params)
    batch = {name: np.array(value[:count]) for name, value in batch.items()}
    ours, latents = jax.jit(model.apply)(
        {"params": params},
        jnp.asarray(batch["video"]) / 127.5 - 1,
        jnp.zeros(count),
        context_of(batch, jnp.zeros(count, bool)),
        model.no_latents(count),
    )
    theirs, their_latents = TorchTraining(experiment, network, batch).forward()
    pairs = ((ours, theirs), (latents.value, their_latents))
    return max(float(np.abs(np.asarray(a) - b.numpy()).max()) for a, b in pairs)


def measure(experiment: configs.Experiment, repeats: int) -> dict[str, dict]:
    """Times of the training step and of the forward pass, "jax" and "torch"."""
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    batch = jax.tree.map(np.array, synthetic_batch(experiment, mesh))
    network = TorchFIT(experiment.model, experiment.text.width)
    theirs = TorchTraining(experiment, network, batch)
    found = {}
    for name, call in (("forward pass", "forward"), ("train step", "step")):
        ours = PROGRAMS[name](experiment, mesh).call
        calls = {"jax": ours, "torch": getattr(theirs, call)}
        found[name] = interleaved(calls, repeats, warm_up=1, before=1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--divisor", type=int, default=8, help="of widths: 8")
    parser.add_argument("--repeats", type=int, default=7, help="counted turns: 7")
    threads = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--devices", type=int, default=threads, help="of the mesh: one for each core"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(threads)
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    experiment = configs.build(narrow_config(arguments.divisor))
    mesh = make_mesh(experiment.mesh, experiment.data.batch)
    apart = difference(experiment, synthetic_batch(experiment, mesh))
    print(
        f"jax {jax.__version__} on {mesh.size} devices, torch {torch.__version__}, "
        f"{threads} threads"
    )
    print(f"outputs of equal weights differ by {apart:.1e} at most")
    if apart > TOLERANCE:
        sys.exit(f"The two networks are not the same: wanted {TOLERANCE:g} at most.")
    flops = {
        "train step": experiment.data.batch * flops_per_sample(experiment),
        "forward pass": experiment.data.batch * flops_forward(experiment),
    }
    for name, times in measure(experiment, arguments.repeats).items():
        print_times(name, flops[name], times["jax"], times["torch"])


def print_times(name: str, flops: float, ours: Times, theirs: Times) -> None:
    """Times and rates of both, and how much faster ours is, run by run."""
    print(f"{name}, {flops / 1e9:.4g} GFLOP of the model")
    for kind, times in (("jax", ours), ("torch", theirs)):
        low, high = times.quartiles()
        print(
            f"  {kind:<6}{times.median:7.3f} s ({low:.3f} to {high:.3f}), "
            f"{flops / times.median / 1e9:.1f} GFLOP/s, "
            f"{statistics.median(times.processor_seconds):.3f} processor seconds"
        )
    columns = ("seconds", "processor_seconds")
    pairs = [(getattr(theirs, c), getattr(ours, c)) for c in columns]
    by_clock, by_processor = (
        statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in pairs
    )
    print(
        f"  torch / jax: {by_clock:.2f} by the clock, {by_processor:.2f} by processor"
    )


if __name__ == "__main__":
    main()
