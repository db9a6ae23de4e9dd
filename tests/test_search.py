"A search: its space, its journal under kills, its trials as runs, what it names, and its page"
import dataclasses
import json
import multiprocessing
import os
import re
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip('optuna', reason='the extra search is not installed')
pytest.importorskip('plotly', reason='the extra search is not installed')

from browsers import MARKS, browser  # noqa: F401, a fixture
from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput, Diverged
from cifar_fastai.comparison.comparison import compare_runs
from cifar_fastai.data.loaders import ImageLoader
from cifar_fastai.data.sources import load_images
from cifar_fastai.runs.files import read_run
from cifar_fastai.search import trials
from cifar_fastai.search.__main__ import main
from cifar_fastai.search.naming import holdout_noise
from cifar_fastai.search.page import curve_strands
from cifar_fastai.search.searching import search_recipes, set_images_aside
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.search.space import Range, Search, field_to_vary
from cifar_fastai.search.trials import open_search, run_trials, trial_table
from cifar_fastai.training.stopping import GaveUp

EPOCHS = 4


def space_of(*words): return dict(map(field_to_vary, words))


def score(recipe, epoch): return 0.4 + 0.1*epoch - 0.15*abs(np.log10(recipe.lr) + 1) + (0.05 if recipe.augment == 'trivial' else 0)


def pretend_training(recipe, folder, name, cbs, **_):
    "In the place of a training: reports epochs, is pruned as one is, and writes down that it was done"
    trial, = (part.trial for part in cbs)
    known = trial._get_latest_trial().intermediate_values
    for epoch in range(1, EPOCHS + 1):
        if epoch not in known: trial.report(score(recipe, epoch), epoch)
        if epoch < EPOCHS and trial.should_prune(): raise GaveUp(f'after epoch {epoch} of {EPOCHS}')
    with open(folder.parent/'done.txt', 'a') as file: file.write(f'{name}\n')
    return SimpleNamespace(metrics={'test_accuracy': score(recipe, EPOCHS)})


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(trials, 'train_session', pretend_training)
    monkeypatch.setattr(trials.gc, 'collect', lambda: None)  # half a second each here, and nothing to collect


@pytest.fixture
def search(tiny_recipe):
    return Search(dataclasses.replace(tiny_recipe, epochs=EPOCHS, set_aside=30), space_of('lr=0.001..1:log', 'augment=crop_flip,trivial', 'width=4..16'))


def table_of(search, data, folder, count):
    study = open_search(search, data, EPOCHS, folder)
    run_trials(study, search, folder, count, say=lambda line: print(line, flush=True))  # shown where a test fails
    return trial_table(study, search)


def in_a_process(act):
    "Run `act` in a copy of this process; the signal that ended it, 0 where none did"
    child = os.fork()
    if not child:
        try: act()
        except BaseException as error: print(error, flush=True); os._exit(1)
        os._exit(0)
    return child


def killed_at(number, act):
    "Whether a process that does `act` is killed before it adds its `number`-th line to the journal"
    from optuna.storages.journal import JournalFileBackend
    append, left = JournalFileBackend.append_logs, [number]
    def counted(self, logs):
        left[0] -= 1
        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
        append(self, logs)
    def act_and_die():
        JournalFileBackend.append_logs = counted
        act()
    return os.waitpid(in_a_process(act_and_die), 0)[1] != 0


# The space

