"""Phases of the ImageNet program of 2018, as recipes."""

from __future__ import annotations

import tomllib

import pytest

from eighteen.base import recipe as recipes
from eighteen.base.errors import RecipeError
from eighteen.base.old_phases import translated
from eighteen.base.recipe import Recipe
from eighteen.base.schedule import schedule

IMAGENET = 1_281_167

# As the program printed them.
PRINTED = {
    1: "[{'ep': 0, 'sz': 128, 'bs': 512, 'trndir': '-sz/160'}, {'ep': (0, 7), 'lr': (1.0, 2.0)}, {'ep': (7, 13),"
    " 'lr': (2.0, 0.25)}, {'ep': 13, 'sz': 224, 'bs': 224, 'trndir': '-sz/352', 'min_scale': 0.087}, {'ep': (13, 22),"
    " 'lr': (0.4375, 0.043750000000000004)}, {'ep': (22, 25), 'lr': (0.043750000000000004, 0.004375)}, {'ep': 25,"
    " 'sz': 288, 'bs': 128, 'min_scale': 0.5, 'rect_val': True}, {'ep': (25, 28), 'lr': (0.0025, 0.00025)}]",
    2: "[{'ep': 0, 'sz': 128, 'bs': 256, 'trndir': '-sz/160'}, {'ep': (0, 6), 'lr': (1.5, 3.0)}, {'ep': 6, 'sz': 128,"
    " 'bs': 512, 'keep_dl': True}, {'ep': 6, 'lr': 3.0}, {'ep': (11, 13), 'lr': (3.0, 1.5)}, {'ep': 13, 'sz': 224,"
    " 'bs': 224, 'trndir': '-sz/352', 'min_scale': 0.087}, {'ep': 13, 'lr': 1.3125}, {'ep': (16, 23), 'lr': (1.3125,"
    " 0.13125)}, {'ep': (23, 28), 'lr': (0.13125, 0.013125)}, {'ep': 28, 'sz': 288, 'bs': 128, 'min_scale': 0.5,"
    " 'rect_val': True}, {'ep': (28, 30), 'lr': (0.0075, 0.00075)}]",
    4: "[{'ep': 0, 'sz': 128, 'bs': 256, 'trndir': '-sz/160'}, {'ep': (0, 6), 'lr': (2.0, 4.0)}, {'ep': 6, 'sz': 128,"
    " 'bs': 512, 'keep_dl': True}, {'ep': 6, 'lr': 4.0}, {'ep': (11, 13), 'lr': (4.0, 2.0)}, {'ep': 13, 'sz': 224,"
    " 'bs': 224, 'trndir': '-sz/352', 'min_scale': 0.087}, {'ep': 13, 'lr': 1.75}, {'ep': (16, 24), 'lr': (1.75,"
    " 0.17500000000000002)}, {'ep': (24, 28), 'lr': (0.17500000000000002, 0.0175)}, {'ep': 28, 'sz': 288, 'bs': 128,"
    " 'min_scale': 0.5, 'rect_val': True}, {'ep': (28, 30), 'lr': (0.01, 0.001)}]",
    8: "[{'ep': 0, 'sz': 128, 'bs': 128, 'trndir': '-sz/160'}, {'ep': (0, 6), 'lr': (1.92, 3.84)}, {'ep': 6,"
    " 'bs': 256, 'keep_dl': True, 'lr': 3.84}, {'ep': (11, 14), 'lr': (3.84, 1.92)}, {'ep': 14, 'sz': 224, 'bs': 128,"
    " 'trndir': '-sz/352', 'min_scale': 0.087, 'lr': 1.92}, {'ep': 17, 'bs': 224, 'keep_dl': True}, {'ep': (17, 23),"
    " 'lr': (1.92, 0.336)}, {'ep': (23, 29), 'lr': (0.336, 0.0336)}, {'ep': 29, 'sz': 288, 'bs': 128,"
    " 'min_scale': 0.5, 'rect_val': True}, {'ep': (29, 36), 'lr': (0.0192, 0.0019199999999999998)}]",
    16: "[{'ep': 0, 'sz': 128, 'bs': 64, 'trndir': '-sz/160'}, {'ep': (0, 6), 'lr': (1.88, 3.76)}, {'ep': 6,"
    " 'bs': 128, 'keep_dl': True}, {'ep': 6, 'lr': 3.76}, {'ep': 16, 'sz': 224, 'bs': 64}, {'ep': 16, 'lr': 1.88},"
    " {'ep': 19, 'bs': 192, 'keep_dl': True}, {'ep': 19, 'lr': 0.564}, {'ep': 31, 'lr': 0.05639999999999999},"
    " {'ep': 37, 'sz': 288, 'bs': 128, 'min_scale': 0.5, 'rect_val': True}, {'ep': 37, 'lr': 0.037599999999999995},"
    " {'ep': (38, 50), 'lr': 0.00376}]",
}

