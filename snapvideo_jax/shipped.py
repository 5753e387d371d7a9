"""The configs that come with this, by their names.

They lie in the folder ``configs`` of a checkout, and an installed package has a copy.
"""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"


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
