"Trackers follow a run, never change it, and never stop it"
import json
import os
import sqlite3
import sys
from types import SimpleNamespace

import pytest
from fastai.callback.core import Callback

from cifar_fastai.base.messages import BadInput
from cifar_fastai.base.trackers import TRACKERS, check_trackers
from cifar_fastai.runs.session import train_session
from cifar_fastai.runs.files import read_run
from cifar_fastai.training.stopping import GaveUp, ProcessLost

DRAWINGS = 'interpreted.explain', 'folder.write_samples'


@pytest.fixture(scope='module')
def recipe(tiny_recipe, tiny_folder):
    from dataclasses import replace
    return replace(tiny_recipe, data=str(tiny_folder), augment='crop_flip')


def trained(recipe, out, monkeypatch, trackers=(), **more):
    for drawing in DRAWINGS: monkeypatch.setattr(f'cifar_fastai.runs.{drawing}', lambda *_, **__: None)
    def page(run):
        (run.path/'report.html').write_text('<p>the page</p>')
        return run.path/'report.html'
    return train_session(recipe, out, 'run', say=lambda line: None, trackers=trackers, after=[page], **more)


@pytest.fixture(scope='module')
def plain(recipe, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch: return trained(recipe, tmp_path_factory.mktemp('plain'), patch).metrics['fingerprints']['weights']


def test_tensorboard_gets_each_epoch_each_step_and_the_figure(recipe, plain, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard', reason='the extra tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = trained(recipe, tmp_path, monkeypatch, ['tensorboard'])
    assert run.metrics['fingerprints']['weights'] == plain
    events = EventAccumulator(str(run.path/'tensorboard')).Reload()
    steps = len(run.learner.dls.train)
    assert [(event.step, event.value) for event in events.Scalars('valid_accuracy')] == [(steps*row.epoch, pytest.approx(row.valid_accuracy)) for row in run.history.itertuples()]
    assert [event.step for event in events.Scalars('step_loss')] == list(range(1, 2*steps + 1)) and events.Tags()['images'] == ['curves']
    assert events.Scalars('test_accuracy')[0].value == pytest.approx(run.metrics['test_accuracy'])


def test_wandb_keeps_a_run_offline(recipe, plain, tmp_path, monkeypatch):
    pytest.importorskip('wandb', reason='the extra wandb is not installed')
    monkeypatch.setenv('WANDB_MODE', 'offline'); monkeypatch.setenv('WANDB_SILENT', 'true')
    run = trained(recipe, tmp_path, monkeypatch, ['wandb'])
    file, = (run.path/'wandb').glob('offline-run-*/*.wandb')
    content = file.read_bytes()
    assert run.metrics['fingerprints']['weights'] == plain
    for part in (b'valid_accuracy', b'step_loss', b'test_accuracy', b'curves', b'cifar_fastai', json.loads((run.path/'trackers.json').read_text())['wandb'].encode()): assert part in content
    assert list((run.path/'wandb').rglob('*.html')) and list((run.path/'wandb').rglob('*.png'))


def test_mlflow_keeps_a_run_in_files(recipe, plain, tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow', reason='the extra mlflow is not installed')
    for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_ALLOW_FILE_STORE'): monkeypatch.delenv(name, raising=False)
    run = trained(recipe, tmp_path, monkeypatch, ['mlflow'])
    assert 'MLFLOW_ALLOW_FILE_STORE' not in os.environ
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    assert run.metrics['fingerprints']['weights'] == plain
    client, name = mlflow.MlflowClient((tmp_path/'mlruns').resolve().as_uri()), json.loads((run.path/'trackers.json').read_text())['mlflow']
    kept = client.get_run(name)
    assert kept.info.status == 'FINISHED' and kept.info.run_name == 'run' and kept.data.params['arch'] == 'resnet9' and kept.data.metrics['test_accuracy'] == run.metrics['test_accuracy']
    assert [one.value for one in client.get_metric_history(name, 'valid_accuracy')] == run.history.valid_accuracy.tolist()
    assert {file.path for file in client.list_artifacts(name)} == {'figures', 'report.html'}


def test_trackio_keeps_a_run_on_this_machine(recipe, plain, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path/'kept'))
    pytest.importorskip('trackio', reason='the extra trackio is not installed')
    run = trained(recipe, tmp_path, monkeypatch, ['trackio'])
    assert run.metrics['fingerprints']['weights'] == plain and capfd.readouterr().out == ''
    with sqlite3.connect(tmp_path/'kept'/'cifar_fastai.db') as kept: rows = [(step, json.loads(values)) for step, values in kept.execute('SELECT step, metrics FROM metrics ORDER BY id')]
    steps = len(run.learner.dls.train)
    assert [(step, values['valid_accuracy']) for step, values in rows if 'valid_accuracy' in values] == [(steps*row.epoch, row.valid_accuracy) for row in run.history.itertuples()]
    assert [step for step, values in rows if 'step_loss' in values] == list(range(1, 2*steps + 1))
    pictures = {name: values[name]['file_path'] for _, values in rows for name in ('curves', 'page') if name in values}
    assert (tmp_path/'kept'/'media'/pictures['page']).read_text() == '<p>the page</p>' and pictures['curves'].endswith('.png')


def test_trackio_is_asked_for_what_its_client_has(recipe, plain, tmp_path, monkeypatch):
    "A stand-in with the calls that its documentation names"
    asked = []
    stand_in = SimpleNamespace(init=lambda **words: asked.append(('init', words)), log=lambda values, step=None: asked.append(('log', values)), finish=lambda: asked.append(('finish', {})), Image=lambda path, caption: caption, Html=lambda path, inject: path)
    monkeypatch.setitem(sys.modules, 'trackio', stand_in)
    run = trained(recipe, tmp_path, monkeypatch, ['trackio'])
    assert run.metrics['fingerprints']['weights'] == plain
    assert asked[0][1]['project'] == 'cifar_fastai' and asked[-1][0] == 'finish' and asked[-2][1] == {'page': str(run.path/'report.html')} and [values['epoch'] for what, values in asked if what == 'log' and 'epoch' in values] == [1, 2]


@pytest.mark.parametrize('breaks', ['__init__', 'send_numbers', 'send_picture', 'send_page', 'end'])
def test_a_tracker_that_fails_is_said_once_and_undoes_nothing(recipe, plain, tmp_path, monkeypatch, notices, breaks):
    class Broken:
        needs = 'json'
        def __init__(self, *_): self.ask('__init__')
        def ask(self, what):
            if what == breaks: raise ConnectionError('the server is away')
        def send_numbers(self, values, step): self.ask('send_numbers')
        def send_picture(self, name, path, step): self.ask('send_picture')
        def send_page(self, path): self.ask('send_page')
        def end(self, status): self.ask('end')
    monkeypatch.setitem(TRACKERS, 'broken', Broken)
    run = trained(recipe, tmp_path, monkeypatch, ['broken'])
    assert run.metrics['status'] == 'complete' and run.metrics['fingerprints']['weights'] == plain
    assert notices().count('broken does not follow the run any more (ConnectionError: the server is away); the run goes on without it') == 1


def test_trackers_are_named_one_by_one_or_with_commas():
    from cifar_fastai.train import train_parser
    assert train_parser().parse_args(['--tracker', 'tensorboard, mlflow', '--tracker', 'wandb']).tracker == ['tensorboard', 'mlflow', 'wandb']
    assert train_parser().parse_args([]).tracker == []


def test_what_is_not_installed_is_refused_before_anything(recipe, tmp_path, monkeypatch):
    for name, tracker in TRACKERS.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, tracker.needs, None)
            with pytest.raises(BadInput, match=rf"pip install 'cifar_fastai\[{name}\]'"): train_session(recipe, tmp_path/'none', trackers=[name])
    assert not (tmp_path/'none').exists() or not os.listdir(tmp_path/'none')
    with pytest.raises(BadInput, match='did you mean'): check_trackers(['tensorbord'])


@pytest.mark.parametrize('error, status', [(GaveUp('low'), 'pruned'), (ProcessLost('gone'), 'interrupted'), (KeyboardInterrupt(), 'interrupted'), (ValueError('x'), 'failed')])
def test_a_tracker_and_the_run_s_folder_say_the_same_end(recipe, tmp_path, monkeypatch, error, status):
    ends = []
    class Ends:
        needs = 'json'
        def __init__(self, path, recipe, step): pass
        def send_numbers(self, values, step): pass
        def end(self, status): ends.append(status)
    class Fails(Callback):
        order = 99
        def after_epoch(self): raise error
    monkeypatch.setitem(TRACKERS, 'ends', Ends)
    with pytest.raises(type(error)): trained(recipe, tmp_path, monkeypatch, ['ends'], cbs=[Fails()])
    assert ends == [status] == [json.loads((tmp_path/'run'/'metrics.json').read_text())['status']]


class Counts(Callback):
    "A callback of a person's own, which changes nothing"
    def after_batch(self): self.seen = getattr(self, 'seen', 0) + 1


def test_callbacks_of_a_persons_own_are_asked_and_the_run_says_so(recipe, plain, tmp_path, monkeypatch):
    counts = Counts()
    run = trained(recipe, tmp_path, monkeypatch, cbs=[counts], keep_checkpoint=True)
    assert counts.seen == 2*(len(run.learner.dls.train) + len(run.learner.dls.valid)) and run.metrics['fingerprints']['weights'] == plain
    assert read_run(run.path).about['by_hand'] == ['cbs']
    (run.path/'manifest.json').unlink()
    with pytest.raises(BadInput, match="callbacks of somebody's own"): train_session(None, tmp_path, resume=run.path)
