"""What is in the distributions, compared with the repository: `python contents.py DIST`, of `make package`."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CITATION.cff",
    "Makefile",
}
FOLDERS = {"noterec", "tests", "data", "benchmarks", "pipelines", "docker", "docs"}


def main(dist: Path) -> None:
    """Compare; a difference ends with an exit code."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "noterec").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    _same(wheel.name, packed, package)
    if not licences:
        raise SystemExit(f"{wheel.name}: no LICENSE")

    with tarfile.open(sdist) as source:
        files = {name.split("/", 1)[1] for name in (member.name for member in source if member.isfile())}
    missing = (NEEDED | package) - files
    if missing:
        raise SystemExit(f"{sdist.name}: missing {sorted(missing)}")
    there = {name.split("/")[0] for name in files if "/" in name}
    if there - {"noterec.egg-info"} != FOLDERS:
        raise SystemExit(f"{sdist.name}: holds the folders {sorted(there)}; expected {sorted(FOLDERS)}")
    print(f"{wheel.name}: {len(packed)} files, {wheel.stat().st_size:,} bytes")
    print(f"{sdist.name}: {len(files)} files, {sdist.stat().st_size:,} bytes")


def _same(name: str, packed: set[str], expected: set[str]) -> None:
    if packed != expected:
        raise SystemExit(f"{name}: missing {sorted(expected - packed)}, too much {sorted(packed - expected)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
