"""A broken plugin never stops the others, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flc.cli import main
from flc.errors import PluginError, UserError
from flc.registry import create, discover, registry

PLUGINS = Path(__file__).parents[1] / "plugins"

#: Plugin that is broken before anything is asked for, and what its cause must say.
BROKEN = {
    "import_error": "ImportError: no module named 'left_pad'",
    "import_exit": "SystemExit: usage: flc_import_exit FILE",
    "hook_error": "RuntimeError: the table of teachers is empty",
    "not_an_algorithm": "flc_pruners yielded 'just-a-name', not an flc.api.Algorithm",
    "wrong_api": "'from-the-future' wants plugin API 99, this flc has 1",
    "unknown_hook": "unknown hook 'flc_prunners'",
    "bad_target": "target 'flc_bad_target.Aimless' of 'aimless' is not of the form package.module:Class",
}


@pytest.fixture
def install(monkeypatch):
    """Put plugins of tests/plugins on sys.path, as if installed; the process's registry is read anew."""

    def installed(*names: str) -> None:
        for name in names:
            assert (PLUGINS / name).is_dir()
            monkeypatch.syspath_prepend(str(PLUGINS / name))
        registry.cache_clear()

    monkeypatch.delenv("FLC_PLUGINS", raising=False)
    monkeypatch.delenv("FLC_PLUGINS_STRICT", raising=False)
    yield installed
    registry.cache_clear()


def flc(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_a_good_plugin_is_listed_and_made(install):
    before = set(discover().names("pruner"))
    install("good")
    found = registry()
    assert set(found.names("pruner")) == before | {"every-other"}
    provided = found.find("pruner", "every-other")
    assert (provided.distribution, provided.version, provided.entry) == ("flc-good", "1.0", "good")
    assert type(create("pruner", "every-other")).__name__ == "EveryOther"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_leaves_the_others_and_is_shown_with_its_cause(install, capsys, name):
    before = [(p.kind, p.algorithm.name) for p in discover().provided]
    install(name, "good")
    found = registry()
    now = {(p.kind, p.algorithm.name) for p in found.provided}
    assert now == {*before, ("pruner", "every-other")}
    [broken] = found.broken
    assert (broken.entry, broken.distribution, broken.version) == (name, f"flc-{name.replace('_', '-')}", "1.0")
    assert BROKEN[name] in broken.cause

    code, out, err = flc(capsys, "plugins")
    assert code == 0 and err == "" and "every-other" in out
    [line] = [line for line in out.splitlines() if broken.distribution in line]
    assert BROKEN[name] in line and "1.0" in line
    code, out, _ = flc(capsys, "plugins", "--json")
    assert BROKEN[name] in json.loads(out)["broken"][0]["cause"]


def test_all_broken_plugins_together_leave_the_good_one(install):
    install(*BROKEN, "good")
    assert {b.entry for b in registry().broken} == set(BROKEN)
    assert registry().load("pruner", "every-other").__name__ == "EveryOther"


@pytest.mark.parametrize(
    ("plugin", "kind", "asked"),
    [("hook_error", "teacher", "half-told"), ("wrong_api", "distiller", "from-the-future"),
     ("bad_target", "pruner", "aimless")],
)  # fmt: skip
def test_asking_for_a_broken_plugins_algorithm_says_its_cause(install, plugin, kind, asked):
    install(plugin, "import_error")
    with pytest.raises(PluginError) as caught:
        registry().find(kind, asked)
    text = str(caught.value)
    assert BROKEN[plugin] in text and f"flc-{plugin.replace('_', '-')} 1.0" in text
    assert "left_pad" not in text, "it is known which plugin the name is from: the other's fault is beside the point"


def test_when_a_plugin_broke_before_naming_anything_an_unknown_name_mentions_it(install):
    install("import_error")
    with pytest.raises(PluginError, match=r"'import_error' of flc-import-error 1\.0 is broken: ImportError.*left_pad"):
        registry().find("pruner", "left-pad")


def test_a_broken_plugin_is_not_mentioned_for_algorithms_that_are_found(install, capsys):
    install(*BROKEN)
    code, out, err = flc(capsys, "show", "uniform")
    assert code == 0 and err == "" and "left_pad" not in out
    with pytest.raises(ValueError) as caught:
        create("pruner", "elbo", {"samples": "many"})
    assert "left_pad" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "cause"),
    [("no-module", "No module named 'flc_missing_target.gone'"), ("no-class", "has no attribute 'Gone'"),
     ("abstract", "does not define plan"), ("stranger", "is not a subclass of flc.api.Pruner")],
)  # fmt: skip
def test_a_target_that_cannot_be_used_is_named_when_it_is_asked_for(install, capsys, asked, cause):
    install("missing_target")
    assert not registry().broken and asked in registry().names("pruner")
    with pytest.raises(PluginError) as caught:
        create("pruner", asked)
    text = str(caught.value)
    assert cause in text and "flc-missing-target 1.0" in text and f"pruner {asked!r}" in text
    code, _, err = flc(capsys, "show", asked)
    assert code == 2 and err.startswith("flc: error: ") and cause in err and len(err.splitlines()) == 1


