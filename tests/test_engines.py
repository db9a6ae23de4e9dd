"A grid by other engines, against the grid trained here one after another"
import dataclasses
import errno
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cifar_fastai.base.commands import terminate
from cifar_fastai.base.files import read_json
from cifar_fastai.base.messages import BadInput, BadWords
from cifar_fastai.comparison.clusters import RayEngine, SlurmEngine, check_answer, choose_engine, train_far
from cifar_fastai.comparison.engines import LocalEngine, describe_job, make_room, pack_folder, tell_parent, train_there, unpack_folder
from cifar_fastai.comparison.grid import Planned, grid_arms, grid_data, grid_plan, train_missing
from cifar_fastai.training.history import History


@pytest.fixture(scope='module')
def grid(tiny_folder, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, data=str(tiny_folder), width=8, batch_size=15, epochs=3, optimizer='sgd')
    arms = grid_arms(recipe, {'norm': ['batch', 'group']})
    return arms, grid_data(arms)


def train_grid(grid, runs, engine=None):
    lines, plan = [], grid_plan(grid[0], runs, grid[1])
    train_missing(plan, runs, lines.append, grid[1], engine)
    return plan, '\n'.join(lines)


def weights_of(path): return load_file(path/'model.safetensors')
def results(plan): return [{name: value.numpy().tobytes() for name, value in weights_of(run.path).items()} | {'history': [(row.train_loss, row.valid_loss) for row in history(run.path)]} for run in plan.runs]


def history(path):
    import pandas as pd
    return list(pd.read_csv(path/'history.csv').itertuples())


@pytest.fixture(scope='module')
def serial(grid, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield results(train_grid(grid, tmp_path_factory.mktemp('serial'))[0])
    torch.set_num_threads(threads)


class Killing(LocalEngine):
    "Kills the process of its first run in the last epoch, once"
    killed = False
    def tell(self, run, line):
        super().tell(run, line)
        if not self.killed and self.numbers[id(run)] == 1 and line.startswith('epoch 2/3'):
            self.killed = True
            os.kill(next(child.pid for other, child, _ in self.children.values() if other is run), signal.SIGKILL)


def test_processes_of_this_machine_give_the_same(grid, serial, tmp_path, monkeypatch):
    "One is killed and goes on from its checkpoint, and one run fails by itself and is not tried again"
    monkeypatch.setattr('cifar_fastai.comparison.engines.cores', lambda: 2)
    (one, two), data = grid
    broken = dataclasses.replace(one, fields={'lr': 1e30}, recipe=dataclasses.replace(one.recipe, lr=1e30))
    plan, said = train_grid(([one, two, broken], data), tmp_path, Killing(jobs=2, cpus=1))
    assert 'its process ended (-9)' in said and 'norm batch, seed 0, for the second time' in said and '[1] resume   ' in said
    assert 'Try --lr' in plan.runs[2].failure and said.count('for the second time') == 1
    plan.runs.pop()
    assert results(plan) == serial and not any(run.failure for run in plan.runs)
    assert '2 runs at a time on this machine, 1 thread each' in said and said.count('epoch 3/3') == 2
    assert not [path for path in tmp_path.rglob('*') if path.name.startswith('.') and path.name != '.lock']
    assert grid_plan(grid[0], tmp_path, data).missing == []


def test_a_run_whose_parent_is_gone_does_not_fail_by_its_next_line():
    here, there = multiprocessing.Pipe(duplex=False)
    here.close()
    tell_parent(there, 'epoch 1/2')


def test_a_folder_travels_whole(tmp_path):
    one, other = tmp_path/'one', tmp_path/'other'
    for name in ('recipe.json', 'checkpoint/00000002.json', 'figures/a.png', 'model.safetensors'):
        (one/name).parent.mkdir(parents=True, exist_ok=True)
        (one/name).write_bytes(os.urandom(100))
    (one/'.lock').touch(), (other/'checkpoint').mkdir(parents=True), (other/'checkpoint/00000001.json').touch()
    unpack_folder(pack_folder(one), other)
    files = lambda folder: {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file() and path.name != '.lock'}
    assert files(one) == files(other)
    (one/'checkpoint/00000002.json').unlink()
    unpack_folder(pack_folder(one), other)
    assert not (other/'checkpoint').exists() and [*other.glob('.*')] == []


@pytest.mark.parametrize('name,kind', [('../above.json', tarfile.REGTYPE), ('/tmp/above.json', tarfile.REGTYPE), ('link.json', tarfile.SYMTYPE), ('pipe', tarfile.FIFOTYPE)])
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path, name, kind):
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode='w') as archive:
        for one, its in (('recipe.json', tarfile.REGTYPE), (name, kind)):
            member = tarfile.TarInfo(one)
            member.type, member.linkname = its, '/etc/hostname'
            archive.addfile(member)
    with pytest.raises(tarfile.TarError, match='no file of a run folder'): unpack_folder(room.getvalue(), tmp_path)
    assert not [*tmp_path.iterdir()]


