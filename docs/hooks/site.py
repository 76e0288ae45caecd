"""What the site takes from elsewhere while it is built: results of the experiments, the project's papers, --help.

Nothing of it is copied into docs/: a new experiment, or a new flag, is on the site with the next build.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "experiments/results"
PAPERS = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PICTURES = {".png", ".svg", ".jpg", ".gif"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
HELP = re.compile(r"<!-- help: (.+) -->")
# What the header of a result says about machine, versions, seeds and runs.
CAME_ABOUT = re.compile(r"(?m)^- date: .+\n(?:(?:- | ).+\n)*")
# The row below a table's head. A table of so many characters there has the whole width of the page.
COLUMNS = re.compile(r"(?m)^\|(?: ?:?-+:? ?\|)+$")
WIDE = 50
# Wide enough for tyro's two columns, narrow enough for a page.
HELP_COLUMNS = "96"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the experiments' pages under Results, in the order of their folders' names."""
    for entry in config.nav or []:
        if "Results" in entry:
            entry["Results"] = [*entry["Results"], *_results_nav()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside docs/."""
    for source, uri in _published().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what a page asks for, and mend the links of pages that were written for another place."""
    sources = {uri: source for source, uri in _published().items()}
    source = sources.get(page.file.src_uri)
    if source is not None and source.startswith(RESULTS):
        if max(map(len, COLUMNS.findall(markdown)), default=0) > WIDE:
            page.meta["hide"] = ["toc"]
        markdown = _with_pictures(CAME_ABOUT.sub(_folded, markdown), source)
    if source is not None:
        return _moved(markdown, source, page.file.src_uri)
    markdown = markdown.replace("<!-- experiments -->", "\n".join(_cards()))
    return HELP.sub(lambda match: f"```text\n{_help_of(match[1].split())}\n```", markdown)


def _published() -> dict[str, str]:
    """Map files of the repository to where they are on the site: pages, pictures, and files that a page links to."""
    pages = _pages(ROOT / RESULTS)
    others = [path.relative_to(ROOT).as_posix() for path in (ROOT / RESULTS).rglob("*") if path.suffix in PICTURES]
    for page in pages:
        links = (_target(page, match[3]) for match in LINK.finditer(_text(page)))
        others += [link for link in links if link.startswith(RESULTS + "/") and (ROOT / link).is_file()]
    taken = {source: "results" + source.removeprefix(RESULTS) for source in (*pages, *others)}
    pictures = (path.relative_to(ROOT).as_posix() for path in (ROOT / "assets").iterdir() if path.suffix in PICTURES)
    return taken | PAPERS | {source: source for source in pictures}


def _pages(folder: Path) -> list[str]:
    """Return the pages below a folder: what begins with a title. Other Markdown is a part of one."""
    found = (path.relative_to(ROOT).as_posix() for path in sorted(folder.rglob("*.md")))
    return [source for source in found if _text(source).startswith("# ")]


def _target(source: str, link: str) -> str:
    """Return the path in the repository that a link in ``source`` leads to."""
    return os.path.normpath(PurePosixPath(source).parent / link.partition("#")[0])


def _moved(markdown: str, source: str, uri: str) -> str:
    """Let the links of a page lead to the same things from its place on the site; name those that are not there."""
    published = _published()

    def mended(match: re.Match[str]) -> str:
        picture, text, link = match.groups()
        if "://" in link or link.startswith("#"):
            return match[0]
        target = _target(source, link)
        if target in published:
            anchor = link.partition("#")[1] + link.partition("#")[2]
            return f"{picture}[{text}]({os.path.relpath(published[target], PurePosixPath(uri).parent)}{anchor})"
        if target.startswith("docs/"):
            return f"{picture}[{text}]({os.path.relpath(target[len('docs/') :], PurePosixPath(uri).parent)})"
        return f"`{target}`" if text.strip("`") in (link, target) else f"{text} (`{target}`)"

    return LINK.sub(mended, _lists_apart(markdown))


def _folded(facts: re.Match[str]) -> str:
    """Return the header of a result as a box to be opened."""
    return '??? note "How these numbers came about"\n\n' + textwrap.indent(facts[0], "    ") + "\n"


def _with_pictures(markdown: str, source: str) -> str:
    """Show the pictures of an experiment that no page of it shows, on its main page above the first table."""
    folder = (ROOT / source).parent
    shown = {_target(page, link[3]) for page in _beside(source) for link in LINK.finditer(_text(page)) if link[1]}
    pictures = [path for path in sorted(folder.iterdir()) if path.suffix in PICTURES]
    missing = [path for path in pictures if path.relative_to(ROOT).as_posix() not in shown]
    if not missing or source != _beside(source)[0]:
        return markdown
    # The picture named like the page says most.
    missing.sort(key=lambda path: path.stem != PurePosixPath(source).stem)
    drawn = "".join(f"![{path.stem.replace('_', ' ')}]({path.name})\n\n" for path in missing)
    first = re.search(r"(?m)^(?:## |\|)", markdown)
    place = first.start() if first else len(markdown)
    return f"{markdown[:place]}{drawn}{markdown[place:]}"


def _beside(source: str) -> list[str]:
    """Return the pages in the folder of a page, the main one first: it has the experiment's name."""
    folder = PurePosixPath(source).parent
    names = {PurePosixPath(source).relative_to(RESULTS).parts[0], folder.name}
    pages = [page for page in _pages(ROOT / folder) if PurePosixPath(page).parent == folder]
    return sorted(pages, key=lambda page: (PurePosixPath(page).stem not in names, page))


def _lists_apart(markdown: str) -> str:
    """Put an empty line before a list that follows a paragraph at once: Python-Markdown needs it, GitHub does not."""
    return re.sub(r"(?m)^(?![-*|#>\s]|\d+\. |```)(.+)\n(?=(?:[-*]|1\.) )", r"\1\n\n", markdown)


def _experiments() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each experiment and its pages, the main one first."""
    for folder in sorted(path for path in (ROOT / RESULTS).iterdir() if path.is_dir()):
        pages = _pages(folder)
        pages.sort(key=lambda page, main=f"{RESULTS}/{folder.name}/{folder.name}.md": (page != main, page))
        if pages:
            yield folder.name, pages


def _results_nav() -> list[Any]:
    published = _published()
    return [
        published[pages[0]]
        if len(pages) == 1
        else {_title(pages[0]): [{_title(page): published[page]} for page in pages]}
        for _, pages in _experiments()
    ]


def _cards() -> Iterator[str]:
    """Yield the experiments as Markdown: title, question, first picture."""
    for _, pages in _experiments():
        text, uri = _text(pages[0]), _published()[pages[0]].removeprefix("results/")
        paragraphs = [part for part in re.split(r"\n\s*\n", text) if not part.startswith(("#", "-", "|", "!", "<"))]
        shown = [link[3] for link in LINK.finditer(text) if link[1]]
        own = PurePosixPath(pages[0]).stem
        drawn = [path for path in sorted((ROOT / pages[0]).parent.iterdir()) if path.suffix in PICTURES]
        drawn = [path.name for path in sorted(drawn, key=lambda path, own=own: path.stem != own)]
        picture = next(iter([*shown, *drawn]), None)
        yield f"## [{_title(pages[0])}]({uri})\n"
        yield f"{paragraphs[0].strip()}\n" if paragraphs else ""
        yield f"[![{_title(pages[0])}]({PurePosixPath(uri).parent / picture})]({uri})\n" if picture else ""
        further = ", ".join(f"[{_title(page)}]({_published()[page].removeprefix('results/')})" for page in pages[1:])
        yield f"More: {further}.\n" if further else ""


def _text(source: str) -> str:
    return (ROOT / source).read_text(encoding="utf-8")


def _title(source: str) -> str:
    """Return a page's heading, with the folder below the experiment's that it lies in."""
    title = _text(source).splitlines()[0].removeprefix("# ").replace("`", "")
    below = PurePosixPath(source).relative_to(RESULTS).parts[1:-1]
    return f"{title} ({', '.join(below)})" if below else title


def _help_of(words: list[str]) -> str:
    """Return what a command prints for ``--help``."""
    from lrfind import cli as lrfind_cli
    from onecycle import cli as onecycle_cli

    main = {"lrfind": lrfind_cli.main, "onecycle": onecycle_cli.main}[words[0]]
    said = io.StringIO()
    plain = {"COLUMNS": HELP_COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*words[1:], "--help"])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).strip().splitlines()
    return "\n".join(
        textwrap.fill(line, int(HELP_COLUMNS)) if len(line) > int(HELP_COLUMNS) else line for line in lines
    )