def test_two_providers_of_a_name_are_both_named(install):
    install("good", "second")
    with pytest.raises(PluginError, match="provided twice") as caught:
        registry().find("pruner", "every-other")
    assert "flc-good 1.0" in str(caught.value) and "flc-second 1.0" in str(caught.value)
    assert registry().find("pruner", "uniform"), "other names are not touched"


def test_an_unknown_name_brings_the_nearest(install):
    install("good")
    with pytest.raises(PluginError, match=r"no pruner named 'every-othr': did you mean every-other\?"):
        registry().find("pruner", "every-othr")
    with pytest.raises(PluginError, match="no pruner named 'xyz'; there are: elbo, every-other"):
        registry().find("pruner", "xyz")


def test_flc_plugins_allow_lists_entry_points_and_the_core_stays(install, monkeypatch):
    monkeypatch.setenv("FLC_PLUGINS", "good, teachers")
    install("good", "second", "import_error")
    assert registry().names("pruner") == ["every-other"]
    assert registry().names("teacher") and not registry().names("distiller")
    assert registry().names("model"), "the core's own adapters are not plugins to be left out"
    assert not registry().broken, "what is not allowed is not even imported"
    assert registry().find("pruner", "every-other").distribution == "flc-good"
    with pytest.raises(
        PluginError, match=r"no distiller named 'dmd'.*\(FLC_PLUGINS=good, teachers leaves all others out\)"
    ):
        registry().find("distiller", "dmd")


def test_flc_plugins_naming_nothing_installed_is_refused(install, capsys, monkeypatch):
    monkeypatch.setenv("FLC_PLUGINS", "goood")
    install("good")
    code, _, err = flc(capsys, "plugins")
    assert code == 2 and "FLC_PLUGINS names goood" in err and "good" in err.split("there are:")[1]


@pytest.mark.parametrize("name", BROKEN)
def test_strict_raises_on_the_first_broken_plugin(install, capsys, monkeypatch, name):
    monkeypatch.setenv("FLC_PLUGINS_STRICT", "1")
    install(name)
    code, out, err = flc(capsys, "plugins")
    assert (code, out) == (2, "") and BROKEN[name] in err and len(err.splitlines()) == 1


def test_strict_is_silent_when_nothing_is_broken(install, capsys, monkeypatch):
    monkeypatch.setenv("FLC_PLUGINS_STRICT", "1")
    install("good")
    assert flc(capsys, "plugins")[0] == 0


def test_a_broken_model_family_does_not_stand_in_the_way_of_another(install):
    from flc.models.folder import EMBEDDED, adapter_for

    install("broken_adapter")
    assert registry().names("model")[0] == "a-family", "it is asked first"
    assert type(adapter_for(EMBEDDED)).__name__ == "WanAdapter"


def test_two_families_that_claim_one_folder_are_both_named(install, capsys, monkeypatch):
    from flc.models.folder import EMBEDDED, adapter_for

    monkeypatch.setenv("FAMILY", "Stranger")
    install("rival_families")
    with pytest.raises(UserError, match="is claimed by 2 model families") as caught:
        adapter_for(EMBEDDED)
    assert "'a-family' from flc-rival-families 1.0" in str(caught.value) and "'wan' from flc" in str(caught.value)
    code, _, err = flc(capsys, "compress", "--dry-run", "--model", str(EMBEDDED), "--out", "never")
    assert code == 2 and "is claimed by 2 model families" in err and len(err.splitlines()) == 1
    monkeypatch.setenv("FLC_PLUGINS", "teachers")
    registry.cache_clear()
    assert type(adapter_for(EMBEDDED)).__name__ == "WanAdapter", "the way out that the error names"


