"""Table 2 at equal compute: its factors against block evaluations that are counted, not against a formula."""

from __future__ import annotations

import pytest

from benchmarks import table2, table2_compute
from benchmarks.cells import Scale
from tests.comparison import counted

CELLS = {scale: {cell.label: cell for cell in table2_compute.table(scale).rows} for scale in ("tiny", "wan-14b")}
TRAINED = ("lcm", "magic", "icmd", "fastlightgen", "fastlightgen, blocks at equal intervals")


@pytest.fixture
def count(adapter, make_wan):
    return counted.Counted(adapter, make_wan(10))


def total(count, label: str, scale: str) -> float:
    return sum(count.of(CELLS[scale][label], Scale(scale)).values())


@pytest.mark.parametrize("label", TRAINED)
def test_every_method_that_trains_has_dmd2s_evaluations(count, label):
    """Within 3 %: whether stage II skips its blocks is drawn, .9 of the time; 8 draws stand for all here."""
    assert total(count, label, "tiny") == pytest.approx(total(count, "dmd2", "tiny"), rel=0.03)


@pytest.mark.parametrize("label", ["lcm", "fastlightgen"])
def test_so_it_is_at_full_size_on_as_many_blocks(count, label, monkeypatch):
    """Within 8 %: the exit step is drawn for a batch, the mean of 24 of four varies by .23, a tenth of an iteration."""
    monkeypatch.setattr(counted, "ITERATIONS", 24)
    assert total(count, label, "wan-14b") == pytest.approx(total(count, "dmd2", "wan-14b"), rel=0.08)


def test_what_was_counted_by_hand_from_the_equations_is_what_runs(count):
    """dmd2 at equal iterations, ten blocks: 560 updates of fake and head on one rollout of 2.5 steps in the mean (25),
    the fake's own (30), the head's two looks through the teacher (20); 260 of the generator with another rollout
    (15 + 30), teacher and fake (10 + 10) and the critic through the teacher (10 + 20). lcm: teacher, average and
    student, 10 + 10 + 30."""
    assert total(count, "dmd2", "tiny") == 560 * (25 + 30 + 20) + 260 * (15 + 30 + 10 + 10 + 30)
    lcm = {cell.label: cell for cell in table2.table("tiny").rows}["lcm"]
    assert sum(count.of(lcm, Scale("tiny")).values()) == 560 * 50


def test_rows_that_train_nothing_and_dmd2s_are_table_2s():
    for scale in ("tiny", "wan-14b", "hunyuan-13b"):
        equal = table2_compute.table(scale).rows
        same = [cell for cell in table2.table(scale).rows if cell in equal]
        assert {cell.label for cell in same} == {"teacher, 4 steps", "dmd2", "blocks by F3's score"}
    assert table2_compute.table("tiny").name == "table2_compute"
