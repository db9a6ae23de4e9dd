"fastai stays fastai: what its own Learner, loaders and Interpretation do with the same pictures and weights, ours do"
import copy
import dataclasses
import pickle
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from fastai.callback.all import (ActivationStats, CollectDataCallback, CSVLogger, CutMix, EarlyStoppingCallback, GradientAccumulation, MixUp,
                                 ReduceLROnPlateau, SaveModelCallback, ShortEpochCallback, TrackerCallback)
from fastai.callback.core import Callback, CancelBatchException, CancelEpochException, CancelTrainException, CancelValidException
from fastai.callback.progress import ProgressCallback
from fastai.data.all import CategoryBlock, DataBlock, DataLoaders, Datasets, Normalize, ToTensor
from fastai.data.load import fa_collate
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, Recorder, load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import F1Score, RocAuc, accuracy, error_rate, skm_to_fastai
from fastai.optimizer import OptimWrapper, RMSProp
from fastai.torch_core import TensorCategory, TensorImage, tensor
from fastai.vision.core import PILImage
import fastai.vision.learner  # gives `plot_top_losses` its pictures
from fastai.vision.data import ImageBlock
from fastcore.foundation import L
from fasttransform import Transform
from matplotlib import pyplot
from sklearn.metrics import zero_one_loss

from cifar_fastai.base.messages import BadInput
from cifar_fastai.data import cache
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.data.places import PLACES
from cifar_fastai.interpretation.interpretation import CifarInterpretation
from cifar_fastai.runs.folder import about_run
from cifar_fastai.training.learner import cifar_learner, fit_recipe
from cifar_fastai.training.optimizers import NesterovSGD


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use('Agg')
    yield
    pyplot.close('all')


@pytest.fixture(scope='module')
def recipe(tiny_recipe): return dataclasses.replace(tiny_recipe, augment='none', optimizer='sgd', label_smoothing=0., lr=0.02, weight_decay=0.01, momentum=0.9, batch_size=60)


class Pair:
    "One Learner of ours and one of fastai's, over the same pictures in the same order, from the same weights"
    def __init__(self, data, recipe, path): self.data, self.recipe, self.path = data, recipe, path

    def our_loaders(self):
        loaders = image_dataloaders(self.data, self.recipe, self.path)
        loaders.train.shuffle = False
        return loaders

    def their_loaders(self):
        mean, deviation = self.our_loaders().statistics
        block = DataBlock((ImageBlock, CategoryBlock(vocab=list(self.data.classes), sort=False)), splitter=lambda items: (items[:120], items[120:]),
                          get_x=lambda i: PILImage.create(self.data.images[i]), get_y=lambda i: self.data.classes[self.data.labels[i]],
                          batch_tfms=Normalize.from_stats(mean, deviation, cuda=False))
        loaders = block.dataloaders(range(150), bs=60, val_bs=512, num_workers=0, path=self.path, device=torch.device('cpu'))
        loaders.train.shuffle = False
        for loader in loaders: loader.fake_l.generator = torch.Generator()  # else it draws a seed from the global one
        return loaders

    def ours(self, **given): return cifar_learner(self.our_loaders(), self.recipe, path=self.path, **given)

    def theirs(self, **given):
        model = copy.deepcopy(cifar_learner(self.our_loaders(), self.recipe).model)
        usual = dict(loss_func=CrossEntropyLossFlat(), opt_func=partial(NesterovSGD, mom=0.9), lr=0.02, wd=0.01, metrics=accuracy, moms=(0.9,)*3, wd_bn_bias=self.recipe.decay_norms)
        return Learner(self.their_loaders(), model, path=self.path, **{**usual, **given})

    def both(self, ask, **given):
        "What `ask` says of each"
        said = []
        for make in (self.ours, self.theirs):
            torch.manual_seed(0)
            np.random.seed(0)
            learner = make(**given)
            with learner.no_bar(), learner.no_logging(): said.append(ask(learner))
        return said


@pytest.fixture
def pair(tiny_data, recipe, tmp_path): return Pair(tiny_data, recipe, tmp_path)