def test_a_family_that_extends_another_is_taken_in_its_place(install, monkeypatch):
    from flc.models.folder import EMBEDDED, adapter_for

    monkeypatch.setenv("FAMILY", "Extending")
    install("rival_families")
    assert type(adapter_for(EMBEDDED)).__name__ == "Extending"


@pytest.mark.parametrize("source", ["flc_good.egg-info", "flc.good-1.0.egg-info"])
def test_a_plugin_that_is_installed_editable_is_one(install, monkeypatch, tmp_path, capsys, source):
    """setuptools leaves its metadata beside the source, too, and names them otherwise."""
    told = PLUGINS / "good" / "flc_good-1.0.dist-info"
    (tmp_path / source).mkdir()
    (tmp_path / source / "PKG-INFO").write_bytes((told / "METADATA").read_bytes())
    (tmp_path / source / "entry_points.txt").write_bytes((told / "entry_points.txt").read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    install("good")
    assert not registry().broken
    assert [p.distribution for p in registry().provided if p.algorithm.name == "every-other"] == ["flc-good"]
    create("pruner", "every-other")
    assert flc(capsys, "plugins")[1].count("every-other") == 1


def test_plugins_in_two_eggs_are_both_found(install, monkeypatch, tmp_path):
    """The folders of their metadata have one name."""
    for name in ("flc_one", "flc_two"):
        folder = tmp_path / f"{name}-1.0-py3.11.egg" / "EGG-INFO"
        folder.mkdir(parents=True)
        (folder / "entry_points.txt").write_text(f"[flc]\n{name} = {name}\n")
        monkeypatch.syspath_prepend(str(folder.parent))
    install()
    assert {(b.distribution, b.version) for b in registry().broken} == {("flc-one", "1.0"), ("flc-two", "1.0")}


TOOL = b"Metadata-Version: 2.1\nName: some-tool\nVersion: 1.0\n"


@pytest.mark.parametrize(
    ("points", "metadata", "file"),
    [
        (b"[console_scripts]\nsome-tool\n", TOOL, "entry_points.txt"),
        ("[console_scripts]\nsome-tool = x:y\n".encode("utf-16"), TOOL, "entry_points.txt"),
        (b"[flc]\ngood = flc_good\n", TOOL + b"Summary: \xf6\n", "METADATA"),
    ],
    ids=["no value", "no UTF-8", "no UTF-8 in METADATA"],
)
def test_a_package_whose_metadata_does_not_parse_is_named_and_harms_no_other(
    install, monkeypatch, tmp_path, points, metadata, file
):
    before = [(p.kind, p.algorithm.name) for p in discover().provided]
    folder = tmp_path / "some_tool-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(metadata)
    (folder / "entry_points.txt").write_bytes(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    install()
    assert [(p.kind, p.algorithm.name) for p in registry().provided] == before
    [broken] = registry().broken
    assert (broken.distribution, broken.version) == ("some-tool", "1.0")
    assert f"{folder / file} does not parse" in broken.cause


@pytest.mark.parametrize("metadata", [None, b"Metadata-Version: 2.1\n"], ids=["no file", "no name in it"])
def test_a_broken_plugin_of_a_package_that_does_not_say_its_name_is_named_by_its_folder(
    install, monkeypatch, tmp_path, metadata
):
    folder = tmp_path / "some_tool-1.0.dist-info"
    folder.mkdir()
    if metadata is not None:
        (folder / "METADATA").write_bytes(metadata)
    (folder / "entry_points.txt").write_text("[flc]\nmine =\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    install()
    [broken] = registry().broken
    assert (broken.entry, broken.distribution, broken.version) == ("mine", "some-tool", "1.0")
    assert "its entry point names '', which is no module: write package.module" in broken.cause


def test_flc_starts_beside_a_package_whose_entry_points_do_not_parse(tmp_path):
    """torch, triton and pydantic cannot be imported beside it: each asks for the entry points of all packages."""
    folder = tmp_path / "some_tool-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(TOOL)
    (folder / "entry_points.txt").write_bytes(b"[console_scripts]\nsome-tool\n")
    ran = subprocess.run(
        [sys.executable, "-m", "flc", "compress", "--dry-run", "--ranks", "1", "--out", str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
