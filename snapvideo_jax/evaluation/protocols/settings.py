"""The protocols, each a frozen dataclass with every setting that changes a value.

The paper leaves much open: which real clips, which frames, the guidance of its tables.
Such fields are choices of this project [C]; results record all of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from snapvideo_jax.diffusion.solvers import SOLVERS
from snapvideo_jax.io.messages import did_you_mean

GUIDANCES = (
    *(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0),
    *(6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0),
)
"""Weights ``g`` of Fig. 5. [P] App. C.1."""
STEPS = (16, 32, 64, 128, 256, 512, 1024)
"""Noise levels of Fig. 6. [P] App. C.1."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One set of clips of a protocol.

    Attributes:
      name: of its folder.
      guidance: weight ``g``; other papers' weight is 1 + g.
      steps, solver: of the sampler.
    """

    name: str
    guidance: float
    steps: int
    solver: str


@dataclasses.dataclass(frozen=True)
class Protocol:
    """An evaluation of the paper.

    Attributes:
      name: of the protocol.
      paper: its table or figure.
      prompts: their source: "captions" of the real clips, "ucf101" or "msr-vtt".
      num_samples: clips of each point.
      metrics: that are computed.
      once: metrics that are the same for every view in the paper's table; they are
        computed for the first view.
      views: of the clips, "native" or "square".
      frames: of a clip.
      fps: frame rate that clips are conditioned on and real clips are read at.
      resolution: height and width of the original that clips are conditioned on; (0, 0)
        is that of the run's sheets.
      guidances, step_counts, solvers: every combination is a point.
      position: of the frames of real clips.
      image_frames: of a clip for FID and CLIP-FID.
      match_size: real clips are resized to the size of the generated ones.
      targets: the paper's values by view; empty for sweeps.
    """

    name: str
    paper: str
    prompts: str
    num_samples: int
    metrics: tuple[str, ...]
    once: tuple[str, ...] = ()
    views: tuple[str, ...] = ("native",)
    frames: int = 16
    fps: float = 24.0
    resolution: tuple[int, int] = (0, 0)
    guidances: tuple[float, ...] = (0.0,)
    step_counts: tuple[int, ...] = (256,)
    solvers: tuple[str, ...] = ("heun",)
    position: str = "center"
    image_frames: str = "all"
    match_size: bool = False
    targets: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def is_sweep(self) -> bool:
        return len(self.guidances) * len(self.step_counts) * len(self.solvers) > 1

    def points(self) -> tuple[Point, ...]:
        """All points, in the order of the curves."""
        return tuple(
            Point(_named(self, guidance, steps, solver), guidance, steps, solver)
            for solver in self.solvers
            for steps in self.step_counts
            for guidance in self.guidances
        )

    def metrics_of(self, view: str) -> tuple[str, ...]:
        """The metrics that are computed for a view."""
        is_first = view == self.views[0]
        return tuple(m for m in self.metrics if is_first or m not in self.once)

    def described(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def _named(protocol: Protocol, guidance: float, steps: int, solver: str) -> str:
    """A point's folder, named by what varies; "samples" if nothing does."""
    parts = []
    if len(protocol.solvers) > 1:
        parts.append(solver)
    if len(protocol.step_counts) > 1:
        parts.append(f"steps-{steps}")
    if len(protocol.guidances) > 1:
        parts.append(f"guidance-{guidance:g}")
    return "-".join(parts) or "samples"


ON_OWN_DATA = dict(
    prompts="captions", metrics=("fid", "fvd", "clipsim"), match_size=True
)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # [P] Sec. 4.2, Tab. 2 and 3. Without guidance [C]: Fig. 5's g = 0 scores as
        # Tab. 2 does.
        Protocol("internal", "Tab. 2 and 3", num_samples=50_000, **ON_OWN_DATA),
        # [P] Tab. 4, App. C.6. The token asks for UCF's own size [C], guidance is [C].
        Protocol(
            "ucf101",
            "Tab. 4",
            prompts="ucf101",
            num_samples=10_000,
            metrics=("fvd", "fid", "is"),
            once=("is",),
            views=("native", "square"),
            resolution=(240, 320),
            guidances=(4.0,),
            targets={
                "native": {"fvd": 200.2, "fid": 28.1, "is": 38.89},
                "square": {"fvd": 260.1, "fid": 39.0, "is": 38.89},
            },
        ),
        # [P] Tab. 5; guidance is [C].
        Protocol(
            "msrvtt",
            "Tab. 5",
            prompts="msr-vtt",
            num_samples=59_800,
            metrics=("clip_fid", "fvd", "clipsim"),
            once=("clipsim",),
            views=("native", "square"),
            guidances=(4.0,),
            targets={
                "native": {"clip_fid": 9.35, "fvd": 104.0, "clipsim": 0.2793},
                "square": {"clip_fid": 8.48, "fvd": 110.4, "clipsim": 0.2793},
            },
        ),
        Protocol(
            "cfg_sweep",
            "Fig. 5",
            num_samples=10_000,
            guidances=GUIDANCES,
            step_counts=(40,),
            **ON_OWN_DATA | {"metrics": ("fvd", "clipsim")},
        ),
        # The paper does not name the samplers of Fig. 6; all of `SOLVERS` [C].
        Protocol(
            "step_sweep",
            "Fig. 6",
            num_samples=10_000,
            step_counts=STEPS,
            solvers=tuple(SOLVERS),
            **ON_OWN_DATA | {"metrics": ("fvd",)},
        ),
    )
}


def protocol_of(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
      ValueError: the name is unknown; suggests the closest one.
    """
    if name not in PROTOCOLS:
        raise ValueError(
            f"There is no protocol {name!r}; {did_you_mean(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def select_points(
    protocol: Protocol, names: tuple[str, ...] | None
) -> tuple[Point, ...]:
    """The points of these names; None is all.

    Raises:
      ValueError: a name is unknown; suggests the closest one.
    """
    points = {point.name: point for point in protocol.points()}
    for name in names or ():
        if name not in points:
            hint = did_you_mean(name, points)
            raise ValueError(f"--only={name} is not a point of {protocol.name}; {hint}")
    return tuple(points[name] for name in names or points)