def same(one, two, tolerance=1e-4):
    "Equal, numbers within a tolerance"
    if isinstance(one, (list, tuple)): return len(one) == len(two) and all(map(partial(same, tolerance=tolerance), one, two))
    if isinstance(one, (torch.Tensor, np.ndarray, float)):
        one, two = (np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, float) for value in (one, two))
        return one.shape == two.shape and bool(np.allclose(one, two, atol=tolerance, rtol=tolerance))
    return one == two


class Events(Callback):
    "Every event, in order"
    order = 200
    def __init__(self): self.seen = []
    def __call__(self, name):
        self.seen.append(name)
        super().__call__(name)


def fit(learner, *args, **kwargs):
    "What a fit leaves: each epoch's losses and metrics, every step's loss and rate, the names of the columns"
    learner.fit(*args, **kwargs)
    recorder = learner.recorder
    return [list(map(float, row)) for row in recorder.values], [float(loss) for loss in recorder.losses], list(recorder.lrs), list(recorder.metric_names)


def told(**callbacks):
    "A callback with these methods"
    return type('Told', (Callback,), {'order': 100, **callbacks})


def stop(error):
    def raise_it(self): raise error
    return raise_it


def events(learner, **callbacks):
    seen = Events()
    learner.fit(2, cbs=[seen, told(**callbacks)()])
    return seen.seen


def halves(model): return [list(model.parameters())[:5], list(model.parameters())[5:]]
def groups(learner): learner.create_opt(); return [len(group) for group in learner.opt.param_lists]
def columns(learner, **settings): vars(learner.recorder).update(settings); return fit(learner, 1)
def finite_losses(learner): return fit(learner, 1)[0]


# What is asked of both, for each argument that fastai's Learner takes
ARGUMENTS = {
    'lr': (0.5, lambda learner: learner.lr),
    'wd': (0.3, lambda learner: (learner.wd, fit(learner, 1))),
    'moms': ((0.9, 0.8, 0.9), lambda learner: (learner.fit_one_cycle(1, 0.01), learner.recorder.hps['mom'])[1]),
    'wd_bn_bias': (True, lambda learner: learner.wd_bn_bias),
    'train_bn': (False, lambda learner: learner.train_bn),
    'opt_func': (RMSProp, lambda learner: fit(learner, 1, 1e-3)),
    'metrics': ([accuracy, error_rate], lambda learner: (list(learner.metrics.attrgot('name')), learner.validate())),
    'loss_func': (LabelSmoothingCrossEntropyFlat(), lambda learner: fit(learner, 1)),
    'splitter': (halves, groups),
    'model_dir': ('kept', lambda learner: (learner.model_dir, learner.save('m').parent.name)),
    'default_cbs': (False, lambda learner: [hasattr(learner, name) for name in ('recorder', 'progress', 'train_eval')]),
}


@pytest.mark.parametrize('name', ARGUMENTS)
def test_what_fastai_s_learner_takes_ours_takes(pair, name):
    value, ask = ARGUMENTS[name]
    assert same(*pair.both(ask, **{name: value}))


def test_what_is_given_by_hand_wins_and_recipe_json_says_so(pair):
    pair.recipe = dataclasses.replace(pair.recipe, schedule='one_cycle')
    learner = pair.ours(lr=0.5, moms=(0.9, 0.7, 0.9), opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), cbs=Events)
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 1e-3)
    assert isinstance(learner.opt, OptimWrapper) and min(learner.recorder.hps['mom']) == pytest.approx(0.7, abs=0.05)
    about = about_run(learner)
    assert about['by_hand'] == ['cbs', 'lr', 'moms', 'opt_func'] and about['resolved']['lr'] == 0.5
    assert about_run(pair.ours(cbs=[]))['by_hand'] == []


@pytest.mark.parametrize('cbs, count', [(None, 0), ([], 0), (Events, 1), (Events(), 1), ([Events()], 1), ((Events, Events()), 2), (L(Events), 1)], ids=str)
def test_callbacks_in_every_form(pair, cbs, count):
    assert pair.both(lambda learner: len(learner._grab_cbs(Events)), cbs=cbs) == [count, count]


