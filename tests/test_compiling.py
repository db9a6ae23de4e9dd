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
from cifar_fastai.profiling.peak import step_flops
from cifar_fastai.training.compiling import CompileModel, work_per_value
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.heatmaps.gradcam import heatmaps
from cifar_fastai.training.history import History
from cifar_fastai.base.messages import BadInput
from cifar_fastai.models.networks import network
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
    learner, compiled_rows = fitted(tiny_data, recipe, [CompileModel('network', backend), Shapes()])
    assert same(plain.model.state_dict(), learner.model.state_dict())
    assert rows.table.drop(columns='seconds').equals(compiled_rows.table.drop(columns='seconds'))
    assert backend.graphs == len(shapes) == 3


def test_what_looks_into_a_network_finds_it_as_it_was_written(tiny_data, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(training, 'CompileModel', partial(CompileModel, backend='eager'))
    recipe = dataclasses.replace(tiny_recipe, epochs=1, compile='network')
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
    words = ['--data', str(tiny_folder), '--width', '4', '--epochs', '2', '--batch-size', '4', '--device', 'cpu', '--precision', 'fp32', '--compile', 'network',
             '--progressive', '0.6', '--out', str(tmp_path), '--name', 'run']
    assert run_command(main, words) == 0
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert metrics['compiled'] == 'network' and 2*3600 <= metrics['compile_seconds'] < 2*3600 + 60
    assert 0 < metrics['train_seconds'] < 60 and metrics['train_images_per_second'] > 4
    assert json.loads((tmp_path/'run'/'recipe.json').read_text())['recipe']['compile'] == 'network'


class InRehearsals(Callback):
    "Sees to it that nothing is compiled between the beginning of a step and its end"
    order, run_valid = 19, False
    def __init__(self, backend): self.backend, self.steps = backend, 0
    def before_batch(self): self.before = self.backend.graphs
    def after_batch(self):
        self.steps += 1
        assert self.backend.graphs == self.before


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_on_a_cpu_the_norms_are_compiled_and_leave_nothing_behind(precision, tiny_data, tiny_recipe, tmp_path):
    "Before the step that needs it, though sizes of image and frozen layers take turns; what the network then is can be pickled"
    recipe = dataclasses.replace(tiny_recipe, arch='resnet20', width=4, epochs=3, progressive=0.7, freeze=0.8, batch_size=40, precision=precision)
    backend = Counting()
    compiled, watch = CompileModel(backend=backend), InRehearsals(backend)
    plain, rows = fitted(tiny_data, recipe)
    learner, compiled_rows = fitted(tiny_data, recipe, [compiled, watch])
    assert compiled.used == 'norms' and compiled.seconds > 0 and watch.steps == 9 and backend.graphs > 0
    for name, value in plain.model.state_dict().items():
        assert (learner.model.state_dict()[name] - value).double().norm() <= (0.05 if precision == 'fp32' else 0.5)*value.double().norm() + 1e-3, name  # rounding, over three epochs
    assert not any(getattr(part, 'fused', None) for part in learner.model.modules())
    torch.testing.assert_close(torch.tensor(compiled_rows.table.valid_loss), torch.tensor(rows.table.valid_loss), rtol=0.03 if precision == 'fp32' else 0.1, atol=0)
    learner.path = tmp_path
    learner.export('compiled.pkl')


def test_a_second_fit_finds_what_the_first_compiled(tiny_data, tiny_recipe):
    backend = Counting()
    learner, _ = fitted(tiny_data, tiny_recipe, [compiled := CompileModel(backend=backend)])
    graphs = backend.graphs
    with learner.no_bar(), learner.no_logging(): learner.fit(1, cbs=compiled)
    assert compiled.used == 'norms' and backend.graphs == graphs > 0


@pytest.mark.parametrize('error', [CancelFitException, BadInput])
def test_a_fit_that_ends_within_a_step_leaves_the_network_as_it_was_written(error, tiny_data, tiny_recipe):
    class Ends(Callback):
        def after_loss(self): raise error('enough')
    for kind in ('norms', 'network'):
        torch.manual_seed(0)
        learner = cifar_learner(image_dataloaders(tiny_data, tiny_recipe), tiny_recipe)
        learner.add_cb(CompileModel('network' if kind == 'network' else 'yes', Counting()))
        learner.add_cb(Ends())
        with learner.no_bar(), learner.no_logging(), contextlib.suppress(BadInput): learner.fit(1)
        assert learner.compile_model.used == kind and learner.model._compiled_call_impl is None
        assert not any(getattr(part, 'fused', None) for part in learner.model.modules())


def test_a_cancelled_fit_of_fastai_s_own_learner_too(tiny_data, tiny_recipe):
    class Ends(Callback):
        def after_loss(self): raise CancelFitException
    loaders = image_dataloaders(tiny_data, tiny_recipe)
    model = network('resnet9', 3, width=4).to(memory_format=torch.channels_last)
    learner = Learner(loaders, model, torch.nn.CrossEntropyLoss(), cbs=[CompileModel(backend=Counting()), Ends()])
    with learner.no_bar(), learner.no_logging(): learner.fit(1)
    assert learner.compile_model.used == 'norms' and not any(getattr(part, 'fused', None) for part in learner.model.modules())
    with pytest.raises(BadInput, match='way to compile'): CompileModel('no')


@pytest.mark.parametrize('arch', ['resnet20', 'resnet50', 'preact_resnet18'])
def test_networks_with_sums_are_compiled_whole_into_one_graph(arch):
    graphs, model = Counting(), network(arch, width=4)
    torch.compile(model, backend=graphs, fullgraph=True)(torch.randn(4, 3, 16, 16)).sum().backward()
    assert graphs.graphs == 1


def test_a_run_that_goes_on_otherwise_says_so(tiny_data, tiny_recipe, notices):
    part = CompileModel()
    part.used = 'norms'
    part.resume_state({'seconds': 2., 'used': 'norms'})
    assert not notices()
    part.resume_state({'seconds': 3.})
    assert part.seconds == 3 and 'compiled until the checkpoint: network; from here on: norms' in notices()


@pytest.mark.parametrize('arch,width,side', [('resnet9', 16, 32), ('resnet20', 8, 16)])
def test_the_work_for_each_normalised_value_is_counted(arch, width, side):
    "Against PyTorch's own count of operations, and the sizes of what its batch norms are given"
    model, values = network(arch, width=width), []
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d): layer.register_forward_pre_hook(lambda layer, given: values.append(given[0].numel()))
    model(torch.zeros(2, 3, side, side))
    counted, read = step_flops(network(arch, width=width), (2, 3, side, side))[0] - 2*model.linear.weight.numel()*2, sum(values)
    assert work_per_value(model, (2, 3, side, side)) == pytest.approx(counted/read)


