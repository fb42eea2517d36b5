"""Temporary files: what was written comes back, and nothing stays behind, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from noterec.engagement.counting.spill import Spill
from noterec.errors import InputError


def test_arrays_come_back_as_they_were():
    arrays = [np.arange(5), np.zeros(0, np.int32), np.array([1.5, -0.0]), np.arange(3, dtype=np.uint8)[::-1]]
    with Spill() as spill:
        places = [spill.write(array) for array in arrays]
        for place, array in reversed(list(zip(places, arrays, strict=True))):
            again = spill.read(place)
            assert again.dtype == array.dtype
            np.testing.assert_array_equal(again, array)
        assert spill.bytes == sum(array.nbytes for array in arrays)


def test_records_come_back_as_they_were():
    record = np.zeros(3, np.dtype([("a", "<u8"), ("b", "u1")]))
    record["a"], record["b"] = [1, 2, 3], [4, 5, 6]
    with Spill() as spill:
        spill.write(record[:1])
        where = spill.write(record)
        np.testing.assert_array_equal(spill.read(where), record)
        np.testing.assert_array_equal(spill.read(where.slice(1, 3)), record[1:])
        assert len(spill.read(where.slice(2, 2))) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_with_the_folder_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Path("/dev/full").open("wb", buffering=0) as full, Spill() as spill:
        spill._file.close()
        spill._file = full
        with pytest.raises(InputError, match=rf"temporary files in {tmp_path}: No space left .* set TMPDIR"):
            spill.write(np.zeros(1000))


def test_a_killed_process_leaves_nothing_behind(tmp_path):
    """Killed while its temporary file holds a megabyte."""
    code = (
        "import numpy, time; from noterec.engagement.counting.spill import Spill\n"
        "spill = Spill(); spill.write(numpy.zeros(1 << 17)); print('written', flush=True); time.sleep(60)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.iterdir()) == []
