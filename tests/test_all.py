"`from cifar_fastai.all import *`: all of fastai's names as they were, and a chosen few of ours"
import builtins
import keyword

import fastai.vision.all as theirs
import pytest

CONTRACT = {'Recipe', 'train', 'cifar_dataloaders', 'cifar_learner', 'CifarInterpretation', 'explore', 'heatmaps', 'load_run'}
WORDS = {'train', 'heatmaps', 'explore', 'compare'}  # lower-case words that are given out: the verbs a person comes for
FASTAI = {name: value for name, value in vars(theirs).items() if not name.startswith('_')}


@pytest.fixture(scope='module')
def given():
    "What a notebook has after the star"
    names = {}
    exec('from cifar_fastai.all import *', names)
    return {name: value for name, value in names.items() if not name.startswith('__')}


def test_no_name_of_fastai_is_missing_or_means_anything_else(given):
    assert len(FASTAI) > 1000
    assert [name for name, value in FASTAI.items() if given.get(name, None) is not value] == []


def test_what_is_added_is_ours_has_a_docstring_and_holds_the_contract(given):
    added = {name: value for name, value in given.items() if name not in FASTAI}
    assert CONTRACT <= set(added) and len(added) < 80
    for name, value in added.items():
        assert value.__module__.startswith('cifar_fastai.') and value.__name__ == name
        assert value.__doc__ and not value.__doc__.startswith(f'{name}('), f'{name} says nothing of itself'


def test_no_common_word_is_taken_from_a_person(given):
    added = set(given) - set(FASTAI)
    assert {name for name in added if name.isalpha() and name.islower()} == WORDS
    assert not added & (set(dir(builtins)) | set(keyword.kwlist))
