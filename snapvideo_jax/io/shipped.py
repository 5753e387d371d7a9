"""What comes with this from beside the package: configs, by their names, and plans.

They lie in ``configs`` and ``docs/plans`` of a checkout, and an installed package has
copies.
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parent
"""Where a checkout would be."""


def _installed_or(installed: Path, beside: Path) -> Path:
    return installed if installed.is_dir() else beside


FOLDER = _installed_or(PACKAGE / "configs", CHECKOUT / "configs")
PLANS = _installed_or(PACKAGE / "planning" / "golden", CHECKOUT / "docs" / "plans")


def names() -> list[str]:
    """Of all of them."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def find(file: Path) -> Path:
    """The config that is meant where there is no such file, as by demo; else the file.

    configs/demo.py means the same, so that commands for a checkout work anywhere.
    """
    by_name = file.parent in (Path(), Path("configs")) and file.suffix in ("", ".py")
    found = FOLDER / f"{file.stem}.py"
    return found if by_name and not file.is_file() and found.is_file() else file
