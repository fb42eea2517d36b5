"""What `import noterec` promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import noterec


@pytest.mark.parametrize("name", noterec.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(noterec, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = noterec.nothing


def test_importing_loads_nothing_heavy() -> None:
    program = (
        "import sys, noterec; "
        "heavy = {'torch', 'transformers', 'lightning', 'polars', 'pyarrow', 'numpy', 'faiss', 'scipy'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
