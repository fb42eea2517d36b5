"""What `make package` does with an installed noterec, far from its repository: a small road, and the service with its pages."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import noterec


def main() -> None:
    """Run; any failure is an exception."""
    where = Path(noterec.__file__)
    if "site-packages" not in where.parts:
        raise SystemExit(f"{where}: not an installed package")
    with tempfile.TemporaryDirectory() as folder:
        config = noterec.TrainConfig(steps=6, batch_notes=32, valid_every=3, device="cpu", seed=0)
        made = noterec.demo(Path(folder, "demo"), notes=300, users=200, config=config, write=print)
        if not 0 <= made.recall <= made.best_possible <= 1:
            raise SystemExit(f"the demo's recall can't be: {made}")
        _serve(Path(folder, "demo"))


def _serve(demo: Path) -> None:
    """Ask the service for what it needs its packed files for."""
    command = [
        str(Path(sys.executable).with_name("noterec")),
        "serve",
        str(demo / "index"),
        "--model",
        str(demo / "model"),
    ]
    command += ["--notes", str(demo / "platform"), "--report", str(demo / "report"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            for path in ("/readyz", "/", "/explorer/static/explorer.js", "/metrics", "/v1/similar?note_id=n000001&k=3"):
                with urllib.request.urlopen(url + path, timeout=60) as answer:
                    body = answer.read()
                print(f"{path}: {answer.status}, {len(body):,} bytes")
                if not body:
                    raise SystemExit(f"{path}: an empty answer")
        finally:
            server.terminate()
            server.communicate(timeout=60)  # its last lines have somebody to read them
    if server.returncode != 0:
        raise SystemExit(f"noterec serve ended with {server.returncode}")


if __name__ == "__main__":
    main()
