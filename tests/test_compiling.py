"torch.compile in the training steps: the same training, its time kept apart, and none the worse where nothing can be compiled"
import contextlib
import dataclasses
import gc
import json
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner

from cifar_fastai.training import compiling
from cifar_fastai.training import history
from cifar_fastai.training import learner as training
from cifar_fastai.base.commands import run_command
from cifar_fastai.training.compiling import CompileModel
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.heatmaps.gradcam import heatmaps
from cifar_fastai.training.history import History
from cifar_fastai.base.messages import BadInput
from cifar_fastai.models.networks import network
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.train import main
from cifar_fastai.training.learner import cifar_learner, fit_recipe


class Counting:
    "A backend for `torch.compile` that runs each graph as it is and counts them"
    def __init__(self): self.graphs = 0
    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def refusing(graph, inputs): raise RuntimeError('No working C++ compiler found\nand more of it')


def fitted(data, recipe, cbs=()):
    torch.manual_seed(0)
    learner, rows = cifar_learner(image_dataloaders(data, recipe), recipe), History()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.05, [rows, *cbs])
    return learner, rows


def same(one, two): return all(torch.equal(a, two[name]) for name, a in one.items()) and list(one) == list(two)


def test_a_compiled_training_is_the_same_training(tiny_data, tiny_recipe, tmp_path):
    "Sizes of image that change, frozen layers, averages: each shape is compiled once, and rehearsing it leaves no trace"
    recipe = dataclasses.replace(tiny_recipe, epochs=3, progressive=0.7, cutmix=1., ema=0.9, freeze=0.8, batch_size=40)
    backend, shapes = Counting(), set()
    class Shapes(Callback):
        order, run_valid = 19, False
        def before_batch(self): shapes.add((self.x.shape, *(p.requires_grad for p in self.model.parameters())))
    plain, rows = fitted(tiny_data, recipe)
    learner, compiled_rows = fitted(tiny_data, recipe, [CompileModel('yes', backend), Shapes()])
    assert same(plain.model.state_dict(), learner.model.state_dict())
    assert rows.table.drop(columns='seconds').equals(compiled_rows.table.drop(columns='seconds'))
    assert backend.graphs == len(shapes) == 3


