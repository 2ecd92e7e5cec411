"""Stages are values: names, order, inputs and commands follow from one list."""

from __future__ import annotations

from pathlib import Path

import pytest

from flc.cli.app import app
from flc.recipe import STAGE_OPTIONS, Choice, DistillStage, Recipe, RecoverStage, ScoreStage, resolve
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.job import Job
from flc.run.provenance import rests_on
from flc.run.stage import QUIET, WORDS, Stage, training
from flc.run.stages import PIPELINE, STAGES, places, until


@pytest.mark.parametrize("stage", [RecoverStage, DistillStage])
def test_every_option_of_a_training_is_in_its_fingerprint_but_how_it_is_saved_and_shown(stage):
    assert training(stage()).keys() == stage.model_fields.keys() - QUIET


def test_a_plan_is_made_again_where_the_share_of_first_frames_among_its_clips_is_another_one(tmp_path):
    def mark(**sections):
        recipe = Recipe(pruner=Choice(name="uniform"), **sections)
        return STAGES["score"].made_with(Job(recipe, tmp_path, Console(quiet=True)))

    plain, other = mark(), mark(recover=RecoverStage(given_share=0.3))
    assert plain != other and plain == mark(score=ScoreStage(given_share=0.5), recover=RecoverStage(given_share=0.3))


def test_a_stage_reads_what_an_earlier_one_makes():
    for number, stage in enumerate(PIPELINE):
        earlier = {one.name for one in PIPELINE[:number]}
        assert {*stage.reads.values(), *stage.rests_on} <= earlier and stage.reads.keys() <= WORDS.keys(), stage.name
        assert stage.given.keys() <= stage.reads.keys()


def test_a_stage_s_name_is_its_command_and_its_section():
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert STAGES.keys() <= commands
    assert STAGE_OPTIONS.keys() <= STAGES.keys(), "a section that no stage reads"
    kinds = [stage.kind for stage in PIPELINE if stage.kind]
    assert kinds == ["pruner", "recovery", "distiller"] and set(kinds) <= Recipe.model_fields.keys()


def test_folders_are_called_as_their_stage_but_for_the_one_that_is_handed_out(tmp_path):
    job = Job(completed(resolve({}, {}, {})), tmp_path, Console(quiet=True))
    called = {stage.name: stage.place(job).name for stage in PIPELINE}
    assert {name: folder for name, folder in called.items() if name != folder} == {"export": "pipeline"}
    given = places(job, STAGES["distill"], {"plan": Path("mine")})
    assert given == {"data": tmp_path / "prepare", "plan": Path("mine"), "recovered": tmp_path / "recover"}


def test_until_ends_with_the_stage_that_is_named():
    assert [stage.name for stage in until("prune")] == ["prepare", "score", "prune"] and until(None) == PIPELINE
    assert rests_on(STAGES["distill"]) == {"prepare", "score", "recover"}, "pruned weights are trained by nobody"


def test_a_stage_is_made_once_and_again_with_another_option(tmp_path):
    """The example of `Stage`'s docstring, with an option."""
    ran = []

    class Weigh(Stage):
        name, reads = "weigh", {"plan": "score"}

        def made_with(self, job):
            return {"seed": job.recipe.seed}

        def work(self, job, inputs, folder):
            ran.append(inputs["plan"].name)
            (folder / "share.txt").write_text("0.7")
            return {"fact": 1}

    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "done.json").write_text("{}")
    for seed, times in ((0, 1), (0, 1), (1, 2)):
        job = Job(completed(resolve({"seed": seed}, {}, {})), tmp_path, Console(quiet=True))
        made = Weigh().run(job, {"plan": tmp_path / "score"})
        assert made == tmp_path / "weigh" and len(ran) == times
    assert (tmp_path / "weigh" / "share.txt").read_text() == "0.7"