# What is asked of both Learners: their answers must be the same
BEHAVIOURS = {
    'a fit': lambda learner: fit(learner, 2),
    'a fit with a rate, a decay and a new optimizer': lambda learner: (fit(learner, 1), fit(learner, 1, 0.01, wd=0.3, reset_opt=True), learner.opt.hypers[0]['wd']),
    'one cycle': lambda learner: (learner.fit_one_cycle(2, 0.05), learner.recorder.hps['lr'], learner.recorder.values)[1:],
    'fine_tune': lambda learner: (learner.fine_tune(1, 0.01), [list(row) for row in learner.recorder.values])[1],
    'flat_cos and sgdr': lambda learner: [(getattr(learner, name)(*given), learner.recorder.hps['lr'])[1] for name, given in (('fit_flat_cos', (2, 0.01)), ('fit_sgdr', (1, 1, 0.01)))],
    'events of a fit': events,
    'events where a batch is cancelled': partial(events, after_pred=stop(CancelBatchException)),
    'events where an epoch is cancelled': partial(events, before_train=stop(CancelEpochException)),
    'events where training is cancelled': partial(events, after_backward=stop(CancelTrainException)),
    'events where validation is cancelled': partial(events, before_validate=stop(CancelValidException)),
    'loss of a batch by hand': lambda learner: (learner.model.eval(), learner.loss_func(*(lambda x, y: (learner.model(x), y))(*learner.dls.valid.one_batch())))[1],
    'the same after a fit': lambda learner: (learner.fit(1), BEHAVIOURS['loss of a batch by hand'](learner))[1],
    'one_batch leaves its parts': lambda learner: (learner.fit(1), learner.model.eval(), setattr(learner, 'training', False), learner.one_batch(0, learner.dls.valid.one_batch()),
                                                   learner.x, learner.y, learner.pred, learner.loss)[4:],
    'validate': lambda learner: list(learner.validate()),
    'predictions with all parts': lambda learner: learner.get_preds(with_input=True, with_decoded=True, with_loss=True),
    'predictions of the training images': lambda learner: learner.get_preds(ds_idx=0),
    'predictions of a shuffled loader': lambda learner: learner.get_preds(dl=learner.dls.valid.new(shuffle=True, bs=7)),
    'predictions of chosen items': lambda learner: learner.get_preds(dl=learner.dls.test_dl([140, 121, 130], with_labels=True)),
    'mixup of fastai': lambda learner: fit(learner, 1, cbs=MixUp(0.4)),
    'cutmix of fastai': lambda learner: fit(learner, 1, cbs=CutMix()),
    'mixup, and the loss afterwards': lambda learner: (learner.fit(1, cbs=MixUp()), learner.loss_func(torch.eye(3), tensor([0, 1, 1])))[1],
    'focal loss later': lambda learner: (setattr(learner, 'loss_func', FocalLossFlat()), fit(learner, 1))[1],
    'metrics later': lambda learner: (setattr(learner, 'metrics', [F1Score(average='macro'), RocAuc(), skm_to_fastai(zero_one_loss)]), list(learner.validate()))[1],
    'short epochs': lambda learner: fit(learner, 1, cbs=ShortEpochCallback(0.5)),
    'accumulated gradients': lambda learner: fit(learner, 1, cbs=GradientAccumulation(120)),
    'columns with training metrics': partial(columns, train_metrics=True),
    'columns without time': partial(columns, add_time=False),
    'columns without validation': partial(columns, valid_metrics=False),
    'early stopping': lambda learner: len(fit(learner, 9, 0., cbs=EarlyStoppingCallback(min_delta=1e9, patience=2))[0]),
    'less on a plateau': lambda learner: (fit(learner, 4, 1e-3, cbs=ReduceLROnPlateau(min_delta=1e9, patience=1)), learner.opt.hypers[-1]['lr'])[1],
    'a tracker': lambda learner: (learner.fit(2, cbs=TrackerCallback(monitor='accuracy', reset_on_fit=False)), len(learner._grab_cbs(TrackerCallback)))[1],
    'the best model kept': lambda learner: (learner.fit(2, cbs=SaveModelCallback(monitor='accuracy')), (learner.path/'models'/'model.pth').exists(), list(learner.validate()))[1:],
    'a CSV of the epochs': lambda learner: (learner.fit(2, cbs=CSVLogger()), [line.rsplit(',', 1)[0] for line in (learner.path/'history.csv').read_text().split()][0])[1],
    'collected data': lambda learner: (lambda kept: (learner.fit(1, cbs=kept), len(kept.data)))(CollectDataCallback())[1],
    'activations': lambda learner: (lambda kept: (learner.fit(1, cbs=kept), len(kept.stats)))(ActivationStats())[1],
    'saved and loaded': lambda learner: (learner.fit(1), learner.save('m'), learner.fit(1), learner.load('m'), list(learner.validate()), learner.opt.hypers)[4:],
    'frozen': lambda learner: (setattr(learner, 'splitter', halves), learner.freeze(), fit(learner, 1))[2],
    'rates by group': lambda learner: (setattr(learner, 'splitter', halves), learner.fit(1, slice(1e-4, 1e-2)), [h['lr'] for h in learner.opt.hypers])[2],
    'test-time augmentation': lambda learner: learner.tta(n=1),
    'data sets': lambda learner: (len(learner.dls.train_ds), len(learner.dls.valid_ds), list(learner.dls.vocab), learner.dls.c, [int(y) for _, y in learner.dls.valid_ds[[1, 2]]]),
    'loaders anew': lambda learner: (len(learner.dls.train.new(drop_last=False, bs=7)), learner.dls.valid.new(get_idxs=lambda: [5, 3, 1]).one_batch()),
    'other loaders': lambda learner: (learner.fit(1), setattr(learner, 'dls', DataLoaders(learner.dls.valid, learner.dls.train)), fit(learner, 1))[2],
}


