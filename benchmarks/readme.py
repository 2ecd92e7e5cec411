"""Write `docs/results.md` and the README's table from the committed results, so that no figure is typed by hand.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS, ROOT
from benchmarks.render import GUARDS, head, pair, ratio, signed

#: Shown beside the average, which is never printed alone: three of its parts, and the guards.
SCORES = ("caption_accuracy", "sharpness", "subject_consistency", "distribution", "diversity")
TITLES = [name.split("_")[0] for name in SCORES]
BEGIN, END = "<!-- measured: python -m benchmarks.readme -->", "<!-- end of measured -->"


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def made_by(*results: dict[str, Any]) -> str:
    """Of figures that were measured at another time than the tables: the commit and torch's version."""
    return "; ".join(dict.fromkeys(f"commit {r['commit']}, torch {r['versions']['torch']}" for r in results))


def averaged(values: dict[str, Any]) -> str:
    """What an average is of; results from before it was said have the first frame's fidelity in it, which measures the
    autoencoder, and not the consistency of outlines."""
    if names := values.get("averaged"):
        return f"the average is of {', '.join(name.replace('_', ' ') for name in names)}"
    return "under the earlier average, with first-frame fidelity and without subject consistency"


def quality(q: dict[str, Any]) -> list[str]:
    seeds, commits = (", ".join(map(str, q[name])) for name in ("seeds", "runs_of"))
    lines = [
        f"`--preset {q['preset']}`, seeds {seeds}, {q['clips']} clips a row and seed, commit {commits}; {averaged(q)}:",
        "",
        *head(["", "M parameters", "speed-up", "average", "student ahead by", *TITLES]),
    ]
    for row in q["rows"]:
        s = row["scores"]
        cells = [
            pair(row["average"]),
            signed(row["student_ahead"]) if row is not q["rows"][-1] else "",
            *(pair(s.get(n)) for n in SCORES),
        ]
        speed = f"{row['speed_up']['mean']:.1f}×"
        lines.append(f"| {row['title']} | {row['parameters'] / 1e6:.2f} | {speed} | " + " | ".join(cells) + " |")
    return lines


#: Table 2, twice: what its rows have in common.
EQUAL = {"table2": "number of training iterations", "table2_compute": "number of block evaluations in training, dmd2's"}


