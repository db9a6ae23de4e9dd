"A fit that is stopped and goes on in another Learner, against the fit that was not stopped"
import dataclasses
import json
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

from cifar_fastai.runs import session
from cifar_fastai.runs.checkpoints import Checkpoints, Stops, checkpoint_numbers, content_sum, read_checkpoint, resume_from
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.training.history import History
from cifar_fastai.base.messages import BadInput
from cifar_fastai.base.steps import step_table
from cifar_fastai.runs.session import train_session
from cifar_fastai.training.distributed import Processes
from cifar_fastai.training.stopping import stopping_callbacks
from cifar_fastai.training.learner import cifar_learner, fit_recipe


def train(recipe, out='runs', name=None, **kwargs): return train_session(recipe, out, name, explained=False, **kwargs)


class Ends(Stops):
    def deliver(self): raise KeyboardInterrupt


class StopAt(Callback):
    "Asks for an end as Ctrl-C does, in a training step or in the evaluation"
    order = 80
    def __init__(self, epoch, step, training=True): self.place = epoch, step, training
    def after_batch(self):
        if (self.epoch, self.iter, self.training) == self.place: self.checkpoints.stops.asked = signal.SIGINT


class Draws(Callback):
    "A callback of the user's own that draws from the global generators and acts on what it drew"
    def before_batch(self): self.seen = getattr(self, 'seen', [])[:50] + [random.random() + np.random.rand() + float(torch.rand(1))]


def fit(data, recipe, cbs=(), state=None):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    learner, history, draws = cifar_learner(image_dataloaders(data, recipe), recipe), History(), Draws()
    if state: learner.go_on = resume_from(state)
    with learner.no_bar(), learner.no_logging():
        try: fit_recipe(learner, 0.05, [history, draws, *stopping_callbacks(learner, lambda text: None), *cbs])
        except KeyboardInterrupt: pass
    return learner, history, draws


def same(one, two):
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values()))


@pytest.fixture(scope='module')
def unstopped(request, tiny_data, tiny_recipe):
    "A recipe, and what it gives where nothing stops it"
    recipe = dataclasses.replace(tiny_recipe, epochs=3, batch_size=20 if 'early_stopping' in request.param else 24, **request.param)
    return recipe, *fit(tiny_data, recipe)


@pytest.mark.parametrize('unstopped', [
    dict(optimizer='muon'), dict(optimizer='sgd', schedule='constant'), dict(optimizer='adamw', clip_norm=1.), dict(optimizer='lamb', schedule='cosine'),
    dict(optimizer='rmsprop', schedule='flat_cos'), dict(ema=0.9, early_stopping=1, mixup=0.4, cutmix=1.), dict(progressive=0.6, augment='crop_alternating_cutout8'),
    dict(augment='trivial', precision='bf16'), dict(loss='generalized', keep_share=0.6, keep_warmup=2, cutmix=1., class_weights='balanced')], ids=lambda fields: ' '.join(map(str, fields.values())), indirect=True)
@pytest.mark.parametrize('place', [(1, 2, True), (1, 4, True), (1, 0, False)], ids=['in an epoch', 'after its last step', 'in its evaluation'])
def test_stopped_and_gone_on_is_not_stopped(tiny_data, unstopped, tmp_path, place):
    recipe, whole, history, draws = unstopped
    fit(tiny_data, recipe, [Checkpoints(tmp_path, {}, stops=Ends()), StopAt(*place)])
    assert checkpoint_numbers(tmp_path)
    again, again_history, again_draws = fit(tiny_data, recipe, state=read_checkpoint(tmp_path, {}))
    assert same(whole, again) and whole.recorder.lrs == again.recorder.lrs and draws.seen[-1] == again_draws.seen[-1]
    assert history.table.drop(columns='seconds').equals(again_history.table.drop(columns='seconds'))
    assert again_history.steps == history.steps and again_history.train_seconds > 0
    steps = step_table(whole)
    assert len(steps) == history.steps and steps.to_csv() == step_table(again).to_csv() and steps.notna().to_numpy().all()