@pytest.mark.parametrize('name', BEHAVIOURS)
def test_it_does_as_fastai_does(pair, name):
    ours, theirs = pair.both(BEHAVIOURS[name])
    assert same(ours, theirs), (ours, theirs)


class Darken(Transform):
    "Half as bright"
    def encodes(self, picture:PILImage): return PILImage.create(np.asarray(picture)//2)


def added(loader, event, step):
    getattr(loader, event).add(step)
    return loader


def with_step(loader, step):
    "A loader whose pictures go through one more step of the data set"
    loader.dataset.tls[0].tfms.add(step)
    return loader


def grey_levels(): return Datasets(list(range(5)), [[lambda n: TensorImage(torch.full((3, 16, 16), float(n)))], [lambda n: TensorCategory(n % 3)]])


# Loaders made from one over 30 images, in each way that fastai knows: ours must give the batches that fastai's gives
LOADERS = {
    'a step before a batch is made': lambda loader: loader.new(before_batch=lambda items: items[:2]),
    'items of ones own': lambda loader: (lambda item: loader.new(create_item=lambda place: item))(loader.dataset[3]),
    'batches of ones own': lambda loader: loader.new(create_batch=lambda items: fa_collate(items[:1])),
    'an order of ones own': lambda loader: loader.new(shuffle=True, shuffle_fn=lambda places: list(places)[::-1]),
    'places that repeat': lambda loader: loader.new(get_idxs=lambda: [7, 7, 2]),
    'numbers of somebody else': lambda loader: loader.new(grey_levels(), after_batch=[]),
    'one step more for each picture': lambda loader: with_step(loader, Darken()),
    'one step more for each item': lambda loader: added(loader, 'after_item', Darken()),
    'its first images': lambda loader: loader.new(n=10, bs=4),
    'some of its images': lambda loader: loader.new(torch.utils.data.Subset(loader.dataset, [4, 2, 9])),
    'pictures as tensors': lambda loader: loader.new(loader.dataset, after_item=[ToTensor()]),
}


@pytest.mark.parametrize('name', LOADERS)
def test_a_loader_made_from_ours_gives_what_fastai_s_gives(pair, name):
    ours, theirs = ([[part.as_subclass(torch.Tensor) for part in batch] for batch in LOADERS[name](make().valid)] for make in (pair.our_loaders, pair.their_loaders))
    assert same(ours, theirs)


def test_a_data_set_of_other_images_is_read_from_them(pair):
    other = dataclasses.replace(pair.data, images=255 - pair.data.images, labels=pair.data.labels.copy())
    wanted = image_dataloaders(other, pair.recipe, pair.path).valid_ds
    inputs, labels = pair.our_loaders().valid.new(wanted, after_batch=[]).one_batch()
    assert same(inputs.float(), torch.from_numpy(other.images[120:]).permute(0, 3, 1, 2).float()) and labels.tolist() == other.labels[120:].tolist()


@pytest.mark.parametrize('item', [lambda image, file: file.read_bytes(), lambda image, file: TensorImage(image).permute(2, 0, 1), lambda image, file: TensorImage(image).permute(2, 0, 1).float()],
                         ids=['bytes of a file', 'a tensor image', 'a tensor image of floats'])
def test_what_fastai_takes_for_a_picture(pair, item):
    file = pair.path/'one.png'
    PILImage.create(pair.data.images[121]).save(file)
    given = item(torch.from_numpy(pair.data.images[121].copy()), file)
    assert same(pair.our_loaders().test_dl([given]).one_batch()[0], pair.our_loaders().valid.one_batch()[0][1:2])
    with pytest.raises(BadInput, match='whole numbers from 0 to 255'): pair.our_loaders().test_dl([TensorImage(torch.rand(3, 16, 16))]).one_batch()


def test_a_look_in_the_middle_of_a_pass_changes_nothing(pair):
    pair.recipe = dataclasses.replace(pair.recipe, augment='crop_flip', batch_size=24, mixup=0.3)
    train = pair.our_loaders().train
    train.shuffle, train.epoch = True, 3
    whole = [x for x, _ in train]
    broken = [(x, train.one_batch())[0] for x, _ in train]
    assert all(map(torch.equal, whole, broken)) and len(whole) == 5
    class Look(Callback):
        order, run_valid = -20, False
        def before_batch(self): self.dls.show_batch(max_n=1)
        def after_batch(self): self.dls.train.one_batch()
    learners = [pair.ours(cbs=cbs) for cbs in ([], [Look])]
    for learner in learners:
        learner.dls.train.shuffle = True
        with learner.no_bar(), learner.no_logging(): learner.fit(2)
    assert all(map(torch.equal, *(learner.model.state_dict().values() for learner in learners)))


def test_two_passes_at_once_are_apart(pair):
    train = pair.our_loaders().train
    train.shuffle, train.bs = True, 24
    for seen in zip(*(((x, y), (x2, y2)) for (x, y), (x2, y2) in zip(train, train))):
        pictures, labels = (torch.cat(part).as_subclass(torch.Tensor) for part in zip(*seen))
        assert len(pictures.flatten(1).unique(dim=0)) == 120 and labels.bincount().tolist() == np.bincount(pair.data.labels[:120]).tolist()


# What is asked of a Learner, whose loaders may be the other library's
CROSSED = {
    'a fit': finite_losses,
    'all predictions': lambda learner: learner.get_preds(with_input=True, with_decoded=True, with_loss=True),
    'an interpretation': lambda learner: [part for k in (ClassificationInterpretation, CifarInterpretation) for part in (k.from_learner(learner, 1).confusion_matrix(), k.from_learner(learner, 1).losses)],
    'the finder': lambda learner: (learner.lr_find(1e-6, 1e-2, 20, stop_div=False, show_plot=False), list(learner.recorder.lrs))[1],
    'export': lambda learner: (learner.export('x.pkl'), load_learner(learner.path/'x.pkl').dls.vocab)[1].items,
}


@pytest.mark.parametrize('name', CROSSED)
def test_learner_and_loaders_of_two_libraries(pair, name):
    def theirs(loaders):
        learner = pair.theirs()
        learner.dls = loaders
        return learner
    said = []
    for learner in (pair.theirs(), theirs(pair.our_loaders()), cifar_learner(pair.their_loaders(), pair.recipe, path=pair.path)):
        with learner.no_bar(), learner.no_logging(): said.append(CROSSED[name](learner))
    assert same(said[0], said[1]) and same(said[0], said[2])


def test_a_library_s_network_over_somebody_else_s_loaders_leaves_no_trace(pair):
    recipe, loaders = dataclasses.replace(pair.recipe, arch='torchvision:resnet18', width='auto'), pair.their_loaders()
    loaders.valid.fake_l.generator = None
    before = loaders.train.rng.getstate(), torch.get_rng_state().tolist()
    weights = [next(cifar_learner(each, recipe).model.parameters()) for each in (loaders, pair.our_loaders())]
    assert (loaders.train.rng.getstate(), torch.get_rng_state().tolist()) == before and torch.equal(*weights)


def test_what_needs_the_images_is_refused_over_other_loaders(pair):
    for field, value in (('mixup', 0.2), ('class_weights', 'balanced'), ('whiten', True), ('track_images', True)):
        with pytest.raises(BadInput, match=f'{field} {value} works with the loaders of cifar_dataloaders only'):
            cifar_learner(pair.their_loaders(), dataclasses.replace(pair.recipe, **{field: value}))
    plain = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 3, 16, 16), torch.zeros(4).long()))
    with pytest.raises(BadInput, match='name no classes'): cifar_learner(DataLoaders(plain, plain), pair.recipe)


