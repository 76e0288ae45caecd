"""docs/: the site builds without a warning, asks nothing of the network, and every Python block on it runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, get_args

import matplotlib.pyplot as plt
import pytest

import lrfind
import onecycle
from lrfind import cli as lrfind_cli
from onecycle import cli as onecycle_cli
from tests.reader import readers_own

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python(?: title=\"([^\"]*)\")?\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# What the title of a block begins with, where it shows another tool; and the module that it needs.
PEERS = {"the two tools": "torch_lr_finder", "torch-lr-finder": "torch_lr_finder", "fastai": "fastai"}
PEERS |= {"Lightning": "lightning", "Keras": "keras"}
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Scripted(NamedTuple):
    """The Python blocks of a page that belong together: ours, or those of one other tool."""

    page: Path
    tool: str | None
    blocks: list[str]


def scripts() -> list[Scripted]:
    """Return what each page lets its reader run, block after block as in a notebook."""
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        by_tool: dict[str | None, list[str]] = {}
        for title, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            tool = next((name for name in PEERS if title.startswith(name)), None)
            by_tool.setdefault(tool, []).append(code)
        found += [Scripted(page, tool, blocks) for tool, blocks in by_tool.items()]
    return found


def name_of(script: Scripted) -> str:
    return script.page.relative_to(DOCS).with_suffix("").as_posix() + (f", {script.tool}" if script.tool else "")


@pytest.mark.parametrize("script", scripts(), ids=name_of)
def test_the_python_blocks_of_a_page_run(script, tmp_path, monkeypatch):
    """From top to bottom, with the reader's own model and loaders; another tool's where it is installed."""
    if script.tool is not None and importlib.util.find_spec(PEERS[script.tool]) is None:
        pytest.skip(f"{PEERS[script.tool]} is not installed")
    monkeypatch.chdir(tmp_path)
    names = readers_own() | {"__name__": "page"}

    with warnings.catch_warnings():
        if script.tool is not None:
            warnings.simplefilter("ignore")
        for number, code in enumerate(script.blocks, 1):
            exec(compile(code, f"{name_of(script)}, Python block {number}", "exec"), names)
    plt.close("all")


def test_there_are_guides_with_code():
    """Else the test above would test nothing."""
    assert len([script for script in scripts() if script.page.parent.name == "guides"]) >= 6


def hook(name: str) -> ModuleType:
    """Return a module of docs/hooks, which no package holds."""
    pytest.importorskip("mkdocstrings_handlers", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCSTRINGS = {
    "an example is code": (">>> 1 + 1\n2", "```pycon\n>>> 1 + 1\n2\n```"),
    "so is an indented one": ("    >>> 1 + 1\n    2\n\nText.", "    ```pycon\n    >>> 1 + 1\n    2\n    ```\n\nText."),
    "public names are links": ("See ``onecycle.fit``.", "See [`onecycle.fit`][onecycle.fit]."),
    "others are not": ("See ``onecycle.loop``.", "See ``onecycle.loop``."),
    "roles are code": ("See :func:`blend`.", "See `blend`."),
    "arguments described together are told apart": (
        "    a, b: Both\n        of them.",
        "    a: Both\n        of them.\n    b: Both\n        of them.",
    ),
}


@pytest.mark.parametrize(("docstring", "markdown"), DOCSTRINGS.values(), ids=DOCSTRINGS.keys())
def test_docstrings_become_markdown(docstring, markdown):
    """What reST and doctest say is said in Markdown."""
    assert hook("docstrings").as_markdown(docstring) == markdown


MOVED = {
    "to another result": ("[all](tasks.md#design)", "[all](tasks.md#design)"),
    "to a paper of the project": ("[log](../../../CHANGELOG.md)", "[log](../../changelog.md)"),
    "to a page of the site": ("[how](../../../docs/faq.md)", "[how](../../faq.md)"),
    "to what is not on the site": ("[the code](../../regret.py)", "the code (`experiments/regret.py`)"),
    "elsewhere": ("[paper](https://arxiv.org/abs/1506.01186)", "[paper](https://arxiv.org/abs/1506.01186)"),
}


@pytest.mark.parametrize(("written", "moved"), MOVED.values(), ids=MOVED.keys())
def test_links_of_results_lead_to_the_same_from_the_site(written, moved):
    """A page is written for its place in the repository; what the site does not hold is named."""
    page = "experiments/results/regret/regret.md"

    assert hook("site")._moved(written, page, "results/regret/regret.md") == moved


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    for module in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; the extra docs has it")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-W", "error::SyntaxWarning", "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    # The variable silences advice about another site generator; warnings of the build are errors by --strict.
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_builds_without_a_warning(site):
    """Links and anchors lead somewhere, docstrings fit their signatures, every page is in the navigation."""
    assert (site / "index.html").is_file()


class Page(HTMLParser):
    """Ids, and what a browser loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag in LOADS and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given.get(LOADS[tag]) or "")