def test_draws_go_on_at_the_end_of_an_epoch(tiny_data, tiny_recipe, tmp_path):
    "The checkpoint between two epochs brings the global generators back too"
    class Between(Callback):
        order = 80
        def after_epoch(self):
            if self.epoch == 0: self.checkpoints.stops.asked = signal.SIGINT
    recipe = dataclasses.replace(tiny_recipe, epochs=2)
    whole, _, draws = fit(tiny_data, recipe)
    fit(tiny_data, recipe, [Checkpoints(tmp_path, {}, stops=Ends()), Between()])
    again, _, again_draws = fit(tiny_data, recipe, state=read_checkpoint(tmp_path, {}))
    assert same(whole, again) and again_draws.seen == draws.seen[6:] and len(draws.seen) == 12


def test_a_fit_that_reached_its_accuracy_and_was_stopped_ends_there_too(tiny_data, tiny_recipe, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, epochs=6, batch_size=20, optimizer='adam', holdout=20)
    rows = fit(tiny_data, recipe)[1].rows
    recipe = dataclasses.replace(recipe, until_accuracy=max(row['valid_accuracy'] for row in rows[:4]))
    whole, history, _ = fit(tiny_data, recipe)
    last = len(history.rows) - 1
    assert last < 4
    fit(tiny_data, recipe, [Checkpoints(tmp_path, {}, stops=Ends()), StopAt(last, 0, False)])
    again, again_history, _ = fit(tiny_data, recipe, state=read_checkpoint(tmp_path, {}))
    assert same(whole, again) and history.table.drop(columns='seconds').equals(again_history.table.drop(columns='seconds'))


def test_a_run_says_when_it_reached_its_accuracy(tiny_folder, tiny_recipe, tmp_path):
    lines = []
    run = train(dataclasses.replace(tiny_recipe, data=str(tiny_folder), epochs=3, until_accuracy=0.01, batch_size=20), tmp_path, say=lines.append)
    until = run.metrics['until']
    assert run.metrics['epochs'] == until['epochs'] == len(run.history) == 1 and until['reached'] and until['train_seconds'] == run.metrics['train_seconds']
    assert run.metrics['valid_is'] == 'holdout' and any(line.startswith('until    1.00% of the held-out images reached in epoch 1') for line in lines)


def test_other_draws_and_loader_processes_change_nothing(tiny_data, tiny_recipe):
    plain, _, _ = fit(tiny_data, tiny_recipe)
    random.seed(99), torch.manual_seed(99)
    loaders = image_dataloaders(tiny_data, tiny_recipe)
    loaders.train.fake_l.num_workers = 2
    learner = cifar_learner(loaders, tiny_recipe)
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05)
    assert same(plain, learner)


def test_a_scaler_s_state_is_kept(tiny_data, tiny_recipe):
    "fp16 needs a GPU; its scaler's state is plain numbers, and goes through a checkpoint like the rest"
    from cifar_fastai.runs.checkpoints import pack, unpack
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.)
    scaler.scale(torch.ones(1))
    scaler.update(512.)
    tensors = {}
    state = json.loads(json.dumps(pack(scaler.state_dict(), tensors, '')))
    other = torch.amp.GradScaler('cpu')
    other.load_state_dict(unpack(state, tensors))
    assert other.state_dict() == scaler.state_dict()


def test_a_constant_rate_may_go_on_for_longer(tiny_folder, tiny_recipe, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), schedule='constant', progressive=0, epochs=1)
    train(recipe, tmp_path, 'a', keep_checkpoint=True)
    longer = dataclasses.replace(recipe, epochs=3)
    again = train(longer, resume=tmp_path/'a')
    direct = train(longer, tmp_path, 'b')
    assert same(again.learner, direct.learner) and len(again.history) == 3 and again.recipe.epochs == 3
    assert not (tmp_path/'a'/'checkpoint').exists()
    with pytest.raises(BadInput, match='its checkpoint is gone'): train(dataclasses.replace(recipe, epochs=5), resume=tmp_path/'a')
    with pytest.raises(BadInput, match='begun by another recipe: width was'): train(dataclasses.replace(longer, width=8), resume=tmp_path/'a')


