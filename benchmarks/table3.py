"""A blind comparison by people, in place of the paper's user study (Table 3).

    python -m benchmarks.table3 [--scale tiny] [--seeds 0 1 2] [--pairs 42]   writes table3.html, its key and table3.md
    python -m benchmarks.table3 --votes votes-*.json                          scores the votes, with intervals

The page is self-contained: pairs of clips of the same prompt and noise, the flagship's student against another row,
left and right by lot, without a name. Votes are kept by the browser and saved as a JSON file; which side was which is
in the key alone. A tie counts half. The interval is Wilson's, 95 %, at the number of votes: it takes votes as
independent, which several by one person are not quite. The paper had models of several alpha rated one by one; its
scores stand below ours, and are not comparable with them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from benchmarks import figure
from benchmarks.cells import Cell
from benchmarks.common import RESULTS, made_by, write
from benchmarks.paper import printed
from benchmarks.render import as_printed, head, line
from benchmarks.runner import Runs
from benchmarks.table import add_arguments, plan, runs_of
from benchmarks.table2 import INTERVALS, OURS, table
from flc.errors import UserError
from flc.models.folder import read_json

PAGE = Path(__file__).with_name("pairs.html")
Question = Literal["action", "vision"]
QUESTIONS = get_args(Question)
"""The paper's two scores: of the motion, and of what is seen."""
OF_RUNS = ("scale", "seeds", "runs_of")
"""What a key says of the runs whose clips are shown."""


def rivals(scale: str) -> list[Cell]:
    """All rows of Table 2 but ours, as it is, and with other blocks."""
    return [cell for cell in table(scale).cells if cell not in (OURS, INTERVALS)]


def cells(scale: str) -> list[Cell]:
    return [*rivals(scale), OURS]


def videos(runs: Runs, cell: Cell, seed: int) -> dict[int, Path]:
    """Clips of a finished cell by the number of their prompt."""
    folder = runs.path(cell, seed) / "evaluate" / "videos" / cell.row
    return {int(path.stem): path for path in folder.glob("*.mp4")}


def make_pairs(runs: Runs, seeds: Sequence[int], count: int, lot: random.Random) -> list[dict[str, Any]]:
    """`count` of all pairs of ours with a rival's clip of the same prompt and noise, each rival about as often."""
    by_rival: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        mine, metrics = videos(runs, OURS, seed), runs.path(OURS, seed) / "metrics.json"
        prompts = read_json(metrics)["prompts"] if metrics.exists() else []
        for rival in rivals(runs.scale.name):
            theirs = videos(runs, rival, seed)
            for index in sorted(mine.keys() & theirs.keys()):
                pair = {"caption": prompts[index]["caption"], "ours": mine[index], "theirs": theirs[index]}
                by_rival.setdefault(rival.label, []).append(pair | {"rival": rival.label})
    for pairs in by_rival.values():
        lot.shuffle(pairs)
    turns = max(map(len, by_rival.values()), default=0)
    chosen = [pairs[i] for i in range(turns) for pairs in by_rival.values() if i < len(pairs)][:count]
    lot.shuffle(chosen)
    return chosen


def sides(pairs: Sequence[dict[str, Any]], lot: random.Random) -> list[str]:
    """Whose clip stands on the left, by lot, each about as often as the other against every rival: who prefers a side
    prefers no method by it."""
    decks: dict[str, list[str]] = {}
    for rival in dict.fromkeys(pair["rival"] for pair in pairs):
        count = sum(pair["rival"] == rival for pair in pairs)
        both = lot.sample(["ours", "theirs"], 2)  # of an odd number, one side has one more
        decks[rival] = [both[i % 2] for i in range(count)]
        lot.shuffle(decks[rival])
    return [decks[pair["rival"]].pop() for pair in pairs]


def write_page(
    pairs: Sequence[dict[str, Any]], page: Path, key: Path, lot: random.Random, about: dict[str, Any]
) -> None:
    """The page knows numbers and clips; the key says which rival a number is, on which side ours stands, and `about`:
    of which runs the clips are."""
    shown, secret = [], {}
    for number, (pair, left) in enumerate(zip(pairs, sides(pairs, lot), strict=True)):
        right = "theirs" if left == "ours" else "ours"
        clips = {
            side: base64.b64encode(pair[who].read_bytes()).decode() for side, who in (("left", left), ("right", right))
        }
        shown.append({"id": str(number), "caption": pair["caption"], **clips})
        secret[str(number)] = {"rival": pair["rival"], "ours": "left" if left == "ours" else "right"}
    bytes_of_all = b"".join(pair[who].read_bytes() for pair in pairs for who in ("ours", "theirs"))
    study = hashlib.sha256(bytes_of_all + json.dumps(secret).encode()).hexdigest()[:16]  # these clips on these sides
    data = json.dumps({"study": study, "questions": QUESTIONS, "pairs": shown}).replace("<", "\\u003c")
    page.write_text(PAGE.read_text().replace("/*DATA*/null", data))
    key.write_text(json.dumps({"study": study, **about, "pairs": secret}, indent=1) + "\n")


