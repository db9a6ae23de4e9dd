import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from drawn import CLASSES

from cifar_fastai.base.files import faults, lock_folder
from cifar_fastai.base.messages import BadInput
from cifar_fastai.interpretation.inference import run_inference, steady_loader
from cifar_fastai.recipes.recipe import recipe_from_dict
from cifar_fastai.runs.files import load_run, read_predictions, read_run
from cifar_fastai.runs.interpreted import load_interpretation
from cifar_fastai.runs.session import train_session
from cifar_fastai.train import train

FILES = {'recipe.json', 'history.csv', 'metrics.json', 'model.safetensors', 'predictions.npz',
         'figures/curves.png', 'figures/samples_train.png', 'figures/samples_test.png', 'figures/samples_augmented.png'}


@pytest.fixture(scope='module')
def run(tiny_folder, tiny_recipe, tmp_path_factory):
    return train(dataclasses.replace(tiny_recipe, data=str(tiny_folder), lr='find', lr_steps=40, holdout=12), tmp_path_factory.mktemp('runs'))


def test_a_run_leaves_its_files(run):
    there = {str(path.relative_to(run.path)) for path in run.path.rglob('*') if path.is_file()}
    assert FILES | {'lr_find.csv', 'figures/lr_find.png'} <= there
    assert not any('partial' in name or '.part' in name for name in there)


def test_metrics_are_what_the_predictions_say(run):
    metrics, said = json.loads((run.path/'metrics.json').read_text()), np.load(run.path/'predictions.npz')
    assert metrics['status'] == 'complete' and metrics['epochs'] == 2 and metrics['valid_is'] == 'holdout' and metrics['selected'] == 'last'
    assert metrics['test_accuracy'] == (said['logits'].argmax(1) == said['target']).mean()
    losses = F.cross_entropy(torch.from_numpy(said['logits']), torch.from_numpy(said['target']), reduction='none')
    np.testing.assert_allclose(said['loss'], losses, rtol=1e-5)
    assert metrics['test_loss'] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert metrics['parameters'] == sum(value.numel() for name, value in load_file(run.path/'model.safetensors').items()
                                        if 'running' not in name and 'tracked' not in name)
    assert said['name'][0].endswith('.png') and len(said['name']) == 15


def test_history_and_recipe_read_back(run, tiny_recipe):
    history = pd.read_csv(run.path/'history.csv')
    assert list(history.columns) == ['epoch', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_accuracy', 'lr', 'seconds'] and len(history) == 2
    about = json.loads((run.path/'recipe.json').read_text())
    assert recipe_from_dict(about['recipe']) == run.recipe and about['schema'] == 1
    assert about['resolved']['lr'] == about['resolved']['suggestions']['valley'] and about['data']['counts'] == {'train': 48, 'valid': 12, 'test': 15}
    assert about['environment']['torch'] == torch.__version__.split('+')[0] or about['environment']['torch'] in torch.__version__


def test_load_run_predicts_as_the_run_did(run):
    learner = load_run(run.path)
    logits, _ = run_inference(learner.model, steady_loader(learner.dls.test))
    np.testing.assert_array_equal(logits, read_predictions(run.path/'predictions.npz').logits)


def test_pictures_are_of_the_test_set_beside_a_hold_out(run, tiny_folder):
    "Of the Learner that trained, and of a run that is loaded"
    for found in (run.interpretation, load_interpretation(run.path)):
        for index in (0, 6, 14):
            file = np.asarray(Image.open(tiny_folder/str(found.kept.names[index])))
            np.testing.assert_array_equal(found.images([index])[0], file)


def test_samples_stand_under_their_class(run, tmp_path, monkeypatch):
    "The class of these images is the colour that is strongest in them"
    from cifar_fastai.runs import folder
    drawn, plot_images = [], folder.plot_images
    monkeypatch.setattr(folder, 'plot_images', lambda images, titles, **words: drawn.append((images, titles)) or plot_images(images, titles, **words))
    folder.write_samples(run.learner, tmp_path, 12)
    assert [len(titles) for _, titles in drawn] == [12, 12, 12]
    for images, titles in drawn: assert titles == [CLASSES[image.mean((0, 1)).argmax()] for image in images]


def test_a_run_that_stops_early_says_which_weights_it_kept(tiny_folder, tiny_recipe, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), epochs=3, early_stopping=1, batch_size=20, lr=5., optimizer='sgd')
    made = train_session(recipe, tmp_path, say=str, explained=False)
    best = made.history.valid_loss.min()
    logits, target = (torch.from_numpy(found) for found in run_inference(load_run(made.path).model, steady_loader(made.learner.dls.valid)))
    assert made.metrics['selected'] == 'best_on_holdout' and F.cross_entropy(logits, target).item() == pytest.approx(best, rel=1e-4)