# By machines of 8 GPUs: epochs (from, to), size, batch of a GPU, least crop, rectangular, rate (from, to)
TABLES = {
    1: [
        (0, 7, 128, 512, 0.08, False, 1, 2),
        (7, 13, 128, 512, 0.08, False, 2, 0.25),
        (13, 22, 224, 224, 0.087, False, 0.4375, 0.04375),
        (22, 25, 224, 224, 0.087, False, 0.04375, 0.004375),
        (25, 28, 288, 128, 0.5, True, 0.0025, 0.00025),
    ],
    2: [
        (0, 6, 128, 256, 0.08, False, 1.5, 3),
        (6, 11, 128, 512, 0.08, False, 3, 3),
        (11, 13, 128, 512, 0.08, False, 3, 1.5),
        (13, 16, 224, 224, 0.087, False, 1.3125, 1.3125),
        (16, 23, 224, 224, 0.087, False, 1.3125, 0.13125),
        (23, 28, 224, 224, 0.087, False, 0.13125, 0.013125),
        (28, 30, 288, 128, 0.5, True, 0.0075, 0.00075),
    ],
    4: [
        (0, 6, 128, 256, 0.08, False, 2, 4),
        (6, 11, 128, 512, 0.08, False, 4, 4),
        (11, 13, 128, 512, 0.08, False, 4, 2),
        (13, 16, 224, 224, 0.087, False, 1.75, 1.75),
        (16, 24, 224, 224, 0.087, False, 1.75, 0.175),
        (24, 28, 224, 224, 0.087, False, 0.175, 0.0175),
        (28, 30, 288, 128, 0.5, True, 0.01, 0.001),
    ],
    8: [
        (0, 6, 128, 128, 0.08, False, 1.92, 3.84),
        (6, 11, 128, 256, 0.08, False, 3.84, 3.84),
        (11, 14, 128, 256, 0.08, False, 3.84, 1.92),
        (14, 17, 224, 128, 0.087, False, 1.92, 1.92),
        (17, 23, 224, 224, 0.087, False, 1.92, 0.336),
        (23, 29, 224, 224, 0.087, False, 0.336, 0.0336),
        (29, 36, 288, 128, 0.5, True, 0.0192, 0.00192),
    ],
    16: [
        (0, 6, 128, 64, 0.08, False, 1.88, 3.76),
        (6, 16, 128, 128, 0.08, False, 3.76, 3.76),
        (16, 19, 224, 64, 0.08, False, 1.88, 1.88),
        (19, 31, 224, 192, 0.08, False, 0.564, 0.564),
        (31, 37, 224, 192, 0.08, False, 0.0564, 0.0564),
        (37, 38, 288, 128, 0.5, True, 0.0376, 0.0376),
        (38, 50, 288, 128, 0.5, True, 0.00376, 0.00376),
    ],
}


def translation(text: str, num_gpus: int = 8) -> Recipe:
    return recipes.parse(tomllib.loads(translated(text, num_gpus=num_gpus)))


@pytest.mark.parametrize("machines", TABLES)
@pytest.mark.parametrize("epochs", [None, 7.3])
def test_every_step_of_imagenet18_has_the_size_batch_and_rate_of_its_table(machines, epochs):
    recipe = recipes.load(f"imagenet18-{machines}", epochs=epochs)
    plan, factor = schedule(recipe, IMAGENET), recipe.epochs / TABLES[machines][-1][1]
    assert plan.num_steps > 100
    for number in range(plan.num_steps):
        step, epoch = plan.at(number), plan.planned(number) / factor + 1e-9
        row = next(row for row in reversed(TABLES[machines]) if row[0] <= epoch)
        start, end, size, batch, min_scale, rect, first, last = row
        lr = first + (last - first) * (epoch - start) / (end - start)
        assert (step.size, step.batch, step.row.min_scale) == (size, batch * 8 * machines, min_scale)
        assert step.lr == pytest.approx(lr, rel=2e-5), f"at epoch {epoch}"
        measures = recipe.eval_in(step.row)
        assert (measures.size, measures.rect) == (size, rect)