def test_auto_compiles_narrow_networks_only(tiny_data, tiny_recipe, monkeypatch):
    compiled = CompileModel('auto', backend := Counting())
    learner, _ = fitted(tiny_data, tiny_recipe, [compiled])
    assert compiled.used == 'norms' and backend.graphs > 0
    monkeypatch.setattr(compiling, 'NARROW', 1)
    wide = CompileModel('auto', refusing)
    learner, _ = fitted(tiny_data, tiny_recipe, [wide])
    assert wide.used == 'no' and same(learner.model.state_dict(), fitted(tiny_data, tiny_recipe)[0].model.state_dict())


def test_a_network_without_batch_norms_says_that_nothing_is_compiled(tiny_data, tiny_recipe, notices):
    recipe = dataclasses.replace(tiny_recipe, norm='group')
    compiled = CompileModel(backend=refusing)
    learner, _ = fitted(tiny_data, recipe, [compiled])
    assert compiled.used == 'no' and 'nothing is compiled: on a CPU batch norms are' in notices()
    assert same(learner.model.state_dict(), fitted(tiny_data, recipe)[0].model.state_dict())


def test_that_nothing_is_compiled_is_said_after_a_fit_where_something_was(tiny_data, tiny_recipe, notices):
    compiled = CompileModel(backend=Counting())
    fitted(tiny_data, tiny_recipe, [compiled])
    assert compiled.used == 'norms' and 'nothing is compiled' not in notices()
    fitted(tiny_data, dataclasses.replace(tiny_recipe, norm='group'), [compiled])
    assert compiled.used == 'no' and 'nothing is compiled' in notices()


def test_norms_that_cannot_be_compiled_run_as_they_are(tiny_data, tiny_recipe, notices):
    compiled = CompileModel(backend=refusing)
    learner, _ = fitted(tiny_data, tiny_recipe, [compiled])
    assert notices().count('torch.compile does not work here, and the training goes on without it: RuntimeError: No working C++ compiler found') == 1
    assert compiled.used == 'no' and same(learner.model.state_dict(), fitted(tiny_data, tiny_recipe)[0].model.state_dict())


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
    learner, _ = fitted(tiny_data, tiny_recipe, [CompileModel('network', Kept())])
    function(torch.ones(2))
    assert other.graphs == 1 and runs and torch._dynamo.config.recompile_limit == limit
    gc.collect()
    assert not any(run() for run in runs) and learner.model is not None
