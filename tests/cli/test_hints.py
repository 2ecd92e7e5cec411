"""An option looked for in the wrong place is answered with the right one."""

from __future__ import annotations

import pytest

from flc.cli.hints import ALIASES, places

pytestmark = pytest.mark.usefixtures("place")

FLAGS = {
    "--lr": "--set recovery.lr=... or --set distiller.lr=...",
    "--batch-size": "--set score.batch=..., --set recover.batch=..., --set distill.batch=... or --set evaluate.batch",
    "--iterations": "--set recover.iterations=... or --set distill.iterations=...",
    "--epochs": "--set recover.iterations=... or --set distill.iterations=...",
    "--rank": "--set distiller.rank=...",
    "--num-frames": "--frames?",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_an_unknown_flag_that_lives_elsewhere_is_answered_with_where(refused, flag):
    assert refused("compress", flag, "3").startswith(f"No such option: {flag}: did you mean {FLAGS[flag]}")
    assert refused("compress", f"{flag}=3") == refused("compress", flag, "3")


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ("recover.lr=1", "--set recovery.lr=..."),
        ("distiller.batch=3", "--set distill.batch=..."),
        ("recover.steps=3", "--steps"),
        ("samples=32", "--set pruner.samples=..."),
    ],
)
def test_an_option_of_another_section_is_answered_with_that_section(refused, item, where):
    """The section that is spelt most like the one that was given comes first."""
    assert f"did you mean {where}" in refused("compress", "--set", item)


def test_a_file_with_an_option_of_another_section_too(refused, place):
    (place / "r.yaml").write_text("distill: {lr: 3}\n")
    line = refused("compress", "--recipe", "r.yaml")
    assert "unknown option recipe.distill.lr: did you mean --set distiller.lr=..." in line


def test_commands_are_offered_only_what_they_take(refused):
    assert "--set" not in refused("generate", "tiny-wan", "--prompt", "a cat", "--lr", "3")
    assert refused("generate", "tiny-wan", "--prompt", "a cat", "--guidance-scale", "3").endswith(
        "did you mean --guidance?"
    )


@pytest.mark.parametrize("name", ALIASES)
def test_every_other_programs_name_leads_to_an_option_of_ours(name):
    assert places(name)