def comparison(name: str, values: dict[str, Any]) -> list[str]:
    """Table 2: every method's row, with the paper's average in a column of its own."""
    seeds, commits = (", ".join(map(str, values[name])) for name in ("seeds", "runs_of"))
    lines = [
        f"Methods under one trainer and one {EQUAL[name]}, each with its own best rates of a small"
        " search, fastlightgen with those of an earlier one (`python -m"
        f" benchmarks.{name}`, seeds {seeds}, commits {commits}; {averaged(values)}; all columns in"
        f" [results/{name}.md](../benchmarks/results/{name}.md)). The last column is the paper's average, of WanX-TI2V"
        " under VBench-I2V:",
        "",
        "| | steps | M parameters | k evaluations | speed-up | average"
        f" | less {values['reference']}'s | distribution | diversity | paper |",
        "|" + "---|" * 10,
    ]
    for label, row in values["rows"].items():
        if "average" not in row:
            lines.append(f"| {label} | failed: {row['error']} |" + " |" * 8)
            continue
        theirs = values["paper"].get(label, {}).get("average")
        cells = [
            str(row["steps"]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['block_evaluations']['mean'] / 1e3:.1f}" if "block_evaluations" in row else "n/a",
            ratio(row.get("speed_up")),
            pair(row["average"]),
            "" if label == values["reference"] else signed(row.get("ahead")),
            *(pair(row["scores"].get(n)) for n in GUARDS),
            "" if theirs is None else f"{theirs:.3f}",
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def edge(row: dict[str, Any]) -> str:
    values = [row["average"], *(row["scores"].get(n) for n in SCORES)]
    return f"| {row['title']} | " + " | ".join("n/a" if v is None else f"{v:.3f}" for v in values) + " |"


def first_line(values: dict[str, Any]) -> str:
    """Of both instruction sets."""
    kinds = values["instructions"]
    said = [
        f"{kinds[kind]['minutes']:.1f} minutes {title}, {kinds[kind]['peak_memory_gb']:.1f} GB at most"
        for kind, title in (("all", "with all instructions of this CPU"), ("avx2", "with AVX2 alone"))
    ]
    return f"{'; '.join(said)}; {values['minutes_avx2_over_all']:.2f} times as long"


def section() -> str:
    first, stage1, teacher, edges = (read(n) for n in ("first_line", "stage1", "teacher", "edges"))
    quick = read("quality_quick")
    machine = f"{quick['hardware']['cpu']}, torch {quick['hardware']['torch']}"
    lines = [
        f"On the embedded model, on two cores of one machine ({machine} unless said otherwise). Scripts and"
        " results: `benchmarks/`."
        ' Scores are in [0, 1], higher is better, mean ± standard deviation over seeds; "student ahead by" is the'
        " difference of averages within a run, whose rows share prompts and noise. Speed-up is of sampling, against"
        f" the first row: networks of each row's shape in turn, warm, mean over rounds (threads:"
        f' {quick["hardware"]["threads"]}). Where clips were kept, "ahead" has its 95% interval, paired clip by'
        " clip over seeds, and rows within it are level.",
        "",
        *quality(quick),
        "",
    ]
    if (RESULTS / "quality_full.json").exists():
        lines += [*quality(read("quality_full")), ""]
    words = [
        f"{row['name']} " + ", ".join(f"{row['words'][w]:.1%} {w}" for w in ("shape", "colour", "motion"))
        for row in teacher["rows"]
    ]
    ceiling = {
        n: read("ceiling")["rows"]["through the autoencoder"][n]
        for n in ("average", "sharpness", "distribution", "diversity")
    }
    by_n = stage1["block_evaluations_per_batch"]
    bright = ", ".join(f"{title} {b['mean']:.3f} ± {b['spread']:.3f}" for title, b in read("drift")["rows"].items())
    lines += [
        f"- The README's first line: {first_line(first)};"
        f" `flc --help` {first['help_seconds']:.2f} s ({made_by(first)}).",
        f"- The embedded model at 50 guided steps ({teacher['rows'][0]['clips']} clips a task, every caption): "
        + "; ".join(words)
        + f" ({made_by(teacher)}).",
        "- Drawn clips through the embedded autoencoder, which no row can be above but by chance: average"
        f" {pair(ceiling['average'])}, sharpness {pair(ceiling['sharpness'])}, distribution"
        f" {pair(ceiling['distribution'])}, diversity {pair(ceiling['diversity'])} ({made_by(read('ceiling'))}).",
        f"- Stage I in one sweep: {by_n['sweep']} block evaluations a batch instead of {by_n['naive']}, identical"
        f" scores ({stage1['identical_scores']}), {stage1['time_ratio_naive_over_sweep']:.2f} times as fast"
        f" ({made_by(stage1)}).",
        f"- Brightness of clips from text, mean ± standard deviation over clips (`--preset quick`, seed 0): {bright}"
        f" ({made_by(read('drift'))}).",
        "",
        f"The 4-step student of seed 0 elsewhere (`--preset quick`; {made_by(edges)}). Other numbers of steps"
        " are asked of the folder's"
        " scheduler, as a stock call does, which leaves the trained schedule; the last rows have one of their own:",
        "",
        *head(["", "average", *TITLES]),
        *(edge(row) for row in edges["rows"]),
    ]
    if (RESULTS / "table2.json").exists():
        lines += ["", *comparison("table2", read("table2"))]
    if (RESULTS / "table2_compute.json").exists():
        lines += ["", *comparison("table2_compute", read("table2_compute"))]
    return "\n".join(lines)


#: Rows of the README's table; what they are called there is the results' own title.
SHOWN = ("teacher-many", "teacher-few-guided", "student")


def table() -> str:
    """What the README's first line makes: scores of that very run, speed and sizes of the same preset's runs."""
    first, quick = read("first_line"), {row["name"]: row for row in read("quality_quick")["rows"]}
    kinds = first["instructions"]
    lines = head(["", "speed-up", "M parameters", "average", "distribution", "diversity"])
    for name in SHOWN:
        row, scores = quick[name], kinds["all"]["rows"][name]
        cells = [f"{row['speed_up']['mean']:.1f}×", f"{row['parameters'] / 1e6:.2f}"]
        cells += [f"{scores[n]:.3f}" for n in ("average", *GUARDS)]
        lines.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    minutes = " to ".join(sorted(f"{kind['minutes']:.1f}" for kind in kinds.values()))
    return "\n".join(
        [
            *lines,
            "",
            f"One run of the first line [below](#try-it), seed {kinds['all']['seed']}: {minutes} minutes on"
            f" {first['cores']} CPU cores, {kinds['all']['peak_memory_gb']:.1f} GB of memory (commit"
            f" {first['commit']}). Scores are in [0, 1], higher is better. The speed-up of sampling is of earlier runs"
            f" of this preset, over three seeds (commit {', '.join(read('quality_quick')['runs_of'])}).",
        ]
    )


def written(text: str, made: str) -> str:
    """A page with what stands between its marks replaced."""
    before, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{tail}"


#: What is written, and where.
PAGES = {"docs/results.md": section, "README.md": table}


def main() -> None:
    for name, make in PAGES.items():
        path = ROOT / name
        path.write_text(written(path.read_text(), make()))


if __name__ == "__main__":
    main()
