"""What mkdocs adds to these pages: the README as the front page, references made from the code, and the repository's
files that pages link to.

Links stay as they are right in the repository (`../benchmarks/results/table2.md`). A linked page that lies outside
`docs/` becomes a page of the site, source and YAML are shown, anything else is copied, all under `repository/`. A
link to nothing is a warning, which ends `mkdocs build --strict`.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOG = logging.getLogger("mkdocs.plugins.flc")
#: Pages that are shown under another name than their own.
PLACES = {"README.md": "index.md"}
#: Files that are shown as code, by suffix.
SHOWN = {".py": "python", ".yaml": "yaml", ".toml": "toml"}
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def links(text: str, replace: Callable[[str], str]) -> str:
    """The page with each link's target replaced, code blocks left alone."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(lambda m: m[1] + replace(m[2]) + m[3], text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(lambda m: m[1] + replace(m[2]) + m[3], text[end:])])


def target(page: str, link: str) -> str | None:
    """The repository's file that a link of a page names; None for the web and for the page itself."""
    path = link.partition("#")[0]
    if not path or re.match(r"\w+:", link):
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    return posixpath.join(found, "README.md") if (ROOT / found).is_dir() else found


def place(file: str) -> str:
    """Where a file of the repository is in the site's sources."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    shown = file + ".md" if Path(file).suffix in SHOWN else file
    return PLACES.get(file, f"repository/{shown}")


def linked(pages: list[str], made: set[str]) -> Iterator[str]:
    """Files outside `docs/` that pages, or pages among these, link to."""
    found: set[str] = set()
    while pages:
        page = pages.pop()
        targets: list[str] = []
        links((ROOT / page).read_text(), lambda link, page=page, into=targets: into.append(target(page, link)) or link)
        for file in dict.fromkeys(t for t in targets if t is not None):
            if place(file) in made or file in found or file in PLACES:
                continue
            if not (ROOT / file).is_file():
                LOG.warning("%s links to %s, which is not there", page, file)
                continue
            found.add(file)
            if not file.startswith("docs/"):
                yield file
                pages += [file] if file.endswith(".md") else []


def moved(page: str, text: str) -> str:
    """A page's text with links as the site has them."""

    def replace(link: str) -> str:
        file = target(page, link)
        if file is None:
            return link
        _, mark, anchor = link.partition("#")
        return posixpath.relpath(place(file), posixpath.dirname(place(page)) or ".") + mark + anchor

    return links(text, replace)


# -- references -----------------------------------------------------------------------------------------------


def cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by name, as typer made it."""
    from typer.main import get_command

    from flc.cli.app import app

    yield from get_command(app).commands.items()


def cli_page() -> str:
    """Every command with its flags, as `--help` describes them."""
    lines = ["# Commands", "", "What `--set SECTION.OPTION=VALUE` reaches is listed under [algorithms](algorithms.md)"]
    lines += ["and printed by `flc show NAME`.", ""]
    for name, command in commands():
        context = command.context_class(command, info_name=f"flc {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## flc {name}", "", f"`flc {name} {usage}`", "", command.help or "", ""]
        records = [p.get_help_record(context) for p in command.params if p.name != "help"]
        rows = [f"| `{cell(spelt)}` | {cell(about)} |" for spelt, about in filter(None, records)]
        lines += ["| option | |", "|---|---|", *rows, ""] if rows else []
    return "\n".join(lines)


def algorithms_page() -> str:
    """Every registered algorithm, and each stage's own options."""
    from flc.recipe import STAGE_OPTIONS
    from flc.registry import HOOKS, registry

    lines = ["# Algorithms", "", "What is installed with flc; `flc plugins` lists what is installed with you."]
    lines += ["`flc show NAME` prints an algorithm's options, the source of every default, and its citation.", ""]
    for kind, hook in HOOKS.items():
        provided = [p.algorithm for p in registry().provided if p.kind == kind]
        if provided:
            lines += [f"## {kind}", "", f"Hook `{hook}`.", "", "| name | what it does | source |", "|---|---|---|"]
            ordered = sorted(provided, key=lambda a: a.name)
            lines += [*(f"| `{a.name}` | {cell(a.summary)} | {cell(a.paper)} |" for a in ordered), ""]
    lines += ["## Options of the stages", "", "Set them with `--set SECTION.OPTION=VALUE`, or in a recipe.", ""]
    for section, options in STAGE_OPTIONS.items():
        lines += [f"### {section}", "", "| option | default | what it is | source |", "|---|---|---|---|"]
        for name, field in options.model_fields.items():
            extra: Any = field.json_schema_extra
            default = "" if field.default in (None, ()) else f"`{cell(field.default)}`"
            lines += [f"| `{name}` | {default} | {cell(field.description)} | {cell(extra['source'])} |"]
        lines += [""]
    return "\n".join(lines)


MADE: dict[str, Callable[[], str]] = {"reference/cli.md": cli_page, "reference/algorithms.md": algorithms_page}


# -- mkdocs' events -------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for uri, write in MADE.items():
        files.append(File.generated(config, uri, content=write()))
    for file, uri in PLACES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / file)))
    own = [f"docs/{f.src_uri}" for f in files.documentation_pages() if f.abs_src_path and f.src_uri != "index.md"]
    for file in [*linked([*own, *PLACES], set(MADE))]:
        language = SHOWN.get(Path(file).suffix)
        if language:
            text = f"# {file}\n\n````{language}\n{(ROOT / file).read_text()}\n````\n"
            files.append(File.generated(config, place(file), content=text))
        else:
            files.append(File.generated(config, place(file), abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    uri = page.file.src_uri
    if uri in MADE:
        return markdown
    back = {site: file for file, site in PLACES.items()}
    outside = uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"
    return moved(back.get(uri, outside), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """A docstring's `::` before an example, as it is meant; a spread stays in its value's line."""
    return re.sub(r"(\d) ± (\d)", "\\1\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}\\2", re.sub(r"::</p>", ":</p>", html))