@pytest.mark.parametrize('words, text', [
    ('--vary lr=0..1:log', 'lr 0 is not a number above 0'), ('--vary lr=1..0.1', 'must be the smaller'), ('--vary momentum=0.5..1', 'below 1'), ('--vary ema=0..0.9:log', 'no power of ten at 0'),
    ('--vary width=8..64.5', 'whole number'), ('--vary lr=0.1..find', 'lr find is not'), ('--vary lr=0.1..1:ln', "'ln' is no scale"), ('--vary lr=0.1,1:log', "':log' is for a range"), ('--vary augment=a..b', "unknown augmentation 'a..b'"),
    ('--vary augment=crop_flip', 'one value is nothing to search\nSay --augment crop_flip'), ('--vary whiten=yes,true', 'one value'), ('--vary lr', 'names no values'), ('--vary widht=8,16', "did you mean 'width'"),
    ('--vary', 'expected one argument'), ('', 'nothing to search'), ('--vary seed=0..9', 'seed is for repeating'), ('--vary limit=100,200', 'which images there are'), ('--vary set_aside=10,20', 'which images there are'),
    ('--vary epochs=2..9', '--pruner none'), ('--vary ema=0,0.9 --vary lookahead=0,5', 'both smooth the weights'), ('--vary lr=0.1..1 --vary lr=1..2', 'varied twice'), ('--lr 0.1 --vary lr=0.1..1', 'Leave one of them out'),
    ('--vary lr=..', "'..' lacks an end"), ('--vary width=8..', 'Write LOW..HIGH'), ('--holdout 9 --set-aside 9 --vary lr=0.1..1', 'both say how many images judge'),
    ('--vary lr=0.1..1 --trials 0', '--trials 0 is not'), ('--vary lr=0.1..1 --method grid', "unknown method 'grid'"), ('--vary lr=0.1..1 --pruner best', "unknown pruner 'best'"), ('--vary lr=0.1..1 --repeats -1', 'at least 0')])
def test_what_cannot_be_searched_is_refused_at_the_door(words, text, capfd):
    assert run_command(main, words.split()) == 2
    said = capfd.readouterr().err
    assert text in said and 1 <= len(said.splitlines()) <= 5


@pytest.mark.parametrize('text', ['momentum=0.8..0.9 if optimizer=sgd', 'lr=0.1,0.2|augment=trivial', 'lr=0.1..1@sgd', 'lr=0.1..1 when whiten', 'lr=0.1?0.2:0.3'])
def test_a_condition_is_refused_by_name(text, capfd):
    assert run_command(main, ['--vary', text]) == 2
    assert 'has a condition, and a search takes none' in capfd.readouterr().err


def test_each_kind_of_field_is_drawn_from_its_space():
    space = space_of('lr=0.001..1:log', 'width=8..64:log', 'whiten=yes,no', 'augment=crop_flip,trivial', 'momentum=0.5..0.9', 'muon-steps=1,3')
    assert space == dict(lr=Range(0.001, 1., True), width=Range(8, 64, True, True), whiten=(True, False), augment=('crop_flip', 'trivial'), momentum=Range(0.5, 0.9), muon_steps=(1, 3))
    assert Search(Recipe(), space).fields(dict(lr=0.000999999, width=9, whiten=True, augment='trivial', momentum=0.123456789, muon_steps=3)) == dict(lr=0.001, width=9, whiten=True, augment='trivial', momentum=0.5, muon_steps=3)


# The journal

def test_the_same_search_draws_the_same_trials_however_often_it_is_killed(search, tiny_data, tmp_path, pretended):
    "A process is killed before each of many lines of the journal, also between the draws of one trial"
    wanted = table_of(search, tiny_data, tmp_path/'whole', 14)
    assert set(wanted.state) == {'complete', 'pruned'} and wanted.lr.nunique() == 14
    kills, number = 0, 0
    while killed_at(number, lambda: table_of(search, tiny_data, tmp_path/'killed', 14)): kills, number = kills + 1, (7*number + 5) % 23
    found = table_of(search, tiny_data, tmp_path/'killed', 14)
    pd.testing.assert_frame_equal(found.drop(columns='seconds'), wanted.drop(columns='seconds'))
    assert kills >= 10 and not (found.state == 'running').any()


