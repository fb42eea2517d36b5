"""What mkdocs does beside reading docs/: pages from the program and from the repository's root, links that lead out of docs/."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages of the site.
FILES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "tables.md": "data/README.md",
}
_PAGE_OF = {file: page for page, file in FILES.items()} | {"README.md": "index.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that aren't in docs/."""
    for name, make in reference.PAGES.items():
        files.append(File.generated(config, name, content=make()))
    for name, file in FILES.items():
        files.append(File.generated(config, name, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where things are on the site; what isn't there becomes its name."""
    source = FILES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = _FENCED.split(markdown)
    for at in range(0, len(parts), 2):
        parts[at] = _LINK.sub(lambda match: _moved(match, source), parts[at])
    return "".join(parts)


def _moved(match: re.Match[str], source: str) -> str:
    """A link of a file of the repository as one of the site's."""
    picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if not target or "://" in target or target.startswith("mailto:"):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path in _PAGE_OF:
        return f"{picture}[{text}]({_PAGE_OF[path]}{anchor})"
    if path.startswith("docs/"):
        return f"{picture}[{text}]({path.removeprefix('docs/')}{anchor})"
    if (ROOT / path).exists() and not picture:
        return f"`{path}{os.sep if (ROOT / path).is_dir() else ''}`"
    return match[0]  # strict mode names what leads nowhere


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a page of the site would load anything from elsewhere."""
    from mkdocs.exceptions import PluginError

    loads = re.compile(
        r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]+"
        r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\"'> ]+"
        r"|(?:url\(|@import )[\"']?(?:https?:)?//[^\"') ]+"
    )
    site = Path(config["site_dir"])
    found = [
        f"{path.relative_to(site)}: {hit[0][:120]}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css")
        for hit in loads.finditer(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("the site would load from elsewhere: " + "; ".join(found[:5]))
