"What a run asks of its callbacks, ours and a person's own"
import ast
from pathlib import Path

import pytest
from fastai.callback.core import Callback

from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.runs.checkpoints import set_training_state, training_state
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.run_callback import ORDERS

PACKAGE = Path(__file__).parents[1]/'cifar_fastai'


def test_each_order_is_read_from_the_table():
    named = set()
    for path in PACKAGE.rglob('*.py'):
        for part in ast.walk(ast.parse(path.read_text())):
            if not isinstance(part, ast.ClassDef): continue
            bases = [base.id for base in part.bases if isinstance(base, ast.Name)]
            assert 'Callback' not in bases or part.name == 'RunCallback', f'{path.name}: {part.name}'
            if 'RunCallback' not in bases: continue
            source = ast.unparse(part)
            assert f"ORDERS['{part.name}']" in source and source.count('ORDERS[') == 1, part.name
            named.add(part.name)
    assert named == set(ORDERS)


class Counts(Callback):
    "A plain callback of a person's own, with something to keep"
    count = 0
    def after_step(self): self.count += 1
    def checkpoint_state(self): return {'count': self.count}
    def resume_state(self, state): self.count = state['count']


class Forgets(Callback):
    count = 0
    def after_step(self): self.count += 1


class Stays(Counts): in_sweep = False


def learner_of(data, recipe, *cbs):
    learner = cifar_learner(image_dataloaders(data, recipe), recipe, cbs=list(cbs))
    return learner.no_bar(), learner.no_logging(), learner


def test_a_plain_callback_is_kept_by_its_two_methods(tiny_data, tiny_recipe):
    states = []
    class Keep(Callback):
        order = 95
        def after_epoch(self): states.append(training_state(self.learn))
    quiet, silent, learner = learner_of(tiny_data, tiny_recipe, Counts(), Forgets(), Keep())
    with quiet, silent: fit_recipe(learner, 0.05)
    steps = len(learner.dls.train)*tiny_recipe.epochs
    assert states[-1]['callbacks']['counts'] == {'count': steps} and 'forgets' not in states[-1]['callbacks']

    again = Counts(), Forgets()
    class Resume(Callback):
        def before_fit(self): set_training_state(self.learn, states[-1])
    quiet, silent, learner = learner_of(tiny_data, tiny_recipe, *again, Resume())
    with quiet, silent: fit_recipe(learner, 0.05)
    assert [part.count for part in again] == [2*steps, steps]


@pytest.mark.parametrize('kind, goes', [(Counts, True), (Stays, False)])
def test_a_callback_may_stay_out_of_the_sweep(kind, goes, tiny_data, tiny_recipe):
    seen = []
    class Looks(kind):
        def before_fit(self): seen.append(hasattr(self.learn, 'lr_finder'))
        def __deepcopy__(self, memo): return Looks()
    quiet, silent, learner = learner_of(tiny_data, tiny_recipe, Looks())
    with quiet, silent: learner.lr_find(num_it=20, show_plot=False, suggest_funcs=())
    assert seen == [True]*goes
