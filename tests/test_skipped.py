"""Lists of unusable files: of one process, of its workers, and of all processes."""

import json
import pickle

from snapvideo_jax.data import Skipped, UnusableClip
from snapvideo_jax.data.unusable import list_path, merge_lists


def test_a_list_shared_by_processes_names_a_file_once(tmp_path):
    log = Skipped(tmp_path / "skipped.jsonl", 0.5)
    copy = pickle.loads(pickle.dumps(log))
    for each in (log, copy, log):
        each.add("video", "a.mp4", UnusableClip("empty file"), total=10)
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 1
    assert log.count("video") == copy.count("video") == 1
    assert log.count("image") == 0


def test_the_lists_of_all_processes_become_one(tmp_path):
    for process, names in enumerate(["ab", "bc", "cd"]):
        skipped = Skipped(list_path(tmp_path, process), 0.5)
        for name in names:
            skipped.add("video", name, UnusableClip("empty file"), total=10)
    with list_path(tmp_path, 2).open("a") as half_written:
        half_written.write('{"file": "e", ')
    for delete_parts in (False, False, True):
        merge_lists(tmp_path, delete_parts)
        lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
        assert [json.loads(line)["file"] for line in lines] == list("abcd")
        left = [list_path(tmp_path, process).exists() for process in (1, 2)]
        assert left == [not delete_parts] * 2
