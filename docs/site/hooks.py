"""MkDocs hooks: pages that are made from the code when the site is built, and never fall behind.

The reference of all keys, of all options and of all metrics; a page for each algorithm, with its
configuration and its source; and, for each file of the repository that a page links to, a page that
shows it. Nothing of it is written to `docs/`.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import algorithm_pages  # noqa: E402
import reference_pages  # noqa: E402

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".jsonl": "json", ".js": "js"}


def on_config(config):
    """Add the pages of the algorithms to the navigation, and under "More" those that it forgets."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    forgotten = sorted(f.name for f in Path(config.docs_dir).glob("*.md") if f.name not in named)
    if forgotten:
        config.nav.append({"More": forgotten})
    for section in config.nav:
        if pages := section.get("Algorithms"):
            words = algorithm_pages.words(ROOT)
            pages += [{word: f"algorithms/{word}.md"} for word in words]
    return config


def on_files(files, config):
    """Add the generated pages, and those of the files that any page links to."""
    pages = reference_pages.pages(ROOT) | algorithm_pages.pages(ROOT)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for target in sorted({t for name, text in texts.items() for t in linked_files(name, text)}):
        files.append(File.generated(config, page_of(target), content=source_page(target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links to files of the repository lead to their pages."""

    def replaced(match: re.Match[str]) -> str:
        target = repository_path(page.file.src_uri, match[2])
        if target is None:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return match[1] + posixpath.relpath(page_of(target), here or ".") + match[4]

    return LINK.sub(replaced, markdown)


def linked_files(name: str, text: str) -> set[str]:
    """Return the files of the repository, outside of docs/, that a page links to."""
    found = (repository_path(name, match[2]) for match in LINK.finditer(text))
    return {target for target in found if target}


def repository_path(page: str, link: str) -> str | None:
    """Return the file of the repository that a link of a page leads to; None: it is elsewhere."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    if "://" in link or path.startswith(("docs/", "..")) or not (ROOT / path).exists():
        return None
    return path


def page_of(path: str) -> str:
    return "index.md" if path == "README.md" else f"source/{path}.md"


def source_page(path: str) -> str:
    """Return a page that shows a file, or lists a folder."""
    place = ROOT / path
    if place.is_dir():
        names = sorted(f.name for f in place.iterdir() if f.is_file())
        return f"# `{path}`\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    language = LANGUAGES.get(place.suffix, "text")
    text = place.read_text(encoding="utf8").rstrip()
    fence = "`" * max(4, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"# `{path}`\n\n{fence}{language}\n{text}\n{fence}\n"
