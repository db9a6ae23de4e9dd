"Warnings of a page: each on a run that deserves it, and not on one that doesn't"
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cifar_fastai.interpretation.predictions import ClassifiedImages
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.views.report_facts import run_warnings

EPOCHS = np.arange(1, 11)
COURSE = pd.DataFrame(dict(epoch=EPOCHS, train_loss=2/EPOCHS, train_accuracy=0.70 + 0.02*EPOCHS, valid_loss=2/EPOCHS**0.5, valid_accuracy=0.70 + 0.02*EPOCHS,
                           lr=np.sin(EPOCHS/10*3.1)*0.4, seconds=1.))  # one cycle: the loss falls to the end

LOW = COURSE.assign(train_accuracy=0.043*EPOCHS, valid_accuracy=0.046*EPOCHS)  # nothing is learnt by heart yet


def answers(accuracy=0.9, sure=0.9, count=4000, classes=4, blind=None, seed=0, extension='png'):
    draw = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    predicted = np.where(draw.random(count) < accuracy, targets, (targets + 1 + draw.integers(0, classes - 1, count)) % classes)
    if blind is not None: predicted[predicted == blind] = (blind + 1) % classes
    height = np.log(sure*(classes - 1)/(1 - sure))
    return ClassifiedImages((height*np.eye(classes)[predicted]).astype(np.float32), targets, np.array([f'{i}.{extension}' for i in range(count)]), tuple('abcdefgh'[:classes]))


def titles(kept=None, course=COURSE, metrics={}, data={}, curve=None, lr=0.1, read=9000, **fields):
    record = SimpleNamespace(path=Path('runs/one'), recipe=Recipe(**{'epochs': 10, **fields}), history=course, about={'resolved': {'lr': lr}, 'data': {
        'name': 'made', 'counts': {'train': 9000, 'valid': 4000, 'test': 4000}, 'valid_is': 'test', 'notes': [], **data}},
        metrics={'status': 'complete', 'valid_is': 'test', 'selected': 'last', 'epochs': 10, **metrics})
    found = run_warnings(record, kept or answers(), curve, read)
    assert all(text and (advice or title == 'Pictures') for title, text, advice in found)
    return [title for title, *_ in found]


def test_a_good_finished_run_deserves_none(): assert titles() == []