def test_what_is_added_for_one_fit_is_gone_after_it(pair, capsys):
    for learner in (pair.ours(), pair.theirs()):
        learner.remove_cb(ProgressCallback)
        before, added = list(learner.cbs), ProgressCallback()
        learner.fit(1, cbs=added)
        assert list(learner.cbs) == before and not hasattr(learner, 'progress')
        learner.add_cb(added)
        assert learner.progress is added
        own = Recorder(beta=0.5)
        learner.remove_cb(Recorder)
        learner.add_cb(own)
        learner.fit(1)
        assert learner.recorder is own and len(own.values) == 1


def test_the_finder_can_be_plotted_again(pair):
    ours, theirs = pair.ours(), pair.theirs()
    drawn = []
    for learner in (ours, theirs):
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, 0.)
            learner.lr_find(1e-6, 1e-2, 20, stop_div=False, show_plot=False)
        learner.recorder.plot_lr_find()
        drawn.append(pyplot.gca().lines[0].get_xydata())
        drawn.append(learner.recorder.plot_loss(skip_start=0, with_valid=False, ax=pyplot.figure().add_subplot()).lines[0].get_xydata())
    assert same(drawn[:2], drawn[2:], tolerance=1e-3) and list(map(len, drawn[:2])) == [15, 20]
    before = ours.lr_find(num_it=8, stop_div=False, show_plot=False, suggest_funcs=None).curve
    assert same(ours.recorder.lrs, before.lr.tolist())


