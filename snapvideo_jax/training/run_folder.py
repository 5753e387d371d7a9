"""The folder of a run (``--workdir``): its paths, and where the run stands.

config.json            the resolved config
checkpoints/N/         the state after N updates
damaged/               checkpoints that were found damaged
metrics.jsonl          scalars of every logged step; tensorboard/ shows them too
summary.json           how far the run is, and where its time went
ledger/                loss and digests of every step
sheets/                sample sheets
skipped.jsonl          files that could not be used
skipped_steps.jsonl    steps that were skipped as bad
ema/N/                 snapshots of power-function averages, listed in
                       ema_snapshots.jsonl; ema_profiles/ has averages made of them
init_from.json         of a run that begins with another's weights: what was done
imported.json          of a run that begins with a bundle's weights: which bundle
logs/, compile_cache/, replay/
"""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run, as one process sees it.

    Whatever writes there takes this in place of a path, a step and a flag.

    Attributes:
      path: of the folder, which all processes of a run share.
      is_writer: whether this process writes what one process writes for all.
      first: updates that the run has done before this start of it, 0 for a new run.
        Records of later steps, left by a start that was killed, are removed. None
        leaves all records as they are.
      last: updates of the whole run; None where they do not matter.
    """

    path: Path
    is_writer: bool = True
    first: int | None = None
    last: int | None = None

    def at(self, first: int, last: int | None = None) -> "RunFolder":
        """The same folder, of a run that starts at step ``first``."""
        return dataclasses.replace(self, first=first, last=last)

    def checkpoint_steps(self) -> list[int]:
        """Steps of the committed checkpoints, in order.

        Only names are read: a checkpoint gets its name by one rename, at the end. Its
        files are verified when it is restored (`checkpoints.integrity`).
        """
        names = (path.name for path in self.checkpoints.glob("*"))
        return sorted(int(name) for name in names if name.isdigit())

    def latest_step(self) -> int | None:
        """Step of the newest committed checkpoint, None without one; not verified."""
        return max(self.checkpoint_steps(), default=None)

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def imported(self) -> Path:
        return self.path / "imported.json"

    @property
    def ema(self) -> Path:
        return self.path / "ema"

    @property
    def ema_list(self) -> Path:
        return self.path / "ema_snapshots.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"