def test_a_reader_needs_no_network(site):
    """No page loads a script, a style, a font or a picture from elsewhere."""
    asked = [link for path in site.rglob("*.html") for link in Page(path).loaded if re.match(r"(https?:)?//", link)]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))

    assert asked == []
    assert not re.search(r"url\([\"']?(https?:)?//|@import", styles)


def test_every_public_name_is_in_the_reference(site):
    """Whatever ``lrfind`` and ``onecycle`` export has its place, also what is added later."""
    ids = set().union(*(Page(path).ids for path in (site / "reference").glob("*.html")))

    public = {f"{module.__name__}.{name}" for module in (lrfind, onecycle) for name in module.__all__}

    assert public - ids == set()


def test_every_result_is_on_the_site(site):
    """Each page of the experiments (what begins with a title), its pictures, and a link from the overview."""
    results = ROOT / "experiments" / "results"
    pages = [path.relative_to(results) for path in results.rglob("*.md") if path.read_text("utf-8").startswith("# ")]
    overview = (site / "results" / "index.html").read_text(encoding="utf-8")

    assert pages
    assert [page for page in pages if page.with_suffix(".html").as_posix() not in overview] == []
    assert [
        path for path in results.rglob("*.png") if not (site / "results" / path.relative_to(results)).is_file()
    ] == []


def test_every_command_and_flag_is_on_the_page_of_commands(site):
    """The page has a heading for each command, and shows what its ``--help`` says."""
    page = (site / "commands.html").read_text(encoding="utf-8")
    names = [
        f"{prog}-{command.__metadata__[0].name}"
        for prog, commands in (("onecycle", onecycle_cli.Commands), ("lrfind", lrfind_cli.Commands))
        for command in get_args(commands)
    ]

    assert len(names) >= 7
    assert [
        name for name in names if f'id="{name}"' not in page or f"usage: {name.replace('-', ' ')}" not in page
    ] == []
    assert all(flag in page for flag in ("--three-phase", "--final-div-factor", "--resume", "--all-rules"))


def test_every_message_explained_is_one_that_is_given():
    """The guide to warnings quotes the code: a message that is reworded there must be reworded here."""
    guide = (DOCS / "guides" / "warnings.md").read_text(encoding="utf-8")
    said = "".join(
        node.value if isinstance(node, ast.Constant) else "…"
        for name in ("lrfind/suggest.py", "onecycle/verdict.py")
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.FormattedValue) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    )

    quoted = re.findall(r"^### (.+)$", guide, flags=re.MULTILINE)

    assert len(quoted) > 15
    assert [part for quote in quoted for part in re.split(r"\s*…\s*", quote) if part not in said] == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and does not write about it."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(site) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")], ids=["desktop", "phone"])
@pytest.mark.parametrize(
    "name", ["index", "coming-from/fastai", "reference/onecycle", "commands", "results/regret/regret"]
)
def test_a_page_in_a_browser(browser, address, name, width, scheme):
    """Nothing is asked of another machine, the console is silent, and nothing sticks out of a phone's screen."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))

    page.goto(f"{address}/{name}.html", wait_until="networkidle")

    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) == (scheme == "dark")
    page.close()


def test_the_search_finds_a_guide(browser, address):
    """It works in the browser alone."""
    page = browser.new_page()
    page.goto(f"{address}/index.html", wait_until="networkidle")

    page.locator("label[for=__search]").first.dispatch_event("click")
    page.locator(".md-search__input").press_sequentially("resume")
    found = page.locator(".md-search-result__item").first
    found.wait_for(timeout=10_000)

    assert "resume" in page.locator(".md-search-result__list").inner_text().lower()
    page.close()
