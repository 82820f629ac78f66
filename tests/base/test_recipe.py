import tomllib

import pytest

from eighteen.base import recipe as recipes
from eighteen.base.errors import RecipeError


@pytest.mark.parametrize("name", list(recipes.bundled()))
def test_bundled_recipe_survives_writing_and_reading(name):
    recipe = recipes.load(name, side=32)
    assert recipe.name == name
    assert recipe.about
    assert recipe.claim
    assert recipes.parse(tomllib.loads(recipes.dump(recipe))) == recipe


def test_epochs_stretch_phases_and_rates_in_proportion():
    recipe = recipes.load("fast", epochs=9)
    assert [phase.epochs for phase in recipe.phases] == [5, 4]
    assert recipe.optim.lr == [(0, 0), (1, 1.2), (9, 0)]


def test_batch_is_the_first_phases_and_the_others_follow():
    recipe = recipes.load("fast", changes=["phases.1.batch=1024"], batch=512)
    assert [phase.batch for phase in recipe.phases] == [512, 256]
    assert recipe.optim.batch == 2048  # what the rates are written for stays


def test_a_phase_has_a_micro_batch_of_its_own_or_the_one_of_all():
    own = ["phases.1.micro_batch=0", "phases.2.micro_batch=8"]
    recipe = recipes.load("small", changes=["train.micro_batch=16", *own])
    assert recipe.micro_batches == tuple(row.micro_batch for row in recipe.flat_phases) == (16, 0, 8)
    assert recipes.load(recipe, changes=["train.ghost_batch=4"]).micro_batches == (4, 4, 4)


def test_another_model_brings_no_args():
    assert recipes.load("fast", model="vgg16").model.args == {}
    assert recipes.load("fast", model="eighteen.training.blurpool:blurred").model.args != {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phases.1.sise=3", r"phases\[1\]\.sise: got an unknown key.*\n.*did you mean 'size'"),
        ("modl.name='x'", "did you mean 'model'"),
        ("phases.1.size=-1", r"phases\[1\]\.size: got -1, need greater than or equal to 8"),
        ("phases.7.size=64", "got 7, need a row from 0 to 1"),
        ("optim.name='adam'", "got 'adam', need 'sgd', 'adamw', 'lars' or 'muon'"),
        ("optim.lr=[[1, 0.1]]", "epochs start at 0 and rise"),
        ("optim.lr=[[0, 0.1], [5, 0]]", "optim.lr ends at epoch 5 but the phases end at 18"),
        ("augment.rotate=[10, -10]", r"rotate needs \[min, max\]"),
        ("eval.size=70%", "eval.size: got '70%'"),
        ("eval.size=200", "need a size that is a multiple of 32 for rect, not 200"),
        ("phases.1.eval_size=200", r"need phases\[1\] evaluated at a multiple of 32 for rect, not 200"),
        ("eval.tta=flop", "eval.tta: got 'flop', need 'none', 'flip' or 'crops'"),
        (
            "data={order='by-shards', balance='sampling'}",
            'data: got values that contradict each other, need order "shuffled"',
        ),
        ("budget.cost_usd=5", "budget: got values that contradict each other, need price_usd_h beside cost_usd"),
        ("phases=3", "phases: got 3, need a valid tuple"),
        ("phases.0='a'", r"phases\[0\]: got 'a', need a valid dictionary"),
        ("eval=3", "eval: got 3, need a valid dictionary"),
        ("nothing", "got no key=value"),
        ("name.x.y=1", "not a table"),
    ],
)
def test_wrong_key_or_value_says_what_is_valid(change, message):
    with pytest.raises(RecipeError, match=message):
        recipes.load("fast", changes=[change])


def test_unknown_recipe_says_did_you_mean():
    with pytest.raises(RecipeError, match="did you mean 'fast'"):
        recipes.load("fsat")


def test_own_recipe_is_a_file(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(recipes.text("fast").replace('name = "fast"', 'name = "mine"'))
    assert recipes.load(str(mine)).name == "mine"
    mine.write_text("name = ")
    with pytest.raises(RecipeError, match="need TOML"):
        recipes.load(str(mine))


def test_a_rendition_may_be_named_by_its_side():
    recipe = recipes.load("small", changes=["phases.0.rendition=160", "data.rendition=352"])
    assert (recipe.phases[0].rendition, recipe.data.rendition) == ("160", "352")


def test_size_in_percent_is_of_the_datasets_side():
    recipe = recipes.load("fast", changes=["phases.0.size=70%", "eval.size=100%", "eval.rect=false"], side=28)
    assert (recipe.phases[0].size, recipe.phases[1].size, recipe.eval.size) == (20, 160, 28)


def test_the_last_phase_says_how_the_run_is_evaluated():
    recipe = recipes.load(
        "fast", changes=["phases.0.eval_size=128", "phases.1.eval_size=288", "phases.1.eval_rect=false"]
    )
    first, last = (recipe.eval_in(phase) for phase in recipe.phases)
    assert (first.size, first.rect, first.crop) == (128, True, 0.875)
    assert (last.size, last.rect, last.batch) == (288, False, recipe.eval.batch)
    assert recipe.final_eval == last
    assert recipes.evaluated(recipe) == last
    changed = recipes.evaluated(recipe, size=160, rect=True, tta="flip", crop=None)
    assert (changed.size, changed.rect, changed.tta, changed.crop) == (160, True, "flip", 0.875)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 200, "rect": True}, r"got 200|need a size that is a multiple of 32 for rect, not 200"),
        ({"tta": "flop"}, "eval.tta: got 'flop', need 'none', 'flip' or 'crops'"),
        ({"crop": 1.5}, "eval.crop: got 1.5, need less than or equal to 1"),
    ],
)
def test_another_evaluation_that_is_not_valid_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message) as error:
        recipes.evaluated(recipes.load("small"), **changes)
    assert error.value.hint == "eighteen eval --help shows what can be changed"


def test_bundled_recipes_are_in_the_order_of_their_names_and_numbers():
    names = list(recipes.bundled())
    assert names.index("imagenet18-2") < names.index("imagenet18-16")
    assert names.index("fast") < names.index("fast-28")