def test_what_looks_into_a_network_finds_it_as_it_was_written(tiny_data, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(training, 'CompileModel', partial(CompileModel, backend='eager'))
    recipe = dataclasses.replace(tiny_recipe, epochs=1, compile='yes')
    learner, _ = fitted(tiny_data, recipe)
    plain, _ = fitted(tiny_data, dataclasses.replace(recipe, compile='no'))
    assert learner.compile_model.used == 'network' and learner.compile_model.seconds > 0 and learner.model._compiled_call_impl is None
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(heatmaps(learner.model, images), heatmaps(plain.model, images))
    assert 'Total params' in repr(learner.summary())
    learner.path = tmp_path
    learner.export('compiled.pkl')
    from fastai.learner import load_learner
    assert same(load_learner(tmp_path/'compiled.pkl').model.state_dict(), plain.model.state_dict())
    with learner.no_bar(): assert len(learner.lr_find(num_it=12, show_plot=False, suggest_funcs=None).curve) == 12


def test_a_compiler_that_fails_is_said_once_and_the_training_goes_on(tiny_data, tiny_recipe, notices):
    refused = CompileModel('graphs', refusing)
    learner, _ = fitted(tiny_data, tiny_recipe, [refused])
    text = notices()
    assert text.count('torch.compile does not work here') == 1 and 'without it: RuntimeError: No working C++ compiler found' in text and len(text.strip().splitlines()) == 2
    assert 'CUDA graphs need a CUDA device: this goes on as --compile yes' in text
    assert refused.used == 'no' and same(learner.model.state_dict(), fitted(tiny_data, tiny_recipe)[0].model.state_dict())


def test_out_of_memory_is_no_fault_of_the_compiler(tiny_data, tiny_recipe, monkeypatch):
    def full(*args): raise torch.OutOfMemoryError('CUDA out of memory')
    monkeypatch.setattr(compiling, 'rehearse', full)
    with pytest.raises(torch.OutOfMemoryError): fitted(tiny_data, tiny_recipe, [CompileModel(backend='eager')])


def test_the_time_of_compiling_is_kept_apart(tiny_folder, tiny_recipe, tmp_path, monkeypatch):
    "A clock that each compiled graph sets forward by an hour"
    clock = [0.]
    def tick(): clock[0] += 0.001; return clock[0]
    def backend(graph, inputs): clock[0] += 3600; return graph.forward
    for module in (compiling, history): monkeypatch.setattr(module.time, 'perf_counter', tick)
    monkeypatch.setattr(training, 'CompileModel', partial(CompileModel, backend=backend))
    words = ['--data', str(tiny_folder), '--width', '4', '--epochs', '2', '--batch-size', '4', '--device', 'cpu', '--precision', 'fp32', '--compile', 'yes',
             '--progressive', '0.6', '--out', str(tmp_path), '--name', 'run']
    assert run_command(main, words) == 0
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert metrics['compiled'] == 'network' and 2*3600 <= metrics['compile_seconds'] < 2*3600 + 60
    assert 0 < metrics['train_seconds'] < 60 and metrics['train_images_per_second'] > 4
    assert json.loads((tmp_path/'run'/'recipe.json').read_text())['recipe']['compile'] == 'yes'


@pytest.mark.parametrize('arch', ['resnet9', 'cifarnet'])
def test_bf16_and_other_networks_train_compiled_to_rounding(arch, tiny_data, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, arch=arch, precision='bf16', progressive=0.7)
    learner, rows = fitted(tiny_data, recipe, [compiled := CompileModel(backend='aot_eager')])
    assert compiled.used == 'network'
    torch.testing.assert_close(torch.tensor(rows.table.valid_loss), torch.tensor(fitted(tiny_data, recipe)[1].table.valid_loss), rtol=0.1, atol=0)


def test_auto_compiles_nothing_on_a_cpu(tiny_data, tiny_recipe):
    learner, _ = fitted(tiny_data, tiny_recipe, [compiled := CompileModel('auto', refusing)])
    assert compiled.used == 'no' and same(learner.model.state_dict(), fitted(tiny_data, tiny_recipe)[0].model.state_dict())


def test_the_word_of_an_earlier_version_is_read(): assert Recipe(compile='network').compile == 'yes'


@pytest.mark.parametrize('error', [CancelFitException, BadInput])
def test_a_fit_that_ends_within_a_step_leaves_the_network_as_it_was_written(error, tiny_data, tiny_recipe):
    class Ends(Callback):
        def after_loss(self): raise error('enough')
    learner = cifar_learner(image_dataloaders(tiny_data, tiny_recipe), tiny_recipe)
    learner.add_cb(CompileModel('yes', Counting()))
    learner.add_cb(Ends())
    with learner.no_bar(), learner.no_logging(), contextlib.suppress(BadInput): learner.fit(1)
    assert learner.compile_model.used == 'network' and learner.model._compiled_call_impl is None


def test_a_cancelled_fit_of_fastai_s_own_learner_too(tiny_data, tiny_recipe):
    class Ends(Callback):
        def after_loss(self): raise CancelFitException
    loaders = image_dataloaders(tiny_data, tiny_recipe)
    model = network('resnet9', 3, width=4).to(memory_format=torch.channels_last)
    learner = Learner(loaders, model, torch.nn.CrossEntropyLoss(), cbs=[CompileModel(backend=Counting()), Ends()])
    with learner.no_bar(), learner.no_logging(): learner.fit(1)
    assert learner.compile_model.used == 'network' and learner.model._compiled_call_impl is None
    with pytest.raises(BadInput, match='way to compile'): CompileModel('no')


@pytest.mark.parametrize('arch', ['resnet20', 'resnet50', 'preact_resnet18'])
def test_networks_with_sums_are_compiled_whole_into_one_graph(arch):
    graphs, model = Counting(), network(arch, width=4)
    torch.compile(model, backend=graphs, fullgraph=True)(torch.randn(4, 3, 16, 16)).sum().backward()
    assert graphs.graphs == 1


def test_a_run_that_goes_on_otherwise_says_so(tiny_data, tiny_recipe, notices):
    part = CompileModel()
    part.used = 'no'
    part.resume_state({'seconds': 2., 'used': 'no'})
    assert not notices()
    part.resume_state({'seconds': 3.})
    assert part.seconds == 3 and 'compiled until the checkpoint: network; from here on: no' in notices()


def test_a_compiled_fit_leaves_the_compiler_as_it_was(tiny_data, tiny_recipe):
    "Somebody else's function stays compiled, what the fit compiled is gone, and the limit is the old one"
    class Kept(Counting):
        def __call__(self, graph, inputs):
            super().__call__(graph, inputs)
            runs.append(weakref.ref(graph))
            return lambda *values: graph.forward(*values)
    runs, other, limit = [], Counting(), torch._dynamo.config.recompile_limit
    function = torch.compile(lambda x: x + 1, backend=other)
    function(torch.ones(2))
    learner, _ = fitted(tiny_data, tiny_recipe, [CompileModel('yes', Kept())])
    function(torch.ones(2))
    assert other.graphs == 1 and runs and torch._dynamo.config.recompile_limit == limit
    gc.collect()
    assert not any(run() for run in runs) and learner.model is not None
