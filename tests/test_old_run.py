"A run folder that an earlier version wrote, when all modules stood in one folder: it is read as any other"
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_fastai.comparison.comparison import compare_runs
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.runs.files import load_run, read_run
from cifar_fastai.runs.interpreted import load_interpretation
from cifar_fastai.runs.resume import identity, is_finished
from cifar_fastai.views.report_page import write_run_report

OLD = Path(__file__).parent/'old_run'  # demo, width 2, 200 images, 2 epochs: 209 of 2000 test images right


@pytest.fixture(scope='module')
def learner(): return load_run(OLD)


def test_its_files_say_what_they_said():
    record = read_run(OLD)
    assert record.recipe == Recipe(data='shapes', width=2, limit=200, epochs=2, augment='shapes') and is_finished(OLD)
    assert list(record.history.epoch) == [1, 2] and record.metrics['test_accuracy'] == 209/2000
    assert identity(record.about)['resolved'] == record.about['resolved']


def test_its_weights_give_the_kept_logits(learner):
    kept = np.load(OLD/'predictions.npz')
    assert {name: value for name, value in learner.resolved.to_dict().items() if name not in ('device', 'precision')} == {
        'lr': 0.24, 'weight_decay': 5e-4, 'momentum': 0.85, 'batch_size': 32, 'image_size': 32, 'holdout': 0}
    images, targets = next(iter(learner.dls.test))
    with torch.no_grad(): logits = learner.model.eval()(images).cpu().numpy()
    np.testing.assert_allclose(logits, kept['logits'][:len(logits)], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(targets.cpu().numpy(), kept['target'][:len(logits)])


def test_it_is_interpreted_and_reported(learner, tmp_path):
    interpretation = load_interpretation(OLD, learner)
    assert interpretation.accuracy == 209/2000
    page = write_run_report(OLD, interpretation, tmp_path/'report.html').read_text()
    assert '10.45' in page and 'resnet9' in page


def test_it_is_compared(tmp_path):
    paths = [shutil.copytree(OLD, tmp_path/name) for name in ('one', 'two')]
    for path in paths: (path/'manifest.json').unlink()
    about = json.loads((paths[1]/'recipe.json').read_text())
    about['recipe']['seed'] = 1
    (paths[1]/'recipe.json').write_text(json.dumps(about))
    found = compare_runs(paths)
    assert len(found.arms) == 1 and found.arms[0].seeds == [0, 1] and '10.45' in found.text()
