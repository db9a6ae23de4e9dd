"What is recorded of a training: the same as by fastai's own Recorder, and nothing is waited for in an epoch"
import dataclasses
import traceback
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from torch.utils._python_dispatch import TorchDispatchMode

from cifar_fastai.training import history
from cifar_fastai.training import learner as training
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.training.history import History
from cifar_fastai.base.messages import BadInput
from cifar_fastai.training.learner import cifar_learner, fit_recipe


def learner_of(data, recipe, place='auto', **fields):
    recipe = dataclasses.replace(recipe, **fields)
    learner = cifar_learner(image_dataloaders(data, recipe, place=place), recipe)
    learner.dls.valid.bs = 7  # several batches, the last one smaller
    return learner


def as_fastai_has_it(monkeypatch):
    for name in ('avoid_waiting', 'put_on_device'): monkeypatch.setattr(training, name, lambda part: part)


ON_THE_CPU = 'fastai/callback/schedule.py', 'cifar_fastai/base/randomness.py'  # draw and compute there, whatever the device

class Reads(TorchDispatchMode):
    "Counts what a GPU would be waited for, while `on`: numbers read from tensors here, copies to the CPU by `counted`"
    on, count = False, 0
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.on and function is torch.ops.aten._local_scalar_dense.default:
            self.count += not any(frame.filename.endswith(ON_THE_CPU) for frame in traceback.extract_stack())
        return function(*args, **(kwargs or {}))


class BetweenSteps(Callback):
    "Switches the counting on with the first step of an epoch and off with its last"
    order = 1000
    def __init__(self, reads): self.reads = reads
    def before_batch(self): self.reads.on = True
    def after_batch(self): self.reads.on = self.iter + 1 < self.n_iter


@contextmanager
def counted(monkeypatch):
    reads, cpu = Reads(), torch.Tensor.cpu
    def copied(tensor, *words, **named):
        reads.count += reads.on
        return cpu(tensor, *words, **named)
    with monkeypatch.context() as patched, reads:
        patched.setattr(torch.Tensor, 'cpu', copied)
        yield reads


@pytest.mark.parametrize('fields', [{}, dict(ema=0.9, progressive=0.5, clip_norm=1.), dict(optimizer='sgd', precision='bf16')], ids=str)
def test_no_number_is_read_from_the_device_between_the_steps_of_an_epoch(tiny_data, tiny_recipe, monkeypatch, fields):
    monkeypatch.setattr(History, 'at_once', lambda self: False)  # as on a GPU
    def reads_of(learner):
        with counted(monkeypatch) as reads, learner.no_bar(), learner.no_logging():
            fit_recipe(learner, 0.001, [History(), BetweenSteps(reads)])
        return reads.count
    assert reads_of(learner_of(tiny_data, tiny_recipe, 'device', **fields)) == 0
    as_fastai_has_it(monkeypatch)
    assert reads_of(learner_of(tiny_data, tiny_recipe, 'device', **fields)) >= 2*5  # so the count sees what fastai's own Recorder does


def test_what_is_recorded_is_what_fastai_records(tiny_data, tiny_recipe, monkeypatch, tmp_path):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    def recorded(place):
        (tmp_path/place).mkdir()
        learner = learner_of(tiny_data, tiny_recipe)
        learner.path = tmp_path/place
        with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(2, 0.01, cbs=CSVLogger())
        recorder = learner.recorder
        lines = [line.get_xydata().tolist() for line in recorder.plot_loss(skip_start=0, ax=pyplot.figure().add_subplot()).lines]
        table = [row.split(',')[:-1] for row in (tmp_path/place/'history.csv').read_text().splitlines()]
        return (type(recorder).__name__, torch.stack(recorder.losses).tolist(), list(map(list, recorder.values)), recorder.lrs, recorder.iters,
                list(learner.final_record), list(recorder.metric_names), float(learner.smooth_loss), lines, table, learner.validate().items)
    ours = recorded('ours')
    as_fastai_has_it(monkeypatch)
    usual = recorded('usual')
    pyplot.close('all')
    assert (ours[0], usual[0]) == ('EpochRecorder', 'Recorder') and ours[1:] == usual[1:]


