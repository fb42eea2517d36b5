"""The runner: what fails fails, what is skipped or replaced has a reason, and nothing stands in its rules for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.docs import blocks, run
from tests.docs.scratch import MAKERS

PAGE = """
```sh
echo $HERE > first && test -s first
head -n 1 absent
secret --now
cat made.txt | grep planned
```

```text title="made.txt"
as planned
```

```sh
cat made.txt
```

```python
from pathlib import Path

Path("second").write_text("2")
```

```python
raise SystemExit("no")
```
"""


def rules(folder: Path, **entries: object) -> run.Rules:
    file = folder / "running.yaml"
    file.write_text(yaml.safe_dump({"prepared": {}, "instead": [], "before": [], "skip": [], **entries}))
    return run.Rules(file)


def test_a_page_runs_in_order_and_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    folder = tmp_path / "folder"
    folder.mkdir()
    known = rules(
        tmp_path,
        instead=[{"text": "made.txt | grep", "by": "first | grep", "why": "the file comes later"}],
        before=[{"command": "cat made.txt |", "do": "echo planned > first", "why": "so"}],
        skip=[
            {"command": "secret", "why": "nobody may"},
            {"command": "absent", "page": "other.md", "why": "never met"},
        ],
    )
    environment = {"PATH": "/usr/bin:/bin", "HERE": "yes"}
    done = list(run.Page(tmp_path / "page.md", folder, environment, known).run())
    assert [(d.where, d.result) for d in done] == [
        ("page.md:3", "ok"),
        ("page.md:4", "failed"),
        ("page.md:5", "skipped"),
        ("page.md:6", "ok"),
        ("page.md:14", "ok"),
        ("page.md:18", "ok"),
        ("page.md:24", "failed"),
    ]
    assert "absent" in done[1].says
    assert done[2].says == "nobody may"
    assert (folder / "made.txt").read_text() == "as planned\n"
    assert (folder / "second").read_text() == "2"
    assert len(known.unused()) == 1 and "never met" in known.unused()[0]


def test_a_python_block_is_skipped_by_how_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text("```python\nimport cluster\n\ncluster.go()\n```\n\n```python\nimport os\n```\n")
    known = rules(tmp_path, skip=[{"command": "import cluster", "why": "needs a cluster"}])
    done = list(run.Page(tmp_path / "page.md", tmp_path, {"PATH": "/usr/bin:/bin"}, known).run())
    assert [(d.result, d.says) for d in done] == [("skipped", "needs a cluster"), ("ok", "")]
    assert known.unused() == []


def test_an_exception_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no reason"):
        rules(tmp_path, skip=[{"command": "make"}])


def test_the_rules_name_pages_and_things_that_there_are() -> None:
    known = run.Rules()
    named = {blocks.name(path) for path in blocks.pages()}
    assert set(known.prepared) <= named
    assert {thing for things in known.prepared.values() for thing in things} <= set(MAKERS)
    assert named >= blocks.RECORDS