def wilson(wins: float, votes: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927)."""
    share, spread = wins / votes, z * z / votes
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / votes + spread / (4 * votes))
    return max(0.0, middle - half), min(1.0, middle + half)


class Ballot(BaseModel):
    """What the page saves: `votes` are by pair and question."""

    study: str
    voter: str = ""
    saved: float = 0.0
    votes: dict[str, dict[Question, Literal["left", "right", "tie"]]] = {}


def read_ballot(file: Path) -> Ballot:
    """`UserError` where the file is none."""
    try:
        return Ballot.model_validate(read_json(file))
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the file"
        raise UserError(f"{file} is no ballot of the page: {where}: {wrong['msg']}") from error


def score(files: Sequence[Path], key: dict[str, Any]) -> dict[str, Any]:
    """How often ours was preferred to each rival, by question; of one voter's ballots the last saved counts."""
    read = sorted(((file, read_ballot(file)) for file in files), key=lambda pair: pair[1].saved)
    ballots = {ballot.voter or str(file): (file, ballot) for file, ballot in read}
    tally: dict[str, dict[str, list[float]]] = {}
    for file, ballot in ballots.values():
        if ballot.study != key["study"]:
            raise UserError(
                f"{file} holds votes on another page than this key's: give the votes of study {key['study']}"
            )
        for name, answers in ballot.votes.items():
            if name not in key["pairs"]:
                raise UserError(f"{file} votes on pair {name}, which this page does not have")
            pair = key["pairs"][name]
            for question, choice in answers.items():
                value = 0.5 if choice == "tie" else float(choice == pair["ours"])
                tally.setdefault(pair["rival"], {}).setdefault(question, []).append(value)
    rows = {
        rival: {
            question: {"preferred": sum(v) / len(v), "interval": wilson(sum(v), len(v)), "votes": len(v)}
            for question, v in sorted(by_question.items())
        }
        for rival, by_question in tally.items()
    }
    about = {name: key[name] for name in ("study", *OF_RUNS)}
    return about | {"voters": len(ballots), "rows": rows}


def unvoted(key: dict[str, Any]) -> str:
    """The table before there are votes: which pairs the page has."""
    rivals = [pair["rival"] for pair in key["pairs"].values()]
    lines = ["## Preferred to (blind pairs)", "", f"Study {key['study']}: nobody has voted yet.", "",
             *head(["ours against", "pairs"])]  # fmt: skip
    lines += [line([rival, str(rivals.count(rival))]) for rival in dict.fromkeys(sorted(rivals))]
    return "\n".join([*lines, "", *as_printed("table3", printed("table3"))]) + "\n"


def say_unvoted(name: str, key: dict[str, Any]) -> None:
    """In place of another study's votes; those of this one stay, when its page is made again."""
    counted = RESULTS / f"{name}.json"
    if counted.exists() and read_json(counted).get("study") == key["study"]:
        return
    for path in (counted, counted.with_suffix(".png")):
        path.unlink(missing_ok=True)
    counted.with_suffix(".md").write_text(unvoted(key))


def picture(found: dict[str, Any], path: Path) -> None:
    """How often ours was preferred, with the intervals; the line is that of no preference."""
    rows = found["rows"]
    drawing, ((axes,),) = figure.axes(7, 0.6 * len(rows) + 1.4)
    for number, question in enumerate(QUESTIONS):
        votes = [(place, row[question]) for place, row in enumerate(rows.values()) if question in row]
        share = [v["preferred"] for _, v in votes]
        reach = [[abs(v["interval"][side] - v["preferred"]) for _, v in votes] for side in (0, 1)]
        places = [place + 0.2 * number for place, _ in votes]
        axes.errorbar(share, places, xerr=reach, fmt="o", color=f"C{number}", label=question)
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("how often ours was preferred (95 %)")
    axes.legend(fontsize=9)
    figure.save(drawing, path)


def markdown(found: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [
        "## Preferred to (blind pairs)",
        "",
        f"Study {found['study']}: runs of scale {found['scale']}, seeds {seeds}; {found['voters']} voters. Intervals"
        " (Wilson) take votes as independent, which several by one person are not quite.",
        "",
        *head(["ours against", "question", "preferred", "95 %", "votes"]),
    ]
    for rival, questions in found["rows"].items():
        for question, v in questions.items():
            low, high = v["interval"]
            cells = [f"{v['preferred']:.2f}", f"{low:.2f} to {high:.2f}", str(v["votes"])]
            lines.append(line([rival, question, *cells]))
    return "\n".join([*lines, "", *as_printed("table3", printed("table3"))]) + "\n"


def count(name: str, votes: Sequence[Path], key: Path) -> int:
    try:
        found = score(votes, read_json(key))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    write(name, f"python -m benchmarks.{name.partition('_')[0]} --votes ...", found)
    (RESULTS / f"{name}.md").write_text(markdown(found))
    picture(found, RESULTS / f"{name}.png")
    print(markdown(found))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=42)
    parser.add_argument("--votes", type=Path, nargs="*", default=[], help="files that the page saved")
    args = parser.parse_args()
    name = "table3" if args.scale == "tiny" else f"table3_{args.scale}"
    page, key = RESULTS / f"{name}.html", RESULTS / f"{name}_key.json"
    if args.votes:
        return count(name, args.votes, key)
    runs = runs_of(args)
    shown = cells(args.scale)
    if args.list or args.dry_run:
        return plan(runs, shown, args)
    runs.run(shown, args.seeds, whole=True)
    lot = random.Random(0)
    pairs = make_pairs(runs, args.seeds, args.pairs, lot)
    if not pairs:
        print("no clips to compare: the cells failed, see their log.txt", file=sys.stderr)
        return 1
    about = {"scale": args.scale, "seeds": args.seeds, "runs_of": runs.commits(shown, args.seeds)}
    write_page(pairs, page, key, lot, made_by(f"python -m benchmarks.table3 --scale {args.scale}") | about)
    say_unvoted(name, read_json(key))
    print(f"{page}: {len(pairs)} pairs; votes are scored with --votes FILE")
    rows = {f"{c.label}, seed {s}": runs.row(c, s, whole=True) for c in shown for s in args.seeds}
    errors = [f"{label} is not among them: {row['error']}" for label, row in rows.items() if "error" in row]
    print("\n".join(errors), end="\n" * bool(errors))
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
