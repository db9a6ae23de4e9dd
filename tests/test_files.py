"One writer at a time, whole files and digests"
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from cifar_fastai.base import files
from cifar_fastai.base.files import MANIFEST, checksum, lock_folder, read_manifest, rewrite_files, whole_file, write_json, write_manifest
from cifar_fastai.base.messages import BadInput

HOLDER = '''
import sys
from cifar_fastai.base.files import lock_folder
with lock_folder(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
'''


def hold(folder):
    "A process that holds `folder` until its standard input ends"
    process = subprocess.Popen([sys.executable, '-c', HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    return process


@pytest.mark.parametrize('how', ['by itself', 'killed'])
def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path, how):
    with hold(tmp_path) as process:
        with pytest.raises(BadInput, match='another process is writing to .*\n.*stop it first'):
            with lock_folder(tmp_path): raise AssertionError('both hold it')
        with pytest.raises(BadInput, match='take another --out'):
            with lock_folder(tmp_path, 'take another --out'): pass
        if how == 'killed': process.send_signal(signal.SIGKILL)
        else: process.stdin.close()
        process.wait()
    with lock_folder(tmp_path): pass
    with lock_folder(tmp_path): pass


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(TimeoutError):
        with lock_folder(tmp_path): raise TimeoutError('of the block, not of the lock')
    with lock_folder(tmp_path): pass


def test_a_child_does_not_hold_what_its_parent_let_go(tmp_path):
    "As a loader's worker that outlives the run"
    if not hasattr(os, 'fork'): pytest.skip('no fork')
    end, begin = os.pipe()
    with lock_folder(tmp_path):
        child = os.fork()
        if not child:
            os.close(begin)
            os.read(end, 1)
            os._exit(0)
    try:
        with lock_folder(tmp_path): pass
    finally:
        os.close(begin)
        os.waitpid(child, 0)


@pytest.mark.parametrize('error', [PermissionError(13, 'Permission denied'), OSError(37, 'No locks available'), NotImplementedError('no flock here')])
def test_where_nothing_can_be_locked_that_is_said(tmp_path, monkeypatch, notices, error):
    def refuse(*_, **__): raise error
    monkeypatch.setattr(filelock.FileLock, '_acquire', refuse)
    with lock_folder(tmp_path): (tmp_path/'a').touch()
    assert str(getattr(error, 'strerror', None) or error) in notices() and (tmp_path/'a').exists()


def test_the_lock_is_no_file_of_the_run(tmp_path):
    (tmp_path/'history.csv').write_text('epoch\n1\n')
    write_manifest(tmp_path)
    with rewrite_files(tmp_path, ('history.csv',)): (tmp_path/'history.csv').write_text('epoch\n2\n')
    assert list(read_manifest(tmp_path)) == ['history.csv']
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith('.')} == {'history.csv', MANIFEST}


def test_a_file_is_replaced_whole_or_left(tmp_path):
    write_json(tmp_path/'a.json', [1])
    before = (tmp_path/'a.json').read_bytes()
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path/'a.json') as beside:
        beside.write_text('half')
        raise KeyboardInterrupt
    assert (tmp_path/'a.json').read_bytes() == before and os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize('size', [0, 1, 2**18, 2**22 + 3])
def test_digests(tmp_path, size):
    content = os.urandom(size)
    (tmp_path/'file').write_bytes(content)
    assert checksum(tmp_path/'file') == hashlib.sha256(content).hexdigest()
    assert checksum(tmp_path/'file', 'md5') == hashlib.md5(content).hexdigest()


def test_one_place_locks_renames_and_digests():
    package = Path(files.__file__).parents[1]
    for path in package.rglob('*.py'):
        text = path.read_text()
        for word in ('fcntl', 'FileLock(', 'os.replace(', 'file_digest(', 'digest.update(block)'):
            assert word not in text or path == Path(files.__file__), f'{path}: {word}'