def test_a_folder_has_one_writer(tmp_path):
    with lock_folder(tmp_path), pytest.raises(BadInput, match='another process is writing'):
        with lock_folder(tmp_path): pass
    with lock_folder(tmp_path): pass


def test_one_changed_byte_is_found_out(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path/'copy')
    content = bytearray((copy/'model.safetensors').read_bytes())
    content[-1] ^= 1
    (copy/'model.safetensors').write_bytes(content)
    with pytest.raises(BadInput, match='model.safetensors.*not what the run wrote'): load_run(copy)
    assert list(faults(copy)) == ['model.safetensors'] and faults(run.path) == {}


def test_a_run_can_be_made_again_from_its_recipe(run, tmp_path):
    from cifar_fastai.recipes.named import named_recipe
    again = train(named_recipe(str(run.path)), tmp_path, 'again')
    one, two = load_file(run.path/'model.safetensors'), load_file(again.path/'model.safetensors')
    assert all(torch.equal(one[name], two[name]) for name in one)
    drop = lambda path: pd.read_csv(path/'history.csv').drop(columns='seconds')
    assert drop(run.path).equals(drop(again.path))


def test_changed_data_are_refused(run, tmp_path):
    about = json.loads((run.path/'recipe.json').read_text())
    about['data']['fingerprints']['test'] = '0'*64
    (tmp_path/'recipe.json').write_text(json.dumps(about))
    (tmp_path/'metrics.json').write_text('{}')
    with pytest.raises(BadInput, match='not those that'): load_run(tmp_path)


def test_an_interrupted_run_says_so(tiny_folder, tiny_recipe, tmp_path, monkeypatch):
    from cifar_fastai.runs import session
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(session, 'fit_recipe', stop)
    with pytest.raises(KeyboardInterrupt): train(dataclasses.replace(tiny_recipe, data=str(tiny_folder)), tmp_path, 'x')
    assert read_run(tmp_path/'x').metrics['status'] == 'interrupted' and not (tmp_path/'x'/'predictions.npz').exists()


def test_a_full_disk_leaves_whole_files(tiny_folder, tiny_recipe, tmp_path, monkeypatch):
    from cifar_fastai.runs import files
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder))
    monkeypatch.setattr(files, 'save', full)
    with pytest.raises(OSError): train(recipe, tmp_path, 'full')
    assert read_run(tmp_path/'full').metrics['status'] == 'failed' and not list((tmp_path/'full').glob('*model*'))
    assert len(pd.read_csv(tmp_path/'full'/'history.csv')) == 2


def test_two_runs_may_begin_in_one_folder_at_the_same_moment(tmp_path, monkeypatch):
    from contextlib import contextmanager
    from cifar_fastai.runs import files
    @contextmanager
    def another_is_as_far(path, whole=files.whole_file):
        with whole(path) as beside: yield beside
        path.unlink()
    monkeypatch.setattr(files, 'whole_file', another_is_as_far)
    files.check_place(tmp_path/'runs', None)
    assert not list((tmp_path/'runs').iterdir())