def test_what_an_engine_lacks_is_said(monkeypatch):
    with pytest.raises(BadWords, match='--address x:1 is for --engine ray'): choose_engine('local', address='x:1')
    with pytest.raises(BadWords, match='--gpus 1 is for --engine ray or --engine slurm'): choose_engine('local', gpus=1)
    with pytest.raises(BadInput, match='a run asks for 5000 CPUs, and this machine has'): choose_engine('local', cpus=5000)
    with pytest.raises(BadInput, match='5000 runs at a time ask for 5000 CPUs, and this machine has(.|\n)*Take --jobs'): choose_engine('local', jobs=5000)
    with pytest.raises(BadInput, match="unknown engine 'dask'"): choose_engine('dask')
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(BadInput, match=r"pip install 'cifar_fastai\[ray\]'"): choose_engine('ray')
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(BadInput, match=r"pip install 'cifar_fastai\[slurm\]'"): choose_engine('slurm')
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        with pytest.raises(BadInput, match='no Ray cluster answers'): check_answer(f'127.0.0.1:{closed.getsockname()[1]}')
    with pytest.raises(BadInput, match='names no host and port'): check_answer('127.0.0.1:99999')


@pytest.mark.parametrize('said, is_ray', [(b'', False), (b'HTTP/1.1 400 Bad Request\r\n\r\n', False), (bytes(3) + b'\4' + bytes(5), True)], ids=['silent', 'web', 'grpc'])
def test_a_port_that_listens_and_is_not_ray_is_refused(monkeypatch, said, is_ray):
    connect = socket.create_connection
    monkeypatch.setattr(socket, 'create_connection', lambda place, timeout: connect(place, 0.5))
    with socket.create_server(('127.0.0.1', 0)) as server:
        def answer():
            with server.accept()[0] as line:
                line.recv(100)
                if said: line.sendall(said)
                else: line.recv(100)
        threading.Thread(target=answer, daemon=True).start()
        with nullcontext() if is_ray else pytest.raises(BadInput, match="answers at '127.0.0.1:.*what listens there is not Ray"): check_answer(f'127.0.0.1:{server.getsockname()[1]}')


def test_what_a_killed_process_left_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    gone = subprocess.Popen(['true'])
    gone.wait()
    here, left = f'cifar_fastai-{socket.gethostname()}-', [f'cifar_fastai-elsewhere-{gone.pid}-abc', f'cifar_fastai-{socket.gethostname()}-{os.getppid()}-abc']
    for name in (f'{here}{gone.pid}-abc/0', *left): (tmp_path/name).mkdir(parents=True)
    with make_room() as room: assert sorted(path.name for path in tmp_path.iterdir()) == sorted([Path(room).name, *left])


def no_room(*words, **more): raise OSError(errno.ENOSPC, 'No space left on device', 'model.safetensors')


def test_a_full_disk_at_a_worker_is_a_loss(grid, monkeypatch):
    job = describe_job(Planned(grid[0][0], grid[0][0].recipe, key='a'), torch.get_num_threads())
    monkeypatch.setattr('cifar_fastai.comparison.engines.train_session', no_room)
    for what, told in (train_there(job, 'runs', None, print), train_far(job, 1, None, object(), None, None, 0)):
        assert what == 'lost' and told.startswith(socket.gethostname()) and "'model.safetensors'" in told
    monkeypatch.setattr(tempfile, 'TemporaryDirectory', no_room)
    assert train_far(job, 1, None, object(), None, None, 0)[0] == 'lost'