@pytest.mark.parametrize('scale', [1., 200.])
def test_a_copy_keeps_the_rates_of_its_parameters(pair, scale):
    "So that the finder searches with the steps that the fit will take"
    learner = cifar_learner(pair.our_loaders(), dataclasses.replace(pair.recipe, bias_lr=scale))
    twin = copy.deepcopy(learner)
    assert [getattr(p, 'lr_scale', 1.) for p in twin.model.parameters()] == [getattr(p, 'lr_scale', 1.) for p in learner.model.parameters()]
    found = learner.lr_find(1e-3, 1e-1, 8, stop_div=False, show_plot=False, suggest_funcs=None).curve
    losses = []
    class Step(Callback):
        run_valid = False
        def before_batch(self): self.opt.set_hyper('lr', float(found.lr[len(losses)]))
        def after_loss(self): losses.append(float(self.loss))
        def after_batch(self):
            if len(losses) == 8: raise CancelEpochException
    with twin.no_bar(), twin.no_logging(): twin.fit(4, cbs=Step())
    smooth, shown = 0., []
    for step, loss in enumerate(losses[:8], 1):
        smooth = 0.98*smooth + 0.02*loss
        shown.append(smooth/(1 - 0.98**step))
    assert same(found.loss.tolist()[:5], shown[:5], 1e-3)


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('way', ['deepcopy', 'pickle'])
def test_copies_of_loaders_and_learner(tiny_data, recipe, tmp_path, way, place):
    cache.keep_data(tiny_data, tmp_path/'kept')
    loaders = image_dataloaders(cache.fetch_data(tmp_path/'kept'), recipe, tmp_path, place=place)
    learner = cifar_learner(loaders, recipe)
    make = copy.deepcopy if way == 'deepcopy' else lambda value: pickle.loads(pickle.dumps(value))
    other = make(loaders)
    for one, two in zip(loaders, other, strict=True): assert same(one.one_batch()[0], two.one_batch()[0]) and same(one.items, two.items)
    assert same(loaders.valid_ds[3][0], other.valid_ds[3][0]) and list(other.vocab) == list(loaders.vocab)
    if way == 'deepcopy': assert other.data is loaders.data and other.train.array.labels is loaders.train.array.labels, 'the images are shared'
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
        before, expected, twin = copy.deepcopy(learner.model.state_dict()), learner.get_preds(), make(learner)
        with twin.no_bar(), twin.no_logging(): assert same(twin.get_preds(), expected) and twin.fit(1) is None
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in twin.model.state_dict().items())


