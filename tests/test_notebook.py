"""The notebook runs and shows its GIFs, and is committed without outputs."""

import asyncio
import json
import os
import pathlib
import re
import warnings

import pytest
import xla_flags
from processes import PACKAGE, PATIENCE_SECONDS

NOTEBOOK = pathlib.Path(__file__).parent.parent / "examples" / "quickstart.ipynb"
QUICK = {"STEPS": 4, "VIDEOS, IMAGES": (64, 16), "SAMPLER_STEPS": 2}


def test_outputs_are_not_committed():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] for cell in code)
    assert {cell["execution_count"] for cell in code} == {None}


def shortened(source):
    """The cell of parameters, for a run of seconds."""
    for name, value in QUICK.items():
        source, count = re.subn(
            rf"^{name} = [^#\n]*", f"{name} = {value}", source, flags=re.MULTILINE
        )
        assert count == 1, f"{name} is not set in the cell of parameters"
    return source


@pytest.mark.slow
def test_it_runs_and_shows_clips_and_trajectories(tmp_path, monkeypatch):
    reason = "needs pip install -e '.[notebook]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    import nbformat

    book = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell["id"]: cell for cell in book.cells}
    parameters = cells["parameters"]
    parameters["source"] = shortened(parameters["source"])
    monkeypatch.setenv("PYTHONPATH", PACKAGE, prepend=os.pathsep)
    monkeypatch.setenv("XLA_FLAGS", xla_flags.FAST_COMPILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what clients of kernels warn of is not ours
        client = nbclient.NotebookClient(book, timeout=PATIENCE_SECONDS)
        client.resources = {"metadata": {"path": str(tmp_path)}}
        asyncio.run(client.async_execute())

    def shown(name, kind):
        return [out for out in cells[name]["outputs"] if kind in out.get("data", {})]

    assert len(shown("build", "text/html")) == 3  # videos
    assert len(shown("sampling", "image/gif")) == 1
    assert len(shown("trajectory", "image/gif")) == 2
    assert "step    4  loss" in cells["losses"]["outputs"][0]["text"]
    assert (tmp_path / "runs/quickstart/samples/00003-trajectory.png").is_file()
