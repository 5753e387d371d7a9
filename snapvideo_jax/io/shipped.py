"""Configs and compiled plans that are installed with the package.

They are in ``configs`` and ``docs/plans`` of a checkout; an installed package has
copies.
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parent


def _installed_or(installed: Path, in_checkout: Path) -> Path:
    return installed if installed.is_dir() else in_checkout


CONFIGS = _installed_or(PACKAGE / "configs", CHECKOUT / "configs")
PLANS = _installed_or(PACKAGE / "planning" / "golden", CHECKOUT / "docs" / "plans")


def names() -> list[str]:
    """Names of the configs."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def find(file: Path) -> Path:
    """The config that ``file`` names, for example "demo"; an existing file is itself.

    configs/demo.py names it as well, so that commands for a checkout work anywhere.
    """
    by_name = file.parent in (Path(), Path("configs")) and file.suffix in ("", ".py")
    found = CONFIGS / f"{file.stem}.py"
    return found if by_name and not file.is_file() and found.is_file() else file
