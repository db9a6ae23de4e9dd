"The temperature of a run: from its hold-out alone, and used wherever probabilities are"
import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.special import softmax

from drawn import CLASSES, write_images

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.files import write_json
from cifar_fastai.base.messages import BadInput
from cifar_fastai.export.classifier import Classifier
from cifar_fastai.export.parity import find_reference, loaders_here, network_answers
from cifar_fastai.export.portable import Portable
from cifar_fastai.interpretation.predictions import fit_temperature
from cifar_fastai.predict import main as predict
from cifar_fastai.runs.files import read_predictions, read_run
from cifar_fastai.runs.session import train_session
from cifar_fastai.views.report_page import write_run_report


@pytest.fixture(scope='module')
def run(tmp_path_factory, tiny_recipe):
    "180 images to train on, 120 held out, 30 to test on; every sixth of them has another class than it shows, so that nobody can be sure"
    folder = tmp_path_factory.mktemp('temperature')
    data = write_images(folder/'data', {'train': (300, 1), 'test': (30, 2)}, 16)
    for place, path in enumerate(sorted(data.rglob('*.png'))):
        if place % 6 == 0: path.rename(path.parents[1]/CLASSES[(CLASSES.index(path.parent.name) + 1) % 3]/f'other{path.name}')
    recipe = dataclasses.replace(tiny_recipe, data=str(data), epochs=5, batch_size=30, holdout=120, label_smoothing=0.4)
    return train_session(recipe, folder, 'run', say=lambda line: None, explained=False)


def test_it_is_the_best_of_the_hold_out_and_knows_nothing_of_the_test_set(run):
    "Against a fine grid, over what fastai's own get_preds says"
    metrics = run.metrics
    assert metrics['temperature_images'] == 120 and metrics['valid_is'] == 'holdout'
    with run.learner.no_bar(): logits, targets = run.learner.get_preds(dl=run.learner.dls.valid, act=lambda logits: logits)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 20_000))
    losses = [float(torch.nn.functional.cross_entropy(logits.double()/value, torch.as_tensor(targets))) for value in grid]
    assert abs(metrics['temperature']/grid[np.argmin(losses)] - 1) < 2e-3 and abs(metrics['temperature'] - 1) > 0.02


def test_predict_the_page_and_exported_files_use_it(run, tmp_path, capsys):
    metrics, kept = run.metrics, read_predictions(run.path/'predictions.npz')
    classifier = Classifier.load(run.path, 'cpu')
    assert classifier.temperature == metrics['temperature']
    wanted = softmax(kept.logits.astype(float)/metrics['temperature'], axis=1)
    assert run_command(predict, [str(run.path), f'{run.recipe.data}/test', '--out', str(tmp_path/'said.csv'), '--device', 'cpu']) == 0
    assert f"scaled by the temperature {metrics['temperature']:.3g}" in capsys.readouterr().out
    said = {row['picture'].rpartition('test/')[2]: row for row in csv.DictReader(open(tmp_path/'said.csv', newline=''))}
    for name, shares in zip(kept.name, wanted): assert abs(float(next(row for picture, row in said.items() if name.endswith(picture))['probability']) - shares.max()) < 1e-4
    page = write_run_report(run.path, path=tmp_path/'page.html').read_text()
    assert f"With the temperature <b>{metrics['temperature']:.3g}</b>, fitted on 120 held-out training images" in page
    portable = Portable(classifier)
    reference = find_reference(read_run(run.path), portable, loaders_here(read_run(run.path)))
    np.testing.assert_allclose(reference.probabilities, wanted, atol=1e-6)
    np.testing.assert_allclose(network_answers(portable, reference.pictures), wanted, atol=1e-4)


@pytest.mark.parametrize('value', ['warm', 0., -1., None])
def test_a_temperature_that_is_none_is_refused(value, run):
    text, manifest = (run.path/'metrics.json').read_text(), run.path/'manifest.json'
    manifest.rename(run.path/'away')
    try:
        write_json(run.path/'metrics.json', {**json.loads(text), 'temperature': value})
        with pytest.raises(BadInput, match='temperature is missing or of another kind'): Classifier.load(run.path, 'cpu')
    finally:
        (run.path/'metrics.json').write_text(text)
        (run.path/'away').rename(manifest)


def test_there_is_none_without_a_hold_out_or_where_nothing_is_best(run, tmp_path):
    other = train_session(dataclasses.replace(run.recipe, holdout=0, epochs=1), tmp_path, 'other', say=lambda line: None, explained=False)
    assert 'temperature' not in other.metrics and Classifier.load(other.path, 'cpu').temperature == 1
    assert 'With the temperature' not in write_run_report(other.path, path=tmp_path/'page.html').read_text()
    targets = np.arange(200) % 2
    assert fit_temperature(np.eye(2, dtype=np.float32)[targets], targets) is None  # right on all of them: no certainty is enough
    assert fit_temperature(np.eye(2, dtype=np.float32)[targets[:99]], targets[:99]) is None
