"""Hooks of mkdocs that add the pages made from the package, the notebooks and the files of the root.

mkdocs.yml names this file. `make site` builds the site; nothing that is made here is kept in the repository.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

import nbconvert
import nbformat
import typer
from mkdocs.structure.files import File
from typer.testing import CliRunner

import mnemoscope
from mnemoscope.cli import app
from mnemoscope.results.columns import SCHEMA

ROOT = Path(__file__).parents[1]
NOTEBOOKS = (
    "first_look",
    "query_links",
    "methods",
    "editing",
    "circuits",
    "study",
)  # in the order of reading
# Pages of the site by the file of the repository that they show; those of docs/ keep their names.
SHOWN = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "security.md",
    "THIRD_PARTY_NOTICES": "notices.txt",
    "examples/demo_study.html": "demo_study.html",
    "src/mnemoscope/__init__.py": "api.md",
    "src/mnemoscope/attribution/methods/base.py": "api/Method.md",
    "src/mnemoscope/errors.py": "api.md",
    **{f"examples/{name}.ipynb": f"tutorials/{name}.md" for name in NOTEBOOKS},
}
SOURCES = {shown: path for path, shown in SHOWN.items() if path != "README.md" and not path.endswith(".py")}
PARTS = {  # groups of the API's pages; a name that is in none stands under "Results"
    "Model": "load Model Run AttributionOptions estimate Estimate Sizes Cost Family",
    "Parts": "Layer Head FFNNeuron AttentionNeuron",
    "Methods and side effects": "Method Verified Ranking KnownFact PlainText TextEffect",
    "Studies and facts": "run_study Study Studies StudyOptions Source ModelSpec Fact FactFile "
    "builtin_facts read_facts",
}

_LINK = re.compile(r"(\]\(|src(?:set)?=\")(?!\w+:|#)([^)#\"\s]+)")
_NAMED = re.compile(r"\[(?:docs/)?(\w+\.md)\](?=\()")
_CITED = re.compile(r"<code>docs/(\w+)\.md(#[\w-]+)?</code>|\bdocs/(\w+)\.md(#[\w-]+)?")


def on_config(config: Any) -> Any:
    """Add the notebooks and the pages of public names to the navigation."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    sections["Tutorials"] += [f"tutorials/{name}.md" for name in NOTEBOOKS]
    sections["Reference"][-1]["Python"] = [
        "api.md",
        *({title: [f"api/{name}.md" for name in names]} for title, names in api_groups().items()),
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the files that are made."""
    pages = {
        "api.md": api_index(),
        "cli.md": command_line(),
        "results.md": result_tables(),
        "tutorials.md": tutorials(),
    }
    for name, module in mnemoscope._PUBLIC.items():
        pages[f"api/{name}.md"] = f"---\ntitle: {name}\n---\n\n::: {module}.{name}\n"
    for shown, path in SOURCES.items():
        if path.endswith(".ipynb"):
            pages |= notebook(ROOT / path, shown)
        else:
            pages[shown] = (ROOT / path).read_text(encoding="utf-8")
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links between files of the repository to the pages that show them, under the pages' titles."""
    here = page.file.src_uri
    titles = {uri: title for entry in config.nav for pages in entry.values() for title, uri in listed(pages)}
    markdown = _NAMED.sub(lambda name: f"[“{titles[name[1]]}”]" if name[1] in titles else name[0], markdown)
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def shown(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        if not (
            ROOT / path
        ).exists():  # a picture that a notebook's page brings, or a mistake that mkdocs reports
            return link[0]
        target = SHOWN.get(path, path.removeprefix("docs/"))
        return link[1] + posixpath.relpath(target, posixpath.dirname(here) or ".")

    return _LINK.sub(shown, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Make links of the citations of pages in docstrings."""
    if not page.file.src_uri.startswith("api/"):
        return html

    def link(cited: re.Match[str]) -> str:
        name, anchor = cited[1] or cited[3], cited[2] or cited[4] or ""
        return f'<a href="../{name}.html{anchor}">{name}{anchor}</a>'

    return _CITED.sub(link, html)


def on_post_build(config: Any) -> None:
    """Write llms.txt: a list of the pages, for programs that read the documentation."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}.", ""]
    for entry in config.nav:
        for title, pages in entry.items():
            lines += [f"## {title}", ""]
            lines += [f"- [{name}]({uri[:-3]}.html)" for name, uri in listed(pages)]
            lines.append("")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def listed(pages: list[Any]) -> list[tuple[str, str]]:
    """Return title and file of each page of a section, those of its sections included."""
    found: list[tuple[str, str]] = []
    for page in pages:
        if isinstance(page, str):
            found.append((PurePosixPath(page).stem.replace("_", " "), page))
        else:
            for title, below in page.items():
                found += [(title, below)] if isinstance(below, str) else listed(below)
    return found


def api_groups() -> dict[str, list[str]]:
    """Return the public names by group; every name is in one."""
    groups = {title: names.split() for title, names in PARTS.items()}
    placed = {name for names in groups.values() for name in names}
    rest = [name for name in mnemoscope._PUBLIC if name not in placed]
    groups["Results"] = [name for name in rest if not name.endswith("Error")]
    groups["Errors"] = [name for name in rest if name.endswith("Error")]
    return groups


def api_index() -> str:
    """Return the page that lists the public names."""
    lines = [
        "# The Python API",
        "",
        "Everything here is imported from `mnemoscope`. Other modules may change.",
        "",
    ]
    for title, names in api_groups().items():
        lines += [f"## {title}", "", ", ".join(f"[`{name}`](api/{name}.md)" for name in names), ""]
    return "\n".join(lines)


def command_line() -> str:
    """Return the page of the commands: the text of `--help` of each."""
    lines = [
        "# The command line",
        "",
        "The text of `--help` of every command, written when this site was built.",
        "",
    ]

    def add(words: tuple[str, ...], command: Any) -> None:
        terminal = {"COLUMNS": "100", "TERM": "dumb"}
        done = CliRunner().invoke(app, [*words, "--help"], env=terminal, prog_name="mnemoscope")
        if done.exit_code:
            raise RuntimeError(f"`{' '.join(words)} --help` failed: {done.output}")
        name = " ".join(("mnemoscope", *words))
        lines.extend([f"## {name}", "", "```text", done.output.strip(), "```", ""])
        for word, below in getattr(command, "commands", {}).items():
            add((*words, word), below)

    add((), typer.main.get_command(app))
    return "\n".join(lines)


def result_tables() -> str:
    """Return the page of the columns of every table of a result."""
    lines = [
        "# Tables and JSON of a result",
        "",
        "Tables of a result are pandas data frames with these columns. In the JSON of `--json`, `save` and",
        "the HTTP API, a table is a list of objects with the same names. Layers, heads, dims, neurons and",
        "positions count from 0.",
        "",
    ]
    for table, columns in SCHEMA.items():
        lines += [f"## {table}", "", "| column | dtype | unit | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning.replace('|', chr(92) + '|')} |"
            for c in columns
        ]
        lines.append("")
    return "\n".join(lines)


def tutorials() -> str:
    """Return the page that lists the notebooks."""
    lines = ["# Tutorials", "", "The notebooks of `examples/` with their outputs, on the demo model.", ""]
    for name in NOTEBOOKS:
        first = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4).cells[0].source
        lines.append(f"- [{first.splitlines()[0].lstrip('# ')}](tutorials/{name}.md)")
    lines += [
        "",
        "[The report of a study](demo_study.html) shows every table and chart that a study draws.",
        "",
    ]
    return "\n".join(lines)


def notebook(path: Path, uri: str) -> dict[str, Any]:
    """Return the page of a notebook and the pictures of its outputs, by their place in the site."""
    # Where nbconvert lies beside .venv, its templates do too, and it does not look there.
    os.environ.setdefault("JUPYTER_PATH", str(Path(nbconvert.__file__).parents[1] / "share" / "jupyter"))
    text, resources = nbconvert.MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    pictures = {f"tutorials/{path.stem}_{name}": data for name, data in resources["outputs"].items()}
    for name in resources["outputs"]:
        text = text.replace(f"({name})", f"({path.stem}_{name})")
    return {uri: text, **pictures}