def test_several_workers_lose_and_double_no_trial(search, tiny_data, tmp_path, pretended):
    children = [in_a_process(lambda: table_of(search, tiny_data, tmp_path, 12)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    found, done = table_of(search, tiny_data, tmp_path, 12), (tmp_path/'done.txt').read_text().split()
    assert len(found) == 12 and not (found.state == 'running').any() and len(set(done)) == len(done) == (found.state == 'complete').sum()


def test_more_trials_go_on_where_fewer_ended(search, tiny_data, tmp_path, pretended):
    table_of(search, tiny_data, tmp_path/'two', 2)
    pd.testing.assert_frame_equal(table_of(search, tiny_data, tmp_path/'two', 4).drop(columns='seconds'), table_of(search, tiny_data, tmp_path/'one', 4).drop(columns='seconds'))
    assert len(table_of(search, tiny_data, tmp_path/'two', 3)) == 4


def test_half_a_line_in_the_journal_is_taken_away_and_a_damaged_one_is_refused(search, tiny_data, tmp_path, pretended):
    table_of(search, tiny_data, tmp_path, 2)
    journal = tmp_path/'journal.log'
    with open(journal, 'ab') as file: file.write(b'{"op_code":4,"worker_i')
    assert len(table_of(search, tiny_data, tmp_path, 3)) == 3
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b''.join([*lines[:4], b'{"op_code":\n', *lines[4:]]))
    with pytest.raises(BadInput, match='is damaged'): table_of(search, tiny_data, tmp_path, 3)


def test_another_search_in_the_folder_is_refused_by_name(search, tiny_data, tmp_path, pretended):
    open_search(search, tiny_data, EPOCHS, tmp_path)
    for other, text in ((dataclasses.replace(search, space={**search.space, 'lr': Range(0.01, 1., True)}), 'space.lr was 0.001..1:log and is 0.01..1:log'),
                        (dataclasses.replace(search, pruner='none'), 'pruner was median and is none'),
                        (dataclasses.replace(search, recipe=dataclasses.replace(search.recipe, optimizer='sgd')), 'recipe.optimizer was muon and is sgd')):
        with pytest.raises(BadInput, match=re.escape(text)): open_search(other, tiny_data, EPOCHS, tmp_path)
    with pytest.raises(BadInput, match='images.train was'): open_search(search, dataclasses.replace(tiny_data, fingerprints={**tiny_data.fingerprints, 'train': '0'}), EPOCHS, tmp_path)
    (tmp_path/'search.json').unlink()
    (tmp_path/'trials'/'0000').mkdir()
    with pytest.raises(BadInput, match='nobody knows what they are of'): open_search(search, tiny_data, EPOCHS, tmp_path)


def test_a_trial_that_diverges_is_pruned_and_one_that_cannot_be_had_fails_and_both_are_said(search, tiny_data, tmp_path, monkeypatch, pretended):
    wrong, lines = {0: Diverged('the loss became nan in epoch 1\nTry --lr'), 2: RuntimeError('not enough memory')}, []
    def training(recipe, folder, name, **more):
        if int(name) in wrong: raise wrong[int(name)]
        return pretend_training(recipe, folder, name, **more)
    monkeypatch.setattr(trials, 'train_session', training)
    study = open_search(search, tiny_data, EPOCHS, tmp_path)
    run_trials(study, search, tmp_path, 4, say=lines.append)
    assert trial_table(study, search).state.tolist() == ['pruned', 'complete', 'fail', 'complete']
    assert lines[0].endswith('pruned the loss became nan in epoch 1') and lines[2].endswith('failed RuntimeError: not enough memory')
    wrong.update(dict.fromkeys(range(9), BadInput('no such file')))
    with pytest.raises(BadInput, match='the first 3 trials failed: no such file'): table_of(search, tiny_data, tmp_path/'all', 9)


def test_a_recipe_that_cannot_be_fails_its_trial_and_no_other(search, tiny_data, tmp_path, monkeypatch, pretended):
    made = Search.trial_recipe
    def refuse(self, drawn):
        if drawn['augment'] == 'trivial': raise BadInput('no such recipe')
        return made(self, drawn)
    monkeypatch.setattr(Search, 'trial_recipe', refuse)
    found = table_of(dataclasses.replace(search, searcher='random', pruner='none'), tiny_data, tmp_path, 8)
    assert set(found.state) == {'fail', 'complete'} and found.state.tolist() == found.augment.map({'trivial': 'fail', 'crop_flip': 'complete'}).tolist()
    assert set(found.why) == {'no such recipe', ''}


def test_a_search_without_an_epoch_is_drawn_without_a_word(search, tiny_data, tmp_path, capfd):
    study = open_search(search, tiny_data, EPOCHS, tmp_path)
    capfd.readouterr()
    assert curve_strands(study) is None and capfd.readouterr().err == ''


def test_what_the_machine_refuses_leaves_the_trial_to_go_on(search, tiny_data, tmp_path, monkeypatch, pretended):
    def full(*_, **__): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(trials, 'train_session', full)
    with pytest.raises(OSError): table_of(search, tiny_data, tmp_path, 2)
    monkeypatch.setattr(trials, 'train_session', pretend_training)
    found = table_of(search, tiny_data, tmp_path, 2)
    assert found.trial.tolist() == [0, 1] and set(found.state) == {'complete'}


# Trials that train

@pytest.fixture(scope='module')
def found(tiny_folder, tiny_recipe, tmp_path_factory):
    "A search of four trials, one of which diverges, with what was fetched before the test set was read"
    folder, seen, stage, lines = tmp_path_factory.mktemp('search'), [], [0], []
    data = load_images(str(tiny_folder))
    tests = {image.tobytes() for image in data.images[data.test_positions]}
    fetch = ImageLoader.create_batches
    def noted(self, samples):
        for batch in fetch(self, samples):
            seen.append((stage[0], any(image.tobytes() in tests for image in batch[0].permute(0, 2, 3, 1).numpy())))
            yield batch
    def say(line):
        lines.append(line)
        stage[0] += line.startswith('\nnamed')
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), holdout=15, epochs=1, augment='none', optimizer='sgd')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageLoader, 'create_batches', noted)
        for drawing in ('interpreted.explain', 'folder.write_samples', 'session.training_figures'): patch.setattr(f'cifar_fastai.runs.{drawing}', lambda *_: None)  # half a minute here
        named = search_recipes(recipe, space_of('lr=1e-4,0.05,1e30'), 4, 'random', 'none', repeats=2, out=folder/'search', command='again', say=say)
    return SimpleNamespace(named=named, folder=folder/'search', seen=seen, lines=lines, recipe=recipe)


