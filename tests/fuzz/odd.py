"""Odd command lines, recipes and configs of models, drawn from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from flc.cli.app import app
from flc.recipe import ALGORITHMS, STAGE_OPTIONS, Recipe
from flc.registry import registry

#: As they come on a command line.
WORDS = (
    "", " ", "-", "--", "-1", "0", "1", "3", "1.5", "1e999", "-1e999", "nan", "inf", "-inf", "1e-320", "9" * 5000,
    "1" + "0" * 300, str(2**63), str(2**31), "0x10", "1_000", "٣", "½", "４", "true", "null", "None", "~", "é" * 300,
    "😀", "\u202e\u2066", "a" * 100_000, "a\nb", "\x1b[2J", "\r", "\t", "\0", "\udcff", "\ufeff", "../..", "/", ".",
    "..", "/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "/nowhere/at/all", "x" * 300,
    "tiny-wan", "$HOME", "%s%n", "{0.__class__}", "*", "[", "{", "[1, 2", '{"a": 1}', "[[1]]", "[" * 3000,
    '{"a":' * 3000, "[" + "9" * 5000 + "]", "a=b=c", "cuda:99", "cpu:1", "meta", "quick", "full", "elbo", "dmd", "none",
    "shapes", "vbench", "plain", "deepspeed", "float32", "bfloat16", "float64", "\\", "'", '"', "--help", "--out",
    "2026-01-01",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 7, 16, 100, 2**15, 2**31, 2**40, 2**62, 2**63, -(2**63), 10**30, 10**400)


def values(rng: random.Random, depth: int = 0) -> Any:
    """As JSON or YAML hold them."""
    kind = rng.randrange(12 if depth < 3 else 9)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind <= 3:
        return rng.choice(NUMBERS)
    if kind <= 5:
        return rng.choice([0.0, -0.0, 0.5, -1.5, 1e-320, 1e300, float("nan"), float("inf"), float("-inf")])
    if kind <= 8:
        return rng.choice(WORDS)
    if kind == 9:
        return [values(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 10:
        return [rng.choice([0, 1, -1, 2**40, "a", None, 0.5])] * rng.choice([1, 2, 3, 16, 48])
    return {
        rng.choice(["a", "name", "", "0", "\x1b", "__class__"]): values(rng, depth + 1) for _ in range(rng.randrange(3))
    }


# -- command lines ----------------------------------------------------------------------------------------------------


def algorithm(rng: random.Random, kind: Any) -> str:
    return rng.choice(registry().names(kind))


def option(rng: random.Random) -> tuple[str, str]:
    """A section of the recipe, and one of its options."""
    section = rng.choice([*STAGE_OPTIONS, *ALGORITHMS])
    options: Any = STAGE_OPTIONS.get(section)
    if options is None:
        options = registry().load(section, getattr(Recipe(), section).name).Options  # type: ignore[attr-defined]
    return section, rng.choice([*options.model_fields, "name", "nothing"])


def command_line(rng: random.Random) -> list[str]:
    """A command with flags of its own and odd values, now and then a flag of none."""
    commands: Any = typer.main.get_command(app)
    name = rng.choice([*commands.commands, *["compress"] * 4, *["generate"] * 2])
    command = commands.commands[name]
    words = [name]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            words.append(rng.choice(["tiny-wan", rng.choice(WORDS)]))
    flags = [p for p in command.params if p.param_type_name == "option"]
    for parameter in rng.sample(flags, min(len(flags), rng.randrange(1, 4))):
        words.append(rng.choice(parameter.opts))
        if parameter.name == "set_":
            section, one = option(rng)
            words.append(f"{section}.{one}={rng.choice(WORDS)}" if rng.random() < 0.9 else rng.choice(WORDS))
        elif not parameter.is_flag:
            words.append(rng.choice(WORDS))
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
    return words


# -- recipes ----------------------------------------------------------------------------------------------------------

#: Pieces of YAML, of which some are none.
PIECES = (
    "seed: &a 1\nsteps: *a", "pruner: *b", "a: &a [*a]", "seed: !!int ''", "seed: !!timestamp x", "seed: 2026-13-45",
    "? [1]\n: 2", "? {a: 1}\n: 2", "<<: {seed: 1}", "<<: 3", "seed: !!set {a, b}", "seed: !!omap [a: 1]", "=: 1",
    "seed: !!binary aGk=", "seed: 0o17", "seed: 1:59:59", "- 1\n- 2", "---\n---\n", "%YAML 9.9\n---\nseed: 1", "{", "}",
    "seed: !x 1", ":", "- :", "\t", "seed: [", "#", "seed: '", "seed: |\n x", "@", "`", "seed: 0x" + "f" * 5000,
    "seed: " + "9" * 5000, "pruner: " + "[" * 3000, "pruner: " + "{a: " * 3000, "seed: .nan", "keep: .inf",
    "\n".join(" " * d + "a:" for d in range(200)), "\ufeffseed: 1", "seed: 1\n\0", "seed: 1\x85",
)  # fmt: skip


def recipe(rng: random.Random) -> bytes:
    if rng.random() < 0.15:
        return rng.randbytes(rng.randrange(200))
    if rng.random() < 0.4:
        return "\n".join(rng.sample(PIECES, rng.randrange(1, 3))).encode(errors="surrogatepass")
    made: dict[Any, Any] = {}
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice([*Recipe.model_fields, *STAGE_OPTIONS, *ALGORITHMS])
        if name in STAGE_OPTIONS or name in ALGORITHMS:
            section, one = option(rng)
            made[section] = {one: values(rng)} if rng.random() < 0.8 else values(rng)
        else:
            made[name] = values(rng)
    text = yaml.safe_dump(made, allow_unicode=True) if rng.random() < 0.5 else json.dumps(made)
    data = text.encode(errors="surrogatepass")
    return data[: rng.randrange(1, len(data))] if rng.random() < 0.1 else data


# -- configs of models ------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every entry of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def spoil(rng: random.Random, folder: Path) -> str:
    """Change an entry of one of a folder's configs. What was done."""
    files = sorted(p for p in folder.rglob("*.json"))
    path = rng.choice(files)
    whole = json.loads(path.read_text())
    ways = list(places(whole))
    # vocabularies are long: half of the time an entry above them
    short = [way for way in ways if len(way) <= 2]
    way = rng.choice(short if rng.random() < 0.5 else ways)
    owner = whole
    for key in way[:-1]:
        owner = owner[key]
    kind, before = rng.random(), owner[way[-1]]
    if kind < 0.1:
        del owner[way[-1]]
        done = "removed"
    elif kind < 0.35 and isinstance(before, int | float) and not isinstance(before, bool):
        others = [0, 1, -before, before + 1, before * 2, before * 1000, before / 2, str(before), [before]]
        owner[way[-1]] = done = rng.choice(others)
    elif kind < 0.45 and isinstance(before, list):
        owner[way[-1]] = done = rng.choice([before[:-1], before * 2, [], before[::-1], [before]])
    else:
        owner[way[-1]] = done = values(rng)
    text = json.dumps(whole)
    if rng.random() < 0.05:
        text = done = rng.choice(
            ["[" * 5000, "9" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, text[::2], "", "\x80", "null"]
        )
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return f"{path.relative_to(folder)} {way} {done!r:.100}"
