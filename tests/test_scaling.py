"The scaling benchmark, on a few images"
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='memory is read from /proc')
@pytest.mark.parametrize('place', ['disk', 'memory'])
def test_one_size_is_loaded_and_trained_on(tmp_path, capsys, benchmark_module, place):
    scaling = benchmark_module('scaling')
    scaling.write_images(tmp_path/'images', 64, 8)
    options = SimpleNamespace(arch='resnet9', width='4', batch_size=16, device='cpu', seconds=0.05, place=place, folder=tmp_path/'images', began=0.)
    scaling.forget(tmp_path/'images')
    scaling.one(options)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['training'] > 0 and said['loader'] > 0 and 0 < said['anonymous'] < said['resident'] < 100 and said['first'] > 0