def test_trials_are_runs_that_compare_takes_and_the_test_set_is_read_once_for_the_one_that_is_named(found):
    assert not any(test for stage, test in found.seen if stage == 0) and any(test for stage, test in found.seen if stage)
    table, page = pd.read_csv(found.folder/'trials.csv'), (found.folder/'search.html').read_text()
    before = '\n'.join(found.lines[:next(number for number, line in enumerate(found.lines) if line.startswith('\nnamed'))])
    assert 'aside    ' in before and 'test     ' not in before
    complete = table[table.state == 'complete']
    assert len(table) == 4 and set(table[table.lr == 1e30].state) <= {'pruned'} and 'pruned, because' in page
    for row in complete.itertuples():
        record = read_run(found.folder/'trials'/f'{row.trial:04}')
        assert record.recipe.lr == row.lr and record.recipe.set_aside == 15 and record.metrics['test_accuracy'] == row.accuracy and record.metrics['valid_is'] == 'holdout'
    compared = compare_runs([found.folder/'trials'/f'{number:04}' for number in complete.trial[:2]] if complete.lr.nunique() > 1 else sorted((found.folder/'repeats').glob('*-seed*')))
    assert len(compared.arms[0].kept[0]) == 15
    result, named = json.loads((found.folder/'result.json').read_text()), read_run(found.named.path)
    assert result['recipes_tested'] == 1 and result['test_accuracy'] == named.metrics['test_accuracy'] and named.recipe.set_aside == named.recipe.holdout == 0
    best = max(found.named.comparison.arms, key=lambda arm: arm.accuracies.mean())
    assert {arm.n for arm in found.named.comparison.arms} == {2} and result['fields']['lr'] in {str(best.records[0].recipe.lr), best.records[0].recipe.lr}
    with pytest.raises(BadInput, match='different test images'): compare_runs([found.named.path, found.folder/'trials'/f'{complete.trial.iloc[0]:04}'])


def test_the_same_command_again_trains_nothing(found, monkeypatch):
    monkeypatch.setattr(ImageLoader, 'create_batches', None)
    again = search_recipes(found.recipe, space_of('lr=1e-4,0.05,1e30'), 4, 'random', 'none', repeats=2, out=found.folder, test=False, say=lambda line: None)
    assert again.fields == found.named.fields and again.trial == found.named.trial


