"What a training needs before its first step: counted, not timed"
import json
import os
import subprocess
import sys

FIRST_STEP = '''
import json, sys
from cifar_fastai.train import main
from fastai.callback.core import Callback
from fastai.learner import Learner

def at_first_step(self, *_):
    print(json.dumps(sorted(sys.modules)))
    sys.stdout.flush()
    import os
    os._exit(0)

Learner.one_batch = at_first_step
main(sys.argv[1:])
'''
LATER = ('IPython', 'ipywidgets', 'torchvision', 'pytorch_grad_cam', 'cv2', 'statsmodels', 'jinja2', 'torch._dynamo', 'torch._inductor',
         'tensorboard', 'fastai.vision.all', 'fastai.vision.augment', 'fastai.vision.learner',
         'fastai.text.core', 'cifar_fastai.interpretation.interpretation', 'cifar_fastai.interpretation.analysis', 'cifar_fastai.views.report_page', 'cifar_fastai.heatmaps.gradcam')


def test_what_only_the_end_of_a_run_needs_is_not_imported_before_its_first_step(tiny_folder, tmp_path):
    words = ['--data', tiny_folder, '--width', '4', '--epochs', '1', '--batch-size', '24', '--device', 'cpu', '--precision', 'fp32', '--out', tmp_path]
    environment = {**os.environ, 'FASTAI_HOME': str(tmp_path/'home')}
    done = subprocess.run([sys.executable, '-c', FIRST_STEP, *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert 'cifar_fastai.runs.session' in modules and not modules.intersection(LATER)