def test_a_rate_that_was_found_is_kept_and_a_run_whose_images_grow_has_one_length(tiny_folder, tiny_recipe, tmp_path, monkeypatch):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), lr='find', lr_steps=40, schedule='constant', progressive=0.5)
    whole = train(recipe, tmp_path, 'whole')
    with monkeypatch.context() as patched:
        patched.setattr(session, 'fit_recipe', lambda learner, cbs: fit_recipe(learner, cbs=[*cbs, StopAt(1, 0)]))
        patched.setattr(session, 'Stops', Ends)
        with pytest.raises(KeyboardInterrupt): train(recipe, tmp_path, 'parts')
    with pytest.raises(BadInput, match='laid out for 2 epochs'): train(dataclasses.replace(recipe, epochs=4), resume=tmp_path/'parts')
    again = train(None, resume=tmp_path/'parts')
    assert same(whole.learner, again.learner) and (whole.history.lr == again.history.lr).all()


def test_a_run_of_an_earlier_version_goes_on(tiny_folder, tiny_recipe, tmp_path, monkeypatch):
    "A version whose recipe had fewer fields"
    recipe, younger = dataclasses.replace(tiny_recipe, data=str(tiny_folder), epochs=2), ('whiten', 'tta', 'lookahead')
    direct = train(recipe, tmp_path, 'whole')
    with monkeypatch.context() as patched:
        patched.setattr(session, 'fit_recipe', lambda learner, cbs: fit_recipe(learner, cbs=[*cbs, StopAt(1, 1)]))
        patched.setattr(session, 'Stops', Ends)
        with pytest.raises(KeyboardInterrupt): train(recipe, tmp_path, 'a')
    path = tmp_path/'a'/'recipe.json'
    about = json.loads(path.read_text())
    for name in younger: del about['recipe'][name]
    path.write_text(json.dumps(about))
    path, = (tmp_path/'a'/'checkpoint').glob('*.json')
    content = json.loads(path.read_text())
    for name in younger: del content['about']['recipe'][name]
    path.write_text(json.dumps({**content, 'sum': content_sum(content)}))
    again = train(None, resume=tmp_path/'a')
    assert same(again.learner, direct.learner) and len(again.history) == 2
    assert json.loads((tmp_path/'a'/'recipe.json').read_text())['recipe']['tta'] == 'none'


def test_auto_begins_goes_on_and_ends(tiny_folder, tiny_recipe, tmp_path, capfd):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), lr='find', lr_steps=40)
    first = train(recipe, tmp_path, resume='auto')
    assert train(recipe, tmp_path, resume='auto').path == first.path and 'nothing to go on with' in capfd.readouterr().out
    other = train(dataclasses.replace(recipe, seed=1), tmp_path, resume='auto')
    assert other.path != first.path


def test_an_archive_that_only_has_the_name(tmp_path, capfd):
    from cifar_fastai.data.sources import load_images
    (tmp_path/'cifar-10-python.tar.gz').write_bytes(b'\x1f\x8b' + bytes(50))
    with pytest.raises(BadInput, match='is not the archive that is published') as caught: load_images(tmp_path/'cifar-10-python.tar.gz')
    assert len(str(caught.value).splitlines()) <= 5


def test_a_signal_that_comes_while_processes_agree_counts_at_the_next_step(tmp_path):
    class Slow(Processes):
        def agree(self, number):
            if number is None: stops.asked = signal.SIGTERM
            return number
    stops = Stops()
    checkpoints = Checkpoints(tmp_path, {}, 0, stops, Slow())
    checkpoints.learn = SimpleNamespace(training=True, iter=0, n_iter=9)
    checkpoints.written = 0.
    checkpoints.after_batch()
    assert stops.asked == signal.SIGTERM