@pytest.mark.parametrize('title, guilty, innocent', [
    ('Under-fitted', dict(course=LOW), dict(course=LOW, epochs=25)),
    ('Under-fitted', dict(course=LOW, epochs=25, limit=9000, read=50_000), dict(course=LOW, epochs=25, limit=9000)),
    ('Under-fitted', dict(course=LOW, epochs=25, width=8), dict(course=LOW.assign(train_accuracy=0.06*EPOCHS), epochs=25, width=8)),
    ('Under-fitted', dict(course=LOW), dict(course=COURSE)),
    ('Under-fitted', dict(course=LOW), dict(course=LOW.assign(valid_accuracy=0.045*EPOCHS + 0.5))),
    ('Under-fitted', dict(course=LOW), dict(course=LOW, mixup=0.4)),
    ('No better than guessing', dict(kept=answers(0.25, 0.3)), dict(kept=answers(0.33, 0.35))),
    ('Never predicted', dict(kept=answers(blind=2)), dict(kept=answers(0.5, 0.5))),
    ('Over-fitting', dict(course=COURSE.assign(valid_loss=1 + abs(EPOCHS - 4)/10)), dict(course=COURSE.assign(valid_loss=1 + abs(EPOCHS - 9)/20))),
    ('Over-fitting', dict(course=COURSE.assign(train_accuracy=0.80 + 0.019*EPOCHS)), dict(course=COURSE.assign(train_accuracy=0.73 + 0.02*EPOCHS))),
    ('An early peak', dict(course=COURSE.assign(valid_accuracy=0.92 - abs(EPOCHS - 5)/100)), dict(course=COURSE.assign(valid_accuracy=0.92 - abs(EPOCHS - 9)/100))),
    ('An early peak', dict(course=COURSE.assign(valid_accuracy=0.92 - abs(EPOCHS - 5)/100)), dict(course=COURSE.assign(valid_accuracy=0.905 - abs(EPOCHS - 5)/1000))),
    ('The loss was still falling', dict(course=COURSE.assign(lr=0.1), schedule='constant'), dict()),
    ('Underconfident', dict(kept=answers(0.95, 0.7), label_smoothing=0.2), dict(kept=answers(0.95, 0.93), label_smoothing=0.2)),
    ('Overconfident', dict(kept=answers(0.7, 0.95)), dict(kept=answers(0.9, 0.92))),
    ('Overconfident', dict(kept=answers(0.5, 0.95)), dict(kept=answers(0.25, 0.95))),
    ('Few images', dict(kept=answers(count=120)), dict(kept=answers(count=2000))),
    ('Small classes', dict(kept=ClassifiedImages(5*np.eye(3, dtype=np.float32)[np.arange(2003) % 2*(np.arange(2003) < 2000) + 2*(np.arange(2003) >= 2000)],
        np.arange(2003) % 2*(np.arange(2003) < 2000) + 2*(np.arange(2003) >= 2000), np.arange(2003).astype(str), tuple('abc'))), dict()),
    ('Chosen on the hold-out', dict(metrics=dict(selected='best_on_holdout', valid_is='holdout')), dict(metrics=dict(valid_is='holdout'))),
    ('Small hold-out', dict(metrics=dict(selected='best_on_holdout', valid_is='holdout'), data=dict(counts={'valid': 100})),
        dict(metrics=dict(selected='best_on_holdout', valid_is='holdout'))),
    ('Pictures', dict(data=dict(notes=['3 images were grey'])), dict()),
    ('Re-encoded pictures', dict(data=dict(name='cifar10'), kept=answers(extension='jpg')), dict(data=dict(name='cifar10'))),
    ('A learning rate at the edge', dict(curve=pd.DataFrame(dict(lr=np.geomspace(1e-4, 1, 50), loss=1.)), lr=0.9), dict(curve=pd.DataFrame(dict(lr=np.geomspace(1e-4, 1, 50), loss=1.)), lr=0.01)),
    ('The run was interrupted', dict(metrics=dict(status='interrupted')), dict())])
def test_a_warning_stands_where_it_is_deserved(title, guilty, innocent):
    assert title in titles(**guilty) and title not in titles(**innocent)


def test_the_cause_of_a_low_confidence_is_named():
    record = SimpleNamespace(path=Path('runs/one'), recipe=Recipe(label_smoothing=0.2, mixup=0.4), history=COURSE, about={}, metrics={'status': 'complete'})
    text = next(text for title, text, _ in run_warnings(record, answers(0.95, 0.7)) if title == 'Underconfident')
    assert 'label smoothing of 0.2' in text and 'mixed images' in text
    plain = SimpleNamespace(**{**vars(record), 'recipe': Recipe(label_smoothing=0.)})
    assert not any('smoothing of' in text for _, text, _ in run_warnings(plain, answers(0.95, 0.7)))


def test_an_under_fitted_run_is_told_first_what_it_lacks_and_only_that():
    def said(**fields):
        record = SimpleNamespace(path=Path('runs/one'), recipe=Recipe(**fields), history=LOW, about={}, metrics={'status': 'complete'})
        title, _, advice = run_warnings(record, answers(0.95, 0.7), read=50_000)[0]
        assert title == 'Under-fitted'
        return advice
    assert all(words in said(width=8, epochs=3, limit=5000, augment='alternating') for words in ('all 50,000 training images (without --limit 5000)', '--epochs 18 as in quick, not 3', '--width 32 as in quick, not 8'))
    assert said(epochs=3) == 'For a higher accuracy train with more epochs (--epochs 25 as in default, not 3)'