def test_the_page_is_whole_and_asks_for_nothing(found):
    page = (found.folder/'search.html').read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "default-src 'none'" in page and len(page) < 300_000
    for part in ('id="repeats"', 'id="course"', 'id="trials"', 'id="next"', 'judged on 15 training images', 'within the noise'): assert part in page, part


def narrow(browser, width):
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': False})
    return browser.execute_script('return document.documentElement.scrollWidth')


@pytest.mark.slow
@MARKS[1]
def test_the_page_fits_a_phone_in_a_browser_that_objects_to_nothing(found, browser):
    axe = pytest.importorskip('axe_core_python.selenium')
    browser.get((found.folder/'search.html').as_uri())
    assert narrow(browser, 1280) <= 1280 and narrow(browser, 390) <= 390
    assert max(browser.execute_script("return [...document.querySelectorAll('#trials tbody tr')].map(row => row.offsetHeight)")) < 80
    assert [one['id'] for one in axe.Axe().run(browser)['violations']] == [] and browser.get_log('browser') == []


def die_in_a_trial(search, data, folder):
    "Run a trial that is killed when it has reported two epochs"
    report = trials.ReportEpochs.before_epoch
    def report_and_die(self):
        report(self)
        if len(self.history.rows) == 2: os.kill(os.getpid(), signal.SIGKILL)
    trials.ReportEpochs.before_epoch = report_and_die
    table_of(search, data, folder, 1)


def test_a_trial_that_is_killed_goes_on_from_its_checkpoint_bit_for_bit(tiny_folder, tiny_recipe, tmp_path):
    recipe, data = set_images_aside(dataclasses.replace(tiny_recipe, data=str(tiny_folder), holdout=15, epochs=3, optimizer='sgd'))
    search = Search(recipe, space_of('lr=0.01..0.1:log'), 'random', 'none')
    def weights(folder): return read_run(folder/'trials'/'0000').metrics['fingerprints']['weights']
    process = multiprocessing.get_context('spawn').Process(target=die_in_a_trial, args=(search, data, tmp_path/'killed'))  # not a fork: PyTorch's autograd may refuse to work in one
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path/'killed'/'trials'/'0000'/'checkpoint').glob('*.json'))) == 1
    one, two = table_of(search, data, tmp_path/'killed', 1), table_of(search, data, tmp_path/'whole', 1)
    pd.testing.assert_frame_equal(one.drop(columns='seconds'), two.drop(columns='seconds'))
    assert weights(tmp_path/'killed') == weights(tmp_path/'whole')


def test_a_batch_that_no_trial_could_fill_is_refused_before_the_first(tiny_folder, tiny_recipe, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), holdout=15)
    for space, more, text in ((space_of('batch_size=8..46'), {}, '--vary batch_size: 46 is larger than the 45 images'), (space_of('batch_size=8,auto,64'), {}, '--vary batch_size: 64'),
                              (space_of('lr= 0.1 .. 1 : log'), {'batch_size': 50}, '--batch-size: 50 is')):
        with pytest.raises(BadInput, match=text): search_recipes(dataclasses.replace(recipe, **more), space, 2, out=tmp_path/'none')
    assert not (tmp_path/'none').exists()


def test_a_run_judged_on_images_set_aside_has_the_same_for_every_seed(tiny_folder, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), limit=50, holdout=12)
    (aside, data), (_, other) = set_images_aside(recipe), set_images_aside(dataclasses.replace(recipe, seed=7))
    assert aside.set_aside == len(data.test_positions) == 12 and data.train_count == 38 and data.fingerprints == other.fingerprints
    assert not set(data.names[:38]) & set(data.names[38:]) and all(name.startswith('train') for name in data.names)


@pytest.mark.parametrize('name', ['optuna', 'plotly'])
def test_what_is_not_installed_is_refused_by_name_before_anything(tiny_recipe, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadInput, match=rf"this needs {name}.*\n.*pip install 'cifar_fastai\[search\]'"): search_recipes(tiny_recipe, space_of('lr=0.1..1'), out=tmp_path/'none')
    assert not (tmp_path/'none').exists()


def test_the_noise_of_the_hold_out_is_that_of_a_coin():
    assert holdout_noise(0.8, 5000) == pytest.approx(1.96*(0.8*0.2/5000)**0.5, rel=0.01)
