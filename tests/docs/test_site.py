"""Pages lead somewhere, show what the code has, and hold what the results say."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from benchmarks import readme
from flc.cli.app import app
from flc.recipe import STAGE_OPTIONS
from flc.registry import registry
from flc.run.stages import PIPELINE

from .pages import PAGES, ROOMS, ROOT, hooks, name

HOOKS = hooks()
EVERY = [*PAGES, *sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.md"))]


def anchors(text: str) -> set[str]:
    """Of a page's headings, as a forge makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_link_of_every_page_leads_to_a_file_and_a_heading():
    for page in EVERY:
        found: list[str] = []
        HOOKS.links(page.read_text(), lambda link, into=found: into.append(link) or link)
        for link in found:
            file, _, anchor = link.partition("#")
            target = HOOKS.target(name(page), link)
            if target is None and file:
                continue  # the web
            path = ROOT / target if target else page
            assert path.is_file(), f"{name(page)}: {link}"
            if anchor and not anchor.startswith("flc."):  # those are of the reference, which the build makes
                assert anchor in anchors(path.read_text()), f"{name(page)}: {link}"


@pytest.mark.parametrize(
    ("link", "there"),
    [
        ("../benchmarks/results/table2.md", "repository/benchmarks/results/table2.md"),
        ("../flc/family.py", "repository/flc/family.py.md"),
        ("../README.md#install", "index.md#install"),
        ("vbench.md", "vbench.md"),
        ("../examples/third_party_plugin/", "repository/examples/third_party_plugin/README.md"),
        ("https://arxiv.org/abs/2603.01685", "https://arxiv.org/abs/2603.01685"),
    ],
)
def test_a_link_that_is_right_in_the_repository_is_right_in_the_site(link, there):
    assert HOOKS.moved("docs/results.md", f"see [it]({link})") == f"see [it]({there})"
    assert HOOKS.moved("docs/results.md", f"```\n[it]({link})\n```") == f"```\n[it]({link})\n```", "code stays"


def test_a_link_to_nothing_is_a_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(HOOKS, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("[gone](../flc/gone.py)")
    assert [*HOOKS.linked(["docs/page.md"], set())] == []
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "flc/gone.py" in caplog.text


def test_the_command_reference_has_every_flag_of_every_command():
    page = HOOKS.cli_page()
    sections = dict(
        zip(re.findall(r"^## flc (\S+)$", page, re.M), re.split(r"^## .+$", page, flags=re.M)[1:], strict=True)
    )
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert sections.keys() == commands.keys()
    for command, text in sections.items():
        for parameter in commands[command].params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{parameter.opts[0]}" in text, f"{command}: {parameter.opts}"


def test_the_reference_of_algorithms_has_every_one_and_every_option_of_a_stage():
    page = HOOKS.algorithms_page()
    assert all(f"| `{p.algorithm.name}` | " in page for p in registry().provided)
    assert all(f"| `{option}` | " in page for options in STAGE_OPTIONS.values() for option in options.model_fields)


def test_the_readme_has_the_stages_in_their_order_and_their_folders():
    text = (ROOT / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if line.count(" ─ ") > 2]
    assert line.split(" ─ ") == [stage.name for stage in PIPELINE]
    left = text.partition("leaves in `flc-out/`:")[2].partition("\n\n```")[0]
    made = set(re.findall(r"(\w+)/", left))
    assert made >= {stage.folder or stage.name for stage in PIPELINE} - {"report"}, "which is report.html"


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_figures_of_a_page_are_those_of_the_committed_results(page):
    text = (ROOT / page).read_text()
    assert text == readme.written(text, readme.PAGES[page]()), "run python -m benchmarks.readme"