def test_the_losses_of_many_steps_lie_in_one_block(tiny_data, tiny_recipe, monkeypatch):
    monkeypatch.setattr('cifar_fastai.training.recorder.BLOCK', 3)
    learner = learner_of(tiny_data, tiny_recipe)
    with learner.no_bar(), learner.no_logging(): learner.fit(2)
    losses = learner.recorder.losses
    blocks = [loss.untyped_storage().data_ptr() for loss in losses]
    assert len(losses) > 3 and [blocks.index(block) for block in blocks] == [place - place % 3 for place in range(len(losses))]


def test_the_progress_bar_comes_back_as_ours(tiny_data, tiny_recipe, capsys):
    learner = learner_of(tiny_data, tiny_recipe)
    assert type(learner.progress).__name__ == 'UnhurriedProgress'
    with learner.no_bar(): assert not hasattr(learner, 'progress')
    assert type(learner.progress).__name__ == 'UnhurriedProgress'
    learner.fit(1)
    assert f'{float(learner.smooth_loss):.4f}' == learner.progress.pbar.comment


def test_a_person_s_own_metrics_stay_their_own(tiny_data, tiny_recipe):
    from fastai.metrics import F1Score, error_rate
    learner = learner_of(tiny_data, tiny_recipe)
    learner.metrics = [error_rate, F1Score(average='macro')]
    with learner.no_bar(), learner.no_logging(): learner.fit(1)
    assert list(learner.recorder.metric_names)[3:5] == ['error_rate', 'f1_score']
    from sklearn.metrics import f1_score
    record = list(learner.final_record)
    logits, target = learner.get_preds()
    assert record[3] == pytest.approx(f1_score(target, logits.argmax(1), average='macro'))
    assert record[2] == pytest.approx(float((logits.argmax(1) != target).float().mean()))


def test_a_metric_is_the_mean_over_images_not_over_batches(tiny_data, tiny_recipe):
    "Before any training one class is said of all images, so that batches differ"
    learner = learner_of(tiny_data, tiny_recipe)
    with learner.no_bar(), learner.no_logging():
        loss, accuracy = learner.validate()
        logits, target = learner.get_preds()
    right = (logits.argmax(1) == target).float()
    assert abs(right.mean() - np.mean([float(part.mean()) for part in right.split(7)])) > 0.001
    assert accuracy == pytest.approx(right.mean().item()) and loss == pytest.approx(torch.nn.functional.nll_loss(logits.log(), target).item(), rel=1e-4)


def test_a_gpu_s_answer_that_all_is_not_finite_ends_the_run(tiny_data, tiny_recipe, monkeypatch):
    "The question is asked at one step and the answer looked at with the next question"
    monkeypatch.setattr(History, 'at_once', lambda self: False)
    monkeypatch.setattr(history, 'STEPS_BETWEEN_CHECKS', 2)
    learner = learner_of(tiny_data, tiny_recipe, optimizer='sgd')
    class Spoil(Callback):
        def after_step(self):
            if self.iter == 1: next(self.model.parameters()).data[0] = float('nan')
    with learner.no_bar(), learner.no_logging(), pytest.raises(BadInput, match='became nan in epoch 1, step 4'):
        fit_recipe(learner, 0.01, [History(), Spoil()])


def test_a_statistic_that_is_not_finite_ends_the_run_though_the_loss_is(tiny_data, tiny_recipe, monkeypatch):
    "The loss is looked at in each step, weights and statistics now and then"
    monkeypatch.setattr(history, 'STEPS_BETWEEN_CHECKS', 2)
    learner = learner_of(tiny_data, tiny_recipe, optimizer='sgd')
    class Spoil(Callback):
        def after_step(self):
            if self.iter == 0: next(value for name, value in self.model.named_buffers() if name.endswith('running_mean'))[0] = float('nan')
    with learner.no_bar(), learner.no_logging(), pytest.raises(BadInput, match="running_mean' became nan in epoch 1, step 2"):
        fit_recipe(learner, 0.01, [History(), Spoil()])