def test_where_ray_writes_is_said_when_it_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', SimpleNamespace(is_initialized=lambda: False, init=no_room))
    monkeypatch.setenv('RAY_TMPDIR', str(tmp_path))
    with pytest.raises(BadInput, match=rf"No space left(.|\n)*Its files go to '{tmp_path}', where [\d,]+ MiB are free: RAY_TMPDIR"): RayEngine().open()


class Executor:
    "In the place of submitit's: a job is done when somebody asks how it ended"
    sent = []
    def __init__(self, folder, cluster): pass
    def update_parameters(self, **words): self.words = words
    def submit(self, act, *words):
        self.sent.append(self.words)
        return SimpleNamespace(job_id=len(self.sent), done=lambda: True, result=partial(act, *words), cancel=lambda: None)


def test_a_job_of_slurm_that_is_lost_is_sent_again_and_ends_as_slurm_asks(grid, tmp_path, monkeypatch):
    "The work is pretended: each first try ends without a word"
    tried = []
    def work(job, runs, begun, say):
        assert signal.getsignal(signal.SIGTERM) is terminate
        tried.append(job['key'])
        if tried.count(job['key']) == 1: raise RuntimeError('node failure')
        return 'done', f'{runs}/{job["recipe"]["norm"]}'
    monkeypatch.setitem(sys.modules, 'submitit', SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr('cifar_fastai.comparison.clusters.train_there', work)
    monkeypatch.setattr('cifar_fastai.comparison.clusters.time.sleep', lambda seconds: None)
    before = signal.getsignal(signal.SIGTERM)
    try: plan, said = train_grid(grid, tmp_path, SlurmEngine(cpus=3, gpus=1, cluster='pretended'))
    finally: signal.signal(signal.SIGTERM, before)
    assert [run.path for run in plan.runs] == [tmp_path/'batch', tmp_path/'group'] and len(tried) == 4
    assert said.count('node failure') == said.count('for the second time') == 2
    assert Executor.sent[0] == dict(name='cifar_fastai', cpus_per_task=3, timeout_min=24*60, gpus_per_node=1)


def test_slurm_is_missed_by_name():
    pytest.importorskip('submitit', reason='the extra slurm is not installed')
    with pytest.raises(BadInput, match='whole GPUs'): SlurmEngine(gpus=0.5)
    with pytest.raises(BadInput, match='srun is not found'): SlurmEngine()


@pytest.fixture(scope='module')
def cluster():
    ray = pytest.importorskip('ray', reason='the extra ray is not installed')
    ray.init(address='local', num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level='error')
    yield ray
    ray.shutdown()


def test_a_ray_cluster_gives_the_same_and_a_lost_worker_goes_on(cluster, grid, serial, tmp_path):
    def killed_once(job, number, *rest):
        "Work of a worker that is killed in the middle of its first run, after a checkpoint came home"
        if number == 1 and rest[0] is None:
            counted = History.after_epoch
            def after_epoch(self):
                counted(self)
                if self.epoch == 1: os.kill(os.getpid(), signal.SIGKILL)
            History.after_epoch = after_epoch
        return train_far(job, number, *rest)
    engine = RayEngine(cpus=1, every=0, work=killed_once)
    plan, said = train_grid(grid, tmp_path, engine)
    assert results(plan) == serial, said
    assert tempfile.gettempdir() not in said.replace(str(tmp_path), '')
    assert 'its worker was lost' in said and 'resume   1 of 3 epochs are done' in said
    assert len([*tmp_path.glob('*/recipe.json')]) == 2 and not [*tmp_path.glob('*/checkpoint')]
    assert all(read_json(run.path/'metrics.json')['status'] == 'complete' for run in plan.runs)


def test_more_than_the_cluster_has_is_refused(cluster, grid, tmp_path):
    with pytest.raises(BadInput, match='asks for 2 GPUs, and no machine of the cluster has more than 0'): train_grid(grid, tmp_path, RayEngine(gpus=2))
    with pytest.raises(BadInput, match='--gpus 1.5: Ray gives parts of one GPU, or whole ones'): RayEngine(gpus=1.5)
    assert cluster.is_initialized()
