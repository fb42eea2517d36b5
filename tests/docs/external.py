"""Ask every web address that README.md and the pages name whether it answers; needs the network, so no test calls it.

python -m tests.docs.external
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from tests.docs import blocks

LIMIT_S = 20.0
_ADDRESS = re.compile(r"https?://[^\s)>\"'`\]]+")
_HERE = re.compile(r"https?://(127\.0\.0\.1|localhost|notes\.example)\b")


def addresses() -> dict[str, list[str]]:
    """Each address outside of fenced blocks, with the pages that name it."""
    found: dict[str, list[str]] = {}
    for page in [*blocks.pages(), blocks.REPOSITORY / "CHANGELOG.md"]:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for address in _ADDRESS.findall(text):
            if not _HERE.match(address):
                found.setdefault(address.rstrip(".,;"), []).append(blocks.name(page))
    return found


def problem(address: str) -> str:
    """Why an address doesn't answer, or ""."""
    request = urllib.request.Request(address, headers={"User-Agent": "link check of the noterec docs"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S):
            return ""
    except (urllib.error.URLError, OSError) as error:
        return str(error)


def main() -> int:
    """Print what doesn't answer; how many don't, at most 100."""
    found = addresses()
    with ThreadPoolExecutor(max_workers=8) as pool:
        problems = dict(zip(found, pool.map(problem, found), strict=True))
    dead = {address: said for address, said in problems.items() if said}
    for address, said in dead.items():
        sys.stdout.write(f"{address}: {said} ({', '.join(dict.fromkeys(found[address]))})\n")
    sys.stdout.write(f"{len(found)} addresses, {len(dead)} don't answer\n")
    return min(len(dead), 100)


if __name__ == "__main__":
    sys.exit(main())