@pytest.mark.parametrize("machines", PRINTED)
def test_imagenet18_is_the_translation_of_what_the_program_printed_but_reads_any_rendition(machines):
    ours, theirs = recipes.load(f"imagenet18-{machines}"), translation(PRINTED[machines], 8 * machines)
    phases = tuple(phase.model_copy(update={"rendition": None}) for phase in theirs.phases)
    told = {"name": ours.name, "about": ours.about, "claim": ours.claim}
    assert theirs.model_copy(update={**told, "phases": phases}) == ours


def test_folders_of_smaller_copies_become_renditions_until_a_phase_names_none():
    assert [phase.rendition for phase in translation(PRINTED[4]).phases] == ["160", "160", "352", None]


def test_an_older_list_with_rates_that_drop_and_use_ar():
    text = (
        "[{'ep':0, 'sz':128, 'bs':512}, {'ep':(0,5), 'lr':(1,2)}, {'ep':5, 'lr':1},"
        " {'ep':14, 'sz':224, 'bs':192, 'use_ar':True}, {'ep':(16,20), 'lr':[0.1]}]"
    )
    recipe = translation(text, 1)
    assert [(phase.epochs, phase.batch) for phase in recipe.phases] == [(14, 512), (6, 192)]
    assert [round(schedule(recipe, 10**7).at(step).lr, 3) for step in (0, 97_655, 97_657, -1 + 273_437)] == [1, 2, 1, 1]
    assert recipe.eval.rect


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "__import__('os').system('true')",
            r"got what is no plain data \(malformed node or string\), need a list of dicts",
        ),
        ("[{'ep': 0, 'lr': lr*2}]", "no plain data"),
        ("[{'ep': 0, 'bs': open('x')}]", "no plain data"),
        ("[{[]: 0}]", "no plain data"),
        ("\x00", "no plain data"),
        ("[" * 50_000, "no plain data"),
        ("[{'ep': 0x" + "f" * 50_000 + "}]", "no plain data"),
        ("[" + " " * 200_000 + "]", "got 200,002 characters"),
        ("", "no plain data"),
        ("[]", r"got \[\]"),
        ("{'ep': 0}", "need a list of dicts"),
        ("[1, 2]", "need a list of dicts"),
        ("[{}]", "entry 0: got only nothing, need ep, and bs or lr"),
        ("[{'ep': 0, 'sz': 128}]", "got only ep, sz"),
        ("[{'ep': 0, 'rect_vale': 1}]", "entry 0: got an unknown key 'rect_vale'.*\n.*did you mean 'rect_val'"),
        ("[{'ep': 0, 7: 128}]", "unknown key 7"),
        ("[{'ep': 0, 'sz': 128, 'bs': 8}]", "got no lr in any entry"),
        ("[{'ep': (0, 1), 'lr': 1}]", "got no bs in any entry"),
        ("[{'ep': 0, 'bs': 8, 'lr': 1}, {'ep': (1, 2), 'lr': 1}]", "got bs without sz"),
        ("[P, {'ep': (1, 2), 'lr': 1}]", "got a gap: the first lr is at epoch 1, need lr from epoch 0 on"),
        ("[{'ep': 1, 'sz': 8, 'bs': 8}, {'ep': (0, 2), 'lr': 1}]", "got a gap: the first bs is at epoch 1"),
        ("[P, {'ep': (0, 2), 'lr': 1}, {'ep': (3, 4), 'lr': 1}]", "entry 1: got a gap from epoch 2 to 3"),
        ("[P, {'ep': (0, 3), 'lr': 1}, {'ep': (2, 4), 'lr': 1}]", "entry 1: got an overlap from epoch 2 to 3"),
        ("[P, P, {'ep': (0, 3), 'lr': 1}]", "entry 1: got an overlap: bs at epoch 0 after bs at epoch 0"),
        ("[P, {'ep': 5, 'sz': 8, 'bs': 8}, {'ep': (0, 3), 'lr': 1}]", "from epoch 5 on, where the rates have ended"),
        (
            "[{'ep': (0, 5), 'sz': 32, 'bs': 8}, {'ep': 7, 'sz': 64, 'bs': 8}, {'ep': (0, 9), 'lr': 1}]",
            r"entry 0: got a gap from epoch 5 to 7, need sizes that follow each other .*\n.*'ep': \(0, 7\)",
        ),
        (
            "[{'ep': (0, 5), 'sz': 32, 'bs': 8}, {'ep': 3, 'bs': 9, 'keep_dl': True}, {'ep': (0, 9), 'lr': 1}]",
            "entry 0: got an overlap from epoch 3 to 5",
        ),
        ("[{'ep': (0, 9), 'sz': 32, 'bs': 8}, {'ep': (0, 3), 'lr': 1}]", "entry 0: got an overlap from epoch 3 to 9"),
        ("[P, {'ep': 0, 'lr': 1}]", "got no end after epoch 0, need 'ep': \\(first, last\\) at last"),
        ("[P, {'ep': 0, 'lr': (1, 2)}, {'ep': (2, 3), 'lr': 1}]", "got two rates but no last epoch"),
        ("[P, {'ep': (3, 0), 'lr': 1}]", "need \\(first, last\\) epochs that rise"),
        ("[P, {'ep': (0, 1, 2), 'lr': 1}]", "need ep as one or two numbers"),
        ("[P, {'ep': (), 'lr': 1}]", "need ep as one or two numbers"),
        ("[P, {'ep': (0, 1), 'lr': -1}]", "got lr -1, need lr as one or two numbers"),
        ("[P, {'ep': (0, 1), 'lr': 1e999}]", "got lr inf"),
        ("[P, {'ep': (0, 1), 'lr': 1j}]", "got lr 1j"),
        ("[P, {'ep': (0, 1), 'lr': True}]", "got lr True"),
        ("[P, {'ep': (0, 1), 'lr': 'x'}]", "got lr 'x'"),
        ("[{'ep': 0, 'sz': 128.5, 'bs': 8}, {'ep': (0, 1), 'lr': 1}]", "got sz 128.5, need sz as a whole number"),
        ("[{'ep': 0, 'sz': 4, 'bs': 8}, {'ep': (0, 1), 'lr': 1}]", r"phases\[0\]\.size: got 4"),
        ("[{'ep': 0, 'sz': 36, 'bs': 8, 'rect_val': True}, {'ep': (0, 1), 'lr': 1}]", "multiple of 32"),
        (
            "[{'ep': 0, 'sz': 32, 'bs': 8, 'rect_val': 1}, {'ep': (0, 1), 'lr': 1}]",
            "got rect_val 1, need True or False",
        ),
        ("[{'ep': 0, 'sz': 32, 'bs': 8, 'min_scale': 2}, {'ep': (0, 1), 'lr': 1}]", r"phases\[0\]\.min_scale: got 2"),
        ("[{'ep': 0, 'sz': 32, 'bs': 8, 'trndir': '\"\\n[x]'}, {'ep': (0, 1), 'lr': 1}]", "got trndir .*'-sz/160'"),
        ("[{'ep': 0, 'bs': 8, 'keep_dl': True}, {'ep': (0, 1), 'lr': 1}]", "got keep_dl in the first phase"),
        (
            "[P, {'ep': 1, 'sz': 8, 'bs': 8, 'keep_dl': True}, {'ep': (0, 2), 'lr': 1}]",
            "got keep_dl with sz 8, need sz 32",
        ),
    ],
    ids=lambda value: value[:24],
)
def test_what_are_no_phases_is_refused_in_four_parts(text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        translation(text.replace("P,", "{'ep': 0, 'sz': 32, 'bs': 8},"))
    assert len(str(caught.value)) < 600


def test_gpus_are_one_or_more():
    with pytest.raises(RecipeError, match="--gpus: got 0"):
        translated(PRINTED[1], num_gpus=0)
