"""What README, CONTRIBUTING and docs/ have a reader type or copy does what it says."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.main import get_command

from flc.api import Budget, Query
from flc.cli import main
from flc.cli.app import app
from flc.models.first_frame import FirstFrameAdapter
from flc.models.folder import EMBEDDED
from flc.options import parse_set
from flc.recipe import Recipe, lock_text, resolve
from flc.registry import create, registry
from flc.run.compress import completed, recipe_from
from tests.comparison.test_scales import configs, estimated
from tests.contract.test_pruners import TinyPrunable, make_samples

from .pages import PAGES, ROOT, blocks, commands, name, spans, table

README = ROOT / "README.md"
WITH = {language: [p for p in PAGES if blocks(p, language)] for language in ("python", "yaml")}
#: Options in the text that are torchrun's and mkdocs' own.
OTHERS = {"--shutdown-timeout", "--nproc-per-node", "--strict"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder as a reader's is after the first line: a pipeline, which stock diffusers wrote, and a lock file."""
    (tmp_path / "flc-out").mkdir()
    (tmp_path / "flc-out" / "pipeline").symlink_to(EMBEDDED)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "recipe.lock.yaml").write_text(lock_text(Recipe()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The README's plugin as an installed package; its code."""
    (code,) = [block for block in blocks(README, "python") if "flc_mine" in block]
    (tmp_path / "flc_mine.py").write_text(code)
    points = tomllib.loads(blocks(README, "toml")[0])["project"]["entry-points"]["flc"]
    info = tmp_path / "flc_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flc-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flc]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    yield code
    registry.cache_clear()


def run(page: Any) -> dict[str, Any]:
    """The page's Python, in its order; what it leaves."""
    left: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), left)
    return left


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and its values, as the real command line has them; nothing is run."""
    group: Any = get_command(app)
    if arguments[0].startswith("--"):
        own = [*group.params, group.get_help_option(group.context_class(group))]
        assert arguments[0] in {spelt for parameter in own for spelt in parameter.opts}
        return "", {}
    command, *rest = arguments
    with group.commands[command].make_context(command, rest) as context:
        # typer before 0.21 makes paths of them as late as in the command
        places = ("out", "recipe", "model", "data", "store", "plan", "weights", "pipeline")
        texts = {name: context.params.get(name) for name in places}
        return command, context.params | {name: Path(text) for name, text in texts.items() if isinstance(text, str)}


def test_the_readmes_student_makes_a_clip_without_flc(place):
    video = run(README)["video"]
    assert video.shape == (17, 48, 48, 3)


@pytest.mark.parametrize("page", [p for p in WITH["python"] if p != README], ids=name)
def test_the_pythons_of_a_page_run_in_order(place, page):
    assert run(page)


@pytest.mark.parametrize("page", [p for p in PAGES if [*commands(p)]], ids=name)
def test_every_flc_line_is_one_that_the_command_line_takes(place, plugin, page):
    for arguments in commands(page):
        command, values = parsed(arguments)
        if "recipe" in values:
            completed(recipe_from(values))
        elif command == "show":
            assert values["name"] == "NAME" or values["name"] in {p.algorithm.name for p in registry().provided}


def test_an_flc_line_with_a_wrong_option_is_not_taken(place):
    with pytest.raises(Exception, match="--kep"):
        parsed(["compress", "--kep", "0.7"])


def test_every_option_in_the_text_is_one_of_a_command():
    known = {spelt for c in get_command(app).commands.values() for p in c.params for spelt in p.opts}  # type: ignore[attr-defined]
    for page in PAGES:
        for span in spans(page):
            flags = re.findall(r"(?<!\S)--[a-z][\w-]*", span) if span.startswith("--") else []
            assert set(flags) <= known | OTHERS, f"{name(page)}: {span}"
            for said in re.findall(r"--set ([a-z]+\.[a-z_]+=[^\s.]\S*)", span):
                completed(resolve({}, {}, parse_set([said])))


@pytest.mark.parametrize("page", WITH["yaml"], ids=name)
def test_every_recipe_on_a_page_resolves(page):
    for block in blocks(page, "yaml"):
        completed(resolve(yaml.safe_load(block), {}, {}))


def test_every_extra_and_every_script_on_a_page_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    _, *listed = table(README, "extra")
    assert {e for row in listed for e in re.findall(r"\w+", row[0])} == set(extras)
    for page in PAGES:
        text = page.read_text()
        assert {e for row in re.findall(r'-e "\.\[([\w,]+)\]"', text) for e in row.split(",")} <= set(extras), page
        for module in re.findall(r"python -m (benchmarks\.\w+)", text):
            assert find_spec(module), f"{name(page)}: {module}"


def test_the_readmes_plugin_is_twelve_lines_at_most_and_prunes_by_name(plugin):
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 12
    pruner, model = create("pruner", "every-other"), TinyPrunable({"blocks": 6})
    budget = Budget(0.7, model.weights)
    plan = pruner.plan(model, make_samples, budget)
    assert budget.fits(plan.kept) and set(plan.kept["blocks"]) >= {0, 2, 4} and len(plan.kept["blocks"]) < 6


def test_the_guides_pruners_fit_the_budget_and_rank_what_they_say():
    left, model = run(ROOT / "docs" / "plugin.md"), TinyPrunable({"blocks": 6})
    budget = Budget(0.6, model.weights)
    ends = left["Leaning"](left["Leaning"].Options()).plan(model, make_samples, budget)
    assert {0, 5} <= set(ends.kept["blocks"]) and budget.fits(ends.kept)
    turning = left["Turning"]().plan(model, make_samples, budget)
    assert budget.fits(turning.kept) and len(set(turning.scores["blocks"])) == 6


def test_the_guides_teacher_is_guidance_of_scale_4_and_its_metric_sees_darkness(adapter):
    left = run(ROOT / "docs" / "plugin.md")
    text, null = Query("unpruned"), Query("unpruned", "null")
    v = left["Fixed"]().compose({text: torch.tensor(2.0), null: torch.tensor(1.0)}, None)
    assert float(v) == 1 + 4 * (2 - 1)

    class Clips:
        def __init__(self, level: float) -> None:
            self.video = torch.full((2, 3, 4, 4, 3), level)

    assert left["Brightness"]().score(Clips(0.25), Clips(0.75)).value == 0.5


#: Columns of the guide's table of memory, by the names of sizes.
MODELS = {"Wan 1.3B": "wan-1.3b", "Wan TI2V 5B": "wan-ti2v-5b", "Wan 14B": "wan-14b", "HunyuanVideo 13B": "hunyuan-13b"}


@pytest.mark.parametrize("title", MODELS)
def test_the_memory_of_the_guide_is_what_a_dry_run_counts(tmp_path, monkeypatch, title, capsys):
    monkeypatch.chdir(tmp_path)
    configs(MODELS[title], tmp_path)
    head, *rows = table(ROOT / "docs" / "large.md", "options")
    assert head[1:] == [*MODELS] and len(rows) == 6
    for options, *cells in rows:
        run = f"compress --model . --preset full --dtype bfloat16 --dry-run --out new {options}"
        with pytest.raises(SystemExit) as ended:
            main(run.split())
        said, wrong = capsys.readouterr()
        assert ended.value.code == 0, wrong
        counted = [f"{float(row[-1]):.0f}" for row in estimated(said).values()]
        assert cells[head.index(title) - 1] == " / ".join(counted), options


def test_the_support_matrix_names_every_family_and_what_it_does():
    _, *rows = table(README, "family")
    assert {row[0] for row in rows} == set(registry().names("model"))
    for family, _, first, width, _ in rows:
        cls: Any = registry().load("model", family)
        assert (width == "yes") == bool(cls.ffn), family
        assert (first == "must be given") == issubclass(cls, FirstFrameAdapter), family
