"Where there is no Unix, no glibc, no home folder and no wide encoding: simulated by taking them away"
import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_fastai.base import devices
from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import PLAIN, BadInput
from cifar_fastai.data import sources
from cifar_fastai.data.sources import load_images

ROOT = Path(__file__).parents[1]

# The modules and functions that Windows lacks; without `pwd` and HOME there is no home folder either
ELSEWHERE = '''
import ctypes, os, pkgutil, platform, signal, sys, warnings
MISSING = {'resource', 'fcntl', 'pwd', 'grp', 'termios'}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in MISSING: raise ModuleNotFoundError(f'No module named {name!r}', name=name)

class CDLL(ctypes.CDLL):
    def __init__(self, name, *args, **kwargs):
        if name is None: raise TypeError('LoadLibrary() argument 1 must be str, not None')
        super().__init__(name, *args, **kwargs)

sys.meta_path.insert(0, Refuse())
for name in MISSING: sys.modules.pop(name, None)
ctypes.CDLL = CDLL
platform.libc_ver = lambda *_, **__: ('', '')
for name in ('fork', 'forkpty', 'getuid', 'geteuid', 'getgid', 'pread', 'preadv', 'posix_fadvise', 'posix_fallocate'): vars(os).pop(name, None)
for name in ('SIGHUP', 'SIGKILL', 'SIGALRM', 'SIGUSR1', 'pthread_sigmask'): vars(signal).pop(name, None)
warnings.filterwarnings('ignore', 'only soft file lock is available')  # there is no other where Linux lacks fcntl

from cifar_fastai.base.commands import run_command
from cifar_fastai.train import main
status = run_command(main, sys.argv[1:])
import cifar_fastai
for module in pkgutil.walk_packages(cifar_fastai.__path__, 'cifar_fastai.'):
    if not module.name.endswith('__main__'): __import__(module.name)
from cifar_fastai.profiling.peak import peak_memory
import torch
assert peak_memory(torch.device('cpu')) is None and not MISSING & set(sys.modules)
sys.exit(status)
'''


def test_it_imports_and_trains_elsewhere(tiny_folder, tmp_path):
    words = ['--data', tiny_folder, '--width', '4', '--epochs', '1', '--batch-size', '20', '--device', 'cpu', '--precision', 'fp32', '--progressive', '0', '--out', tmp_path/'runs']
    environment = {name: value for name, value in os.environ.items() if name not in ('HOME', 'FASTAI_HOME', 'USER', 'LOGNAME', 'USERNAME')}
    environment.update(PYTHONIOENCODING='ascii', MPLCONFIGDIR=str(tmp_path), OMP_NUM_THREADS='1', PYTHONPATH=f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    done = subprocess.run([sys.executable, '-c', ELSEWHERE, *map(str, words)], capture_output=True, env=environment, cwd=tmp_path)
    out, error = done.stdout.decode('ascii'), done.stderr.decode('ascii')
    assert done.returncode == 0, error[-3000:]
    assert '16x16' in out and ' -> ' in out and 'not kept for the next time: ~: there is no home folder; FASTAI_HOME names another' in error
    run, = (path for path in (tmp_path/'runs').iterdir())
    assert json.loads((run/'metrics.json').read_text(encoding='utf-8'))['status'] == 'complete' and (run/'report.html').exists()


@pytest.mark.parametrize('encoding, shown', [
    ('utf-8', 'cat → 犬 5 ± 2 °, 3×3 …'), ('cp1252', r'cat -> \u72ac 5 ± 2 °, 3×3 …'), ('latin-1', r'cat -> \u72ac 5 ± 2 °, 3×3 ...'),
    ('ascii', r'cat -> \u72ac 5 +- 2  degrees, 3x3 ...')])
def test_a_stream_shows_what_it_can_hold(encoding, shown, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    for stream, name in zip(streams, ('stdout', 'stderr')): monkeypatch.setattr(sys, name, stream)
    def main(words):
        print('cat → 犬 5 ± 2 °, 3×3 …')
        raise BadInput('cat → 犬 5 ± 2 °, 3×3 …')
    assert run_command(main, []) == 1
    for stream in streams:
        stream.flush()
        assert stream.buffer.getvalue().decode(encoding).strip() == shown and stream.errors == 'strict'


def test_all_that_a_command_may_say_has_a_plain_form():
    "Every character in the package's strings, but for those of pages and widgets"
    for path in (ROOT/'cifar_fastai').rglob('*.py'):
        if path.parent.name == 'views' or path.name == '_modidx.py': continue
        strings = [node.value for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        letters = {letter for text in strings for letter in text if not letter.isascii()} - set("ä√Ł'ö\ufeff")
        assert letters <= PLAIN.keys(), (path.name, letters - PLAIN.keys())
    for text in PLAIN.values(): assert text.isascii()


@pytest.mark.parametrize('version', [('', ''), ('musl', '1.2'), ('glibc', '2.0')])
def test_no_function_of_glibc_is_asked_for_elsewhere(monkeypatch, version):
    class Library:
        def __init__(self, name):
            if version[0] != 'glibc': raise TypeError('no such library')
    monkeypatch.setattr(devices.platform, 'libc_ver', lambda *_: version)
    monkeypatch.setattr(devices.ctypes, 'CDLL', Library)
    assert devices.keep_freed_memory.__wrapped__() is False and devices.kept_memory() == 0 and devices.free_memory() > 0


@pytest.fixture
def homeless(monkeypatch):
    "A user without a home folder, and CIFAR-10 nowhere"
    for name in ('HOME', 'FASTAI_HOME', 'CIFAR_FASTAI_DATA'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, 'pwd', None)
    with pytest.raises(RuntimeError): Path.home()


def test_no_home_means_no_cache(homeless, tiny_folder, notices):
    data = load_images(tiny_folder)
    assert data.folder is None and 'not kept for the next time: ~: there is no home folder; FASTAI_HOME names another' in notices()
    assert load_images(tiny_folder, cache=False).fingerprints == data.fingerprints


def test_no_home_and_no_cifar10_meets_a_message(homeless):
    with pytest.raises(BadInput, match='there is no home folder(.|\n)*CIFAR_FASTAI_DATA'): load_images('cifar10')


def test_an_official_name_is_checked_without_a_home(homeless, tmp_path):
    (tmp_path/'cifar-10-python.tar.gz').write_bytes(b'other')
    assert 'its MD5 is 795f3202b17cb6bc3d4b771d8c6c9eaf' in sources.differs_from_published(tmp_path/'cifar-10-python.tar.gz')


def test_no_mapped_file_is_in_a_folder_that_is_renamed(tiny_folder, tmp_path, monkeypatch):
    "Windows would refuse that"
    maps, rename = Path('/proc/self/maps'), Path.rename
    if not maps.exists(): pytest.skip('what is mapped is not known here')
    seen = []
    def watched(path, target):
        seen.append(str(path) in maps.read_text())
        return rename(path, target)
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    monkeypatch.setattr(Path, 'rename', watched)
    assert load_images(tiny_folder).folder and seen == [False]
