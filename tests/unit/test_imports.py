"""Who may import whom (CONTRIBUTING, The house), read from the sources, and what a cheap command loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Rooms of flc from top to bottom. A room imports rooms of its own row and of the rows below it.
LAYERS = (
    ("__main__", "__init__", "entry"),
    ("cli",),
    ("run",),
    ("train", "export", "evaluate", "report", "data", "sample"),
    ("models",),
    ("flow", "losses", "rollout", "matching", "schedule", "draws", "recipe", "options", "registry", "hookspecs",
     "installed", "builtin", "api", "family", "errors", "files"),
)  # fmt: skip
#: Functions of tensors only; they know no model, no file and no option.
PURE = ("flow", "losses", "rollout", "matching")
#: Room, imported room: pairs of one row that import each other although a row should not.
CYCLES: set[tuple[str, str]] = set()
#: What an algorithm may import of flc.
FOR_PLUGINS = {"flc", "flc.api", "flc.family", "flc.errors", *(f"flc.{room}" for room in PURE)}
DEEPSPEED = "flc/train/deepspeed.py"


@dataclass(frozen=True)
class Import:
    """Module `target` imported in `file`. `typing`: only under `if TYPE_CHECKING`."""

    file: str
    line: int
    target: str
    typing: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def is_module(name: str, root: Path) -> bool:
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(file: Path, root: Path) -> Iterator[Import]:
    """Every import of a file, also those inside functions. `from package import module` counts as the module."""
    tree = ast.parse(file.read_text())
    package = list(file.relative_to(root).parts[:-1])
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            inside = [n for n in names if is_module(n, root)]
            targets = [*inside, *([base] if len(inside) < len(names) else [])]
        for target in targets:
            yield Import(str(file.relative_to(ROOT)), node.lineno, target, id(node) in guarded)


def of_tree(folder: str, root: str) -> list[Import]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, folder
    return [i for file in files for i in imports(file, ROOT / root)]


CORE = of_tree("flc", ".")
PLUGINS = [
    *of_tree("plugins/flc_plugins", "plugins"),
    *of_tree("baselines/flc_baselines", "baselines"),
    *of_tree("examples/third_party_plugin", "examples/third_party_plugin"),
]


def room(target: str) -> str:
    """The room of flc that a module is in: `flc.train.loop` is in train, `flc` itself in __init__."""
    parts = target.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def room_of(file: str) -> str:
    return Path(file).parts[1].removesuffix(".py")


def row(name: str) -> int:
    found = [i for i, rooms in enumerate(LAYERS) if name in rooms]
    assert found, f"room {name!r} of flc is in no row of LAYERS: add it"
    return found[0]


def own(imports: list[Import]) -> list[Import]:
    return [i for i in imports if i.target.split(".")[0] == "flc" and not i.typing]


def test_the_walk_sees_imports_in_functions_relative_ones_and_modules_of_packages(tmp_path):
    package = ROOT / "flc" / "run"
    here = [(i.target, i.typing) for i in imports(package / "compress.py", ROOT)]
    stages = [(i.target, i.typing) for i in imports(package / "stages" / "evaluate.py", ROOT)]
    assert ("flc.run.vbench", False) in stages, "from flc.run import vbench"
    assert ("flc.run.estimate", False) in here, "inside a function"
    assert ("flc.evaluate.clips", True) in [(i.target, i.typing) for i in imports(ROOT / "flc" / "api.py", ROOT)]


def test_no_room_imports_one_above_it():
    upwards = [str(i) for i in own(CORE) if row(room(i.target)) < row(room_of(i.file))]
    assert not upwards, upwards


def test_rooms_of_one_row_do_not_import_each_other_both_ways():
    edges = {(room_of(i.file), room(i.target)) for i in own(CORE)}
    both = {(a, b) for a, b in edges if (b, a) in edges and a < b}
    assert both <= CYCLES, both - CYCLES


def test_pure_rooms_import_pure_rooms_only():
    allowed = {*PURE, "api"}
    impure = [str(i) for i in own(CORE) if room_of(i.file) in PURE and room(i.target) not in allowed]
    assert not impure, impure


def test_the_core_imports_no_algorithm():
    algorithms = [str(i) for i in CORE if i.target.split(".")[0] in ("flc_plugins", "flc_baselines", "flc_edges")]
    assert not algorithms, algorithms


def test_algorithms_import_only_the_interfaces_and_the_pure_rooms():
    others = [str(i) for i in PLUGINS if i.target.split(".")[0] == "flc" and i.target not in FOR_PLUGINS]
    assert not others, others


def test_algorithms_do_not_import_each_other():
    """A plugin is what one entry point names: flc_plugins.fastlightgen, flc_plugins.teachers, flc_baselines."""

    def plugin(parts: tuple[str, ...]) -> tuple[str, ...]:
        return parts[:2] if parts[0] == "flc_plugins" else parts[:1]

    crossing = []
    for i in PLUGINS:
        parts = tuple(i.target.split("."))
        if parts[0] in ("flc_plugins", "flc_baselines", "flc_edges"):
            home = tuple(p.removesuffix(".py") for p in Path(i.file).parts)
            start = next(n for n, p in enumerate(home) if p in ("flc_plugins", "flc_baselines", "flc_edges"))
            if plugin(home[start:]) != plugin(parts):
                crossing.append(str(i))
    assert not crossing, crossing


def test_deepspeed_is_imported_in_one_file():
    files = {i.file for i in [*CORE, *PLUGINS] if i.target.split(".")[0] == "deepspeed"}
    assert files <= {DEEPSPEED}, files


# -- what a cheap command loads ------------------------------------------------------------------------------

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "scipy")


def loaded_by(code: str) -> set[str]:
    """Heavy packages in sys.modules after `code`, in a fresh interpreter."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit as e:\n    assert not e.code, e\n"
    program += f"print('loaded:', *[m for m in {HEAVY!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(ran.stdout.rsplit("loaded:", 1)[1].split())


@pytest.mark.parametrize(
    "code",
    ["import flc", "import flc.api", "from flc.cli import main; main(['--help'])",
     "from flc.cli import main; main(['compress', '--help'])", "from flc.cli import main; main(['plugins'])",
     "from flc.cli import main; main(['plugins', '--json'])", "from flc.cli import main; main(['--version'])",
     "import os; os.environ.update(_FLC_COMPLETE='complete_bash', COMP_WORDS='flc com', COMP_CWORD='1'); "
     "from flc.cli import main; main([])"],
)  # fmt: skip
def test_listing_and_help_load_no_heavy_package(code):
    assert loaded_by(code) == set()


def test_the_probe_for_heavy_packages_sees_them():
    assert "torch" in loaded_by("import flc.flow")


def test_help_answers_in_half_a_second():
    """Half a second is where waiting for a command begins to be felt. Of a processor's time: it waits for nothing, and
    beside other jobs for its turn. Best of three: they can only make a run slower."""

    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "flc", "--help"], capture_output=True, timeout=60, check=True,
                       env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


def test_layers_name_each_room_once():
    rooms = [r for rooms in LAYERS for r in rooms]
    assert len(rooms) == len(set(rooms))