@pytest.mark.parametrize('stock', [False, True], ids=['our loaders', "in fastai's DataLoaders"])
def test_an_exported_learner_is_small_and_predicts(pair, stock):
    learner = pair.ours()
    if stock: learner.dls = DataLoaders(learner.dls.train, learner.dls.valid, path=pair.path)
    with learner.no_bar(), learner.no_logging(): learner.fit(1)
    said = learner.get_preds()[0]
    learner.export('e.pkl')
    weights = sum(value.numel()*value.element_size() for value in learner.model.state_dict().values())
    assert (pair.path/'e.pkl').stat().st_size < 2*weights < weights + pair.data.images.nbytes
    assert same(learner.get_preds()[0], said)
    found = load_learner(pair.path/'e.pkl')
    with found.no_bar(): label, index, probabilities = found.predict(pair.data.images[120])
    assert same(probabilities, said[0]) and label == pair.data.classes[int(index)]


@pytest.fixture(scope='module')
def looked_at(tiny_data, recipe, tmp_path_factory):
    "fastai's interpretation of fastai's Learner, and of ours fastai's and our own"
    pair = Pair(tiny_data, recipe, tmp_path_factory.mktemp('looked'))
    ours, theirs = pair.ours(), pair.theirs()
    return ClassificationInterpretation.from_learner(theirs), {'fastai': ClassificationInterpretation.from_learner(ours), 'ours': CifarInterpretation.from_learner(ours)}


INDICES = {'all': slice(None), 'a slice': slice(1, 5), 'one': 4, 'a list': [7, 2, 9], 'a tensor': tensor([7, 2, 9]), 'from the end': slice(-3, None)}


@pytest.mark.parametrize('kind', ['fastai', 'ours'])
@pytest.mark.parametrize('name', INDICES)
def test_items_of_an_interpretation(looked_at, kind, name):
    stock, mine = looked_at[0], looked_at[1][kind]
    assert same(mine[INDICES[name]], stock[INDICES[name]])


def test_our_interpretation_keeps_cross_entropy_and_is_made_from_a_learner_by_name(pair):
    learner = pair.ours(loss_func=FocalLossFlat())
    found = CifarInterpretation.from_learner(learner, 1)
    with learner.no_bar(): logits, targets = learner.get_preds(act=lambda logits: logits)
    assert same(found.losses, torch.nn.functional.cross_entropy(logits, targets, reduction='none'))
    with pytest.raises(BadInput, match='CifarInterpretation.from_learner'): CifarInterpretation(learner, learner.dls.valid, found.losses)


@pytest.mark.parametrize('kind', ['fastai', 'ours'])
def test_the_largest_losses_with_their_items(looked_at, kind, capsys):
    stock, mine = looked_at[0], looked_at[1][kind]
    for given in ({'k': 3}, {'k': 3, 'largest': False}, {}):
        one, two = mine.top_losses(**given, items=True), stock.top_losses(**given, items=True)
        assert same(one[0], two[0]) and list(one[2]) == list(two[2]) == [stock.dl.items[int(i)] for i in two[1]]


@pytest.mark.parametrize('kind', ['fastai', 'ours'])
@pytest.mark.parametrize('plot', [lambda i: i.show_results([0, 3, 5]), lambda i: i.show_results(4), lambda i: i.show_results(tensor([2, 1]))])
def test_results_are_shown(looked_at, kind, plot):
    titles = []
    for each in (looked_at[0], looked_at[1][kind]):
        plot(each)
        titles.append([axes.get_title() for axes in pyplot.gcf().axes])
        pyplot.close('all')
    assert titles[0] == titles[1] and any(titles[0])


@pytest.mark.parametrize('which', [4, range(3, 6), [0, 3]], ids=str)
def test_fastai_s_own_picture_of_the_largest_losses(looked_at, which):
    titles = []
    for each in (looked_at[0], looked_at[1]['fastai']):
        each.plot_top_losses(which)
        titles.append([axes.get_title() for axes in pyplot.gcf().axes])
        pyplot.close('all')
    assert titles[0] == titles[1] and any(titles[0])
