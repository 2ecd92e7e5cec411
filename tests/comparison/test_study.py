"""The blind study: what the page gives away, how votes are counted, intervals."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import table3
from benchmarks.cells import Scale
from benchmarks.runner import Runs
from flc.errors import UserError
from tests.comparison.made import finish

ABOUT = {"scale": "tiny", "seeds": [0, 2], "runs_of": ["abc"]}


@pytest.fixture
def study(tmp_path):
    """40 pairs against two rivals whose clips can be told apart by their bytes."""
    pairs = []
    for number in range(40):
        rival = ("dmd2", "lcm")[number % 2]
        paths = {who: tmp_path / f"{who}-{number}.mp4" for who in ("ours", "theirs")}
        for who, path in paths.items():
            path.write_bytes(f"{who} {number}".encode())
        pairs.append({"caption": f"text </script> {number}", "rival": rival, **paths})
    page, key = tmp_path / "page.html", tmp_path / "key.json"
    table3.write_page(pairs, page, key, random.Random(1), ABOUT)
    return page.read_text(), json.loads(key.read_text())


def shown(page: str) -> dict:
    return json.loads(re.search(r"const study = (\{.*\});", page).group(1))


def test_the_page_names_no_method_and_the_key_says_which_side_is_ours(study):
    import base64

    page, key = study
    data = shown(page)
    assert "dmd2" not in page and "lcm" not in page and "fastlightgen" not in page
    assert "</script> 3" not in page, "a caption must not end the script"
    for pair in data["pairs"]:
        ours = base64.b64decode(pair[key["pairs"][pair["id"]]["ours"]]).decode()
        assert ours == f"ours {pair['id']}"
    for rival in ("dmd2", "lcm"):
        sides = [pair["ours"] for pair in key["pairs"].values() if pair["rival"] == rival]
        assert (sides.count("left"), len(sides)) == (10, 20), "who votes by side prefers none"
        assert sides not in ([*["left"] * 10, *["right"] * 10], ["left", "right"] * 10), "in an order that is drawn"
    assert data["study"] == key["study"] and "src=" not in page and "http" not in page


def ballot(path, key, votes, voter=None, saved=0):
    path.write_text(json.dumps({"study": key["study"], "voter": voter or path.name, "saved": saved, "votes": votes}))
    return path


def test_votes_count_for_ours_against_each_rival_and_a_tie_counts_half(study, tmp_path):
    _, key = study
    against = {rival: [n for n, p in key["pairs"].items() if p["rival"] == rival] for rival in ("dmd2", "lcm")}
    ours = {n: key["pairs"][n]["ours"] for n in key["pairs"]}
    other = {"left": "right", "right": "left"}
    first = ballot(tmp_path / "1.json", key, {n: {"action": ours[n]} for n in against["dmd2"][:3]})
    lost = {"vision": other[ours[against["lcm"][0]]]}
    votes = {against["dmd2"][0]: {"action": "tie", "vision": "tie"}, against["lcm"][0]: lost}
    second = ballot(tmp_path / "2.json", key, votes)
    counted = table3.score([first, second], key)
    found = counted["rows"]
    assert counted["voters"] == 2
    assert found["dmd2"]["action"]["preferred"] == pytest.approx(3.5 / 4) and found["dmd2"]["action"]["votes"] == 4
    assert found["dmd2"]["vision"]["preferred"] == 0.5
    assert found["lcm"]["vision"]["preferred"] == 0.0
    assert counted["study"] == key["study"] and counted["seeds"] == [0, 2] and counted["runs_of"] == ["abc"]
    text = table3.markdown(counted)
    assert "| dmd2 | action | 0.88 |" in text and f"Study {key['study']}: runs of scale tiny, seeds 0, 2" in text
    assert "The paper's Table 3 (user study" in text and "| 1.0 | 2.920 | 3.610 |" in text


def test_votes_are_written_as_json_markdown_and_a_picture(study, tmp_path, monkeypatch, capsys):
    _, key = study
    votes = {n: {"action": p["ours"], "vision": "tie"} for n, p in key["pairs"].items() if n != "0"}
    (tmp_path / "table3_key.json").write_text(json.dumps(key))
    written = {}
    monkeypatch.setattr(table3, "RESULTS", tmp_path)
    monkeypatch.setattr(table3, "write", lambda name, script, values: written.update(values))
    monkeypatch.setattr("sys.argv", ["table3", "--votes", str(ballot(tmp_path / "b.json", key, votes))])
    assert table3.main() == 0
    assert written["rows"]["lcm"]["action"]["preferred"] == 1 and "pairs" not in written
    assert "| lcm | vision | 0.50 |" in (tmp_path / "table3.md").read_text()
    with Image.open(tmp_path / "table3.png") as picture:
        dots = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first two: one a question
        assert (dots == colour).all(1).sum() > 100


def test_a_page_that_is_made_again_leaves_its_votes_and_another_one_takes_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(table3, "RESULTS", tmp_path)
    key = {"study": "one", "pairs": {"0": {"rival": "lcm", "ours": "left"}}}
    for name, text in (("json", json.dumps({"study": "one"})), ("md", "votes"), ("png", "")):
        (tmp_path / f"table3.{name}").write_text(text)
    table3.say_unvoted("table3", key)
    assert (tmp_path / "table3.md").read_text() == "votes" and (tmp_path / "table3.png").exists()
    table3.say_unvoted("table3", key | {"study": "two"})
    assert "Study two: nobody has voted yet" in (tmp_path / "table3.md").read_text()
    assert not (tmp_path / "table3.json").exists() and not (tmp_path / "table3.png").exists()


def test_of_one_voters_ballots_the_last_saved_counts(study, tmp_path):
    _, key = study
    ours, rival = key["pairs"]["0"]["ours"], key["pairs"]["0"]["rival"]
    late = ballot(tmp_path / "late.json", key, {"0": {"action": ours}}, voter="a", saved=2)
    early = ballot(tmp_path / "early.json", key, {"0": {"action": "tie"}}, voter="a", saved=1)
    counted = table3.score([late, early], key)
    assert counted["voters"] == 1 and counted["rows"][rival]["action"] == {
        "preferred": 1.0, "interval": table3.wilson(1, 1), "votes": 1,
    }  # fmt: skip


def test_other_clips_or_sides_make_another_study(tmp_path):
    def made(content: bytes, seed: int) -> str:
        (tmp_path / "o.mp4").write_bytes(content)
        (tmp_path / "t.mp4").write_bytes(b"theirs")
        pairs = [{"caption": "a", "rival": "lcm", "ours": tmp_path / "o.mp4", "theirs": tmp_path / "t.mp4"}] * 8
        table3.write_page(pairs, tmp_path / "p.html", tmp_path / "k.json", random.Random(seed), ABOUT)
        return json.loads((tmp_path / "k.json").read_text())["study"]

    assert made(b"one", 0) == made(b"one", 0)
    assert len({made(b"one", 0), made(b"two", 0), made(b"one", 1)}) == 3


def test_pairs_are_of_one_prompt_and_seed_and_rivals_take_turns(tmp_path):
    runs, some = Runs(tmp_path, Scale("tiny"), 1), table3.rivals("tiny")[:3]
    for seed in (0, 1):
        for cell in [*some, table3.OURS]:
            out = runs.path(cell, seed)
            (out / "evaluate" / "videos" / cell.row).mkdir(parents=True)
            for index in (0, 3, 5):
                (out / "evaluate" / "videos" / cell.row / f"{index}.mp4").write_bytes(b"")
            (out / "metrics.json").write_text(json.dumps({"prompts": [{"caption": f"{seed}-{i}"} for i in range(6)]}))
    pairs = table3.make_pairs(runs, [0, 1], 12, random.Random(0))
    assert len(pairs) == 12 and sorted({p["rival"] for p in pairs}) == sorted(c.label for c in some)
    for pair in pairs:
        seed, index = pair["caption"].split("-")
        rival = next(c for c in some if c.label == pair["rival"])
        assert pair["ours"].stem == pair["theirs"].stem == index
        assert pair["ours"].is_relative_to(runs.path(table3.OURS, int(seed)))
        assert pair["theirs"].is_relative_to(runs.path(rival, int(seed)))
    counts = [sum(p["rival"] == c.label for p in pairs) for c in some]
    assert counts == [4, 4, 4]


def test_a_rival_that_failed_is_named_and_the_page_is_made_without_it(tmp_path, monkeypatch, capsys):
    runs = Runs(tmp_path / "runs", Scale("tiny"), 1)
    monkeypatch.setattr(Runs, "_call", lambda self, arguments, out: 1)  # nothing is really run
    monkeypatch.setattr(table3, "RESULTS", tmp_path)
    first, second, third, *_ = table3.rivals("tiny")
    for number, cell in enumerate([first, table3.OURS, third]):
        finish(runs, cell, 0, 0.5)
        out = runs.path(cell, 0)
        (out / "evaluate" / "videos" / cell.row).mkdir(parents=True)
        (out / "evaluate" / "videos" / cell.row / "0.mp4").write_bytes(bytes([number]))
    shutil.rmtree(runs.path(third, 0))
    monkeypatch.setattr("sys.argv", ["table3", "--seeds", "0", "--runs", str(tmp_path / "runs")])
    assert table3.main() == 1
    said = capsys.readouterr().out
    assert (tmp_path / "table3.html").exists() and "1 pairs" in said
    assert f"{second.label}, seed 0 is not among them" in said
    assert f"{third.label}, seed 0 is not among them" in said, "kept of another run, without clips"
    assert f"{first.label}, seed 0" not in said
    key = json.loads((tmp_path / "table3_key.json").read_text())
    assert (key["scale"], key["seeds"]) == ("tiny", [0]) and key["study"] and {"commit", "hardware"} <= key.keys()
    said = (tmp_path / "table3.md").read_text()
    assert "nobody has voted yet" in said and f"| {first.label} | 1 |" in said and "The paper's Table 3" in said


def test_ours_is_compared_with_no_run_of_its_own():
    for name in ("tiny", "wan-14b", "hunyuan-13b"):
        runs = Runs(Path("runs"), Scale(name), 1)
        assert runs.path(table3.OURS, 0) not in {runs.path(cell, 0) for cell in table3.rivals(name)}, name


def test_the_interval_is_wilsons():
    """Worked by hand for 8 of 10 at z = 2: the middle is (.8 + .2) / 1.4, the half width 2/1.4 sqrt(.016 + .01)."""
    low, high = table3.wilson(8, 10, z=2)
    half = 2 / 1.4 * (0.8 * 0.2 / 10 + 4 / 400) ** 0.5
    assert (low, high) == pytest.approx((1 / 1.4 - half, 1 / 1.4 + half))
    assert table3.wilson(0, 5)[0] == 0.0 and table3.wilson(5, 5)[1] == 1.0


@pytest.mark.parametrize(
    ("votes", "says"),
    [
        ({"99": {"action": "left"}}, "pair 99"),
        ({"0": {"beauty": "left"}}, "votes.0.beauty"),
        ({"0": {"action": "both"}}, "votes.0.action"),
        ({"0": "left"}, "votes.0"),
        (["left"], "votes"),
    ],
)
def test_a_ballot_that_does_not_fit_the_page_is_refused(study, tmp_path, votes, says):
    _, key = study
    with pytest.raises(UserError, match=says):
        table3.score([ballot(tmp_path / "b.json", key, votes)], key)
    with pytest.raises(UserError, match="saved"):
        table3.score([ballot(tmp_path / "b.json", key, {}, saved="today")], key)
    with pytest.raises(UserError, match="voter"):
        table3.score([ballot(tmp_path / "b.json", key, {}, voter=["a"])], key)
    with pytest.raises(UserError, match="another page"):
        table3.score([ballot(tmp_path / "b.json", {"study": "x"}, {})], key)
