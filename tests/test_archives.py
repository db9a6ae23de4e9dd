"Archives written here by the standard library, whole and hostile, against what the reader makes of them"
import io
import os
import stat
import sys
import tarfile
import zipfile

import pytest

from cifar_fastai.data import archives
from cifar_fastai.data.archives import open_files
from cifar_fastai.base.messages import BadInput

CONTENT = {'set/train/cat/1.png': b'one', 'set/train/dög/é 2.png': b'two', 'set/test/cat/3.png': b'three'*1000}


def write_tar(path, members, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_zip(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items(): archive.writestr(name, content)


def write_folder(path, members):
    for name, content in members.items():
        (path/name).parent.mkdir(parents=True, exist_ok=True)
        (path/name).write_bytes(content)


WRITERS = {
    'a.tar': lambda path, members: write_tar(path, members, 'w'),
    'a.tgz': lambda path, members: write_tar(path, members, 'w:gz'),
    'a.tar.gz': lambda path, members: write_tar(path, members, 'w:gz'),
    'a.zip': write_zip,
    'folder': write_folder,
}


def refused(path, contains):
    with pytest.raises(BadInput, match=contains) as caught: open_files(path)
    assert 1 <= len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


@pytest.mark.parametrize('name', WRITERS)
def test_every_form_gives_the_same(tmp_path, name):
    hidden = {'set/.DS_Store': b'x', '__MACOSX/set/train/cat/._1.png': b'x', 'set/train/.cat/1.png': b'x'}
    WRITERS[name](tmp_path/name, CONTENT | hidden)
    files = open_files(tmp_path/name)
    assert files.sizes == {name: len(content) for name, content in CONTENT.items()}
    assert dict(files.read(list(CONTENT))) == CONTENT
    assert dict(files.read(['set/test/cat/3.png'])) == {'set/test/cat/3.png': CONTENT['set/test/cat/3.png']}


@pytest.mark.parametrize('name', ['a.tar', 'a.tgz', 'a.zip'])
@pytest.mark.parametrize('member', ['../climbed.png', 'set/../../climbed.png', '/climbed.png', r'..\climbed.png', 'C:\\x.png'])
def test_members_that_climb_are_refused(tmp_path, name, member):
    (tmp_path/'inner').mkdir()
    WRITERS[name](tmp_path/'inner'/name, CONTENT | {member: b'x'})
    assert 'climbed' in refused(tmp_path/'inner'/name, 'leads out') or member.startswith('C:')
    assert sorted(os.listdir(tmp_path)) == ['inner']


def write_link(path, name, target, kind=tarfile.SYMTYPE):
    write_tar(path, CONTENT, 'w')
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    with tarfile.open(path, 'a') as archive: archive.addfile(info)
    return path


@pytest.mark.parametrize('kind', [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_tar_are_refused(tmp_path, kind): refused(write_link(tmp_path/'a.tar', 'set/train/cat/0.png', '', kind), 'is a device')


@pytest.mark.parametrize('kind, target', [(tarfile.SYMTYPE, '/etc/passwd'), (tarfile.LNKTYPE, '/etc/passwd'), (tarfile.SYMTYPE, '../../../../x'), (tarfile.LNKTYPE, '../x')])
def test_links_that_lead_out_of_a_tar_are_refused(tmp_path, kind, target): refused(write_link(tmp_path/'a.tar', 'set/train/cat/0.png', target, kind), 'leads out')


@pytest.mark.parametrize('kept', [True, False])
@pytest.mark.parametrize('name, target, kind, found', [
    ('set/train/cat/0.png', '1.png', tarfile.SYMTYPE, {'set/train/cat/0.png': b'one'}), ('set/train/cat/0.png', 'set/train/cat/1.png', tarfile.LNKTYPE, {'set/train/cat/0.png': b'one'}),
    ('set/valid', 'test', tarfile.SYMTYPE, {'set/valid/cat/3.png': b'three'*1000}), ('set/train/up', '../..', tarfile.SYMTYPE, {}), ('set/train/cat/0.png', 'nothing.png', tarfile.SYMTYPE, {})])
def test_links_in_a_tar_are_followed_and_loops_are_not(tmp_path, monkeypatch, kept, name, target, kind, found):
    monkeypatch.setattr(archives, 'MOST_KEPT', 2**20 if kept else 0)
    files = open_files(write_link(tmp_path/'a.tar', name, target, kind))
    assert dict(files.read(list(files.sizes))) == CONTENT | found
    assert list(files.passed) == ([] if found else [name])


@pytest.mark.parametrize('links, found, passed', [
    ({'a/l': ('b', tarfile.SYMTYPE), 'b/m': ('../c', tarfile.SYMTYPE)}, None, None),
    ({'v': ('w', tarfile.SYMTYPE), 'w': ('v', tarfile.SYMTYPE), 'set/x': ('../v', tarfile.SYMTYPE)}, {}, ['set/x', 'v', 'w']),
    ({'set/valid': ('train', tarfile.SYMTYPE), 'set/train/more': ('../test/cat', tarfile.SYMTYPE)}, {'set/valid/cat/1.png': b'one', 'set/valid/dög/é 2.png': b'two', 'set/train/more/3.png': b'three'*1000, 'set/valid/more/3.png': b'three'*1000}, []),
    ({'set/first.png': ('valid/cat/3.png', tarfile.SYMTYPE), 'set/valid': ('test', tarfile.SYMTYPE)}, {'set/first.png': b'three'*1000, 'set/valid/cat/3.png': b'three'*1000}, [])])
def test_links_to_links_in_a_tar(tmp_path, links, found, passed):
    write_tar(tmp_path/'a.tar', CONTENT, 'w')
    with tarfile.open(tmp_path/'a.tar', 'a') as archive:
        for name, (target, kind) in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    files = open_files(tmp_path/'a.tar')
    if found is None: assert sorted(files.passed) == ['a/l', 'b/m'] and dict(files.read(list(files.sizes))) == CONTENT
    else: assert dict(files.read(list(files.sizes))) == CONTENT | found and sorted(files.passed) == passed


def write_linked_folders(path, count):
    members = {f'set/{number}/1.png': b'x' for number in range(count)}
    write_tar(path, members, 'w')
    with tarfile.open(path, 'a') as archive:
        for number in range(count):
            info = tarfile.TarInfo(f'links/{number}')
            info.type, info.linkname = tarfile.SYMTYPE, f'../set/{number}'
            archive.addfile(info)


def test_the_work_on_links_grows_as_their_number(tmp_path):
    calls = {}
    for count in (40, 160):
        write_linked_folders(tmp_path/'a.tar', count)
        calls[count] = 0
        def seen(_, event, __): calls[count] += event in ('call', 'c_call')
        sys.setprofile(seen)
        try: files = open_files(tmp_path/'a.tar')
        finally: sys.setprofile(None)
        assert len(files.sizes) == 2*count
    assert calls[160] < 5*calls[40]


def test_links_that_double_at_each_step_are_bounded(tmp_path):
    write_tar(tmp_path/'a.tar', {'0/1.png': b'x'}, 'w')
    with tarfile.open(tmp_path/'a.tar', 'a') as archive:
        for number in range(1, 40):
            for name in 'ab':
                info = tarfile.TarInfo(f'{number}/{name}')
                info.type, info.linkname = tarfile.SYMTYPE, f'../{number - 1}' if number > 1 else '../nowhere'
                archive.addfile(info)
    with pytest.raises(BadInput, match='links lead to more than 1,000'): open_files(tmp_path/'a.tar', most_files=1000)


def test_a_folder_is_not_bounded_by_files_that_are_no_pictures(tmp_path):
    write_folder(tmp_path/'set', {'train/cat/1.png': b'one'})
    with open(tmp_path/'set'/'backup.mp4', 'wb') as file: file.truncate(2**30 + 1)
    files = open_files(tmp_path/'set', most_bytes=2)
    assert files.sizes == {'train/cat/1.png': 3} and files.passed == {'backup.mp4': 'larger than 1 GiB'}


def test_what_a_run_and_a_look_wrote_is_no_part_of_the_data(tmp_path):
    write_folder(tmp_path/'set', {'cat/1.png': b'one', 'cat/recipe.json': b'{}', 'runs/a/recipe.json': b'{}', 'runs/a/metrics.json': b'{}', 'runs/a/figures/curves.png': b'x', 'looks/set/data.json': b'{}', 'looks/set/samples.png': b'x'})
    files = open_files(tmp_path/'set')
    assert list(files.sizes) == ['cat/1.png', 'cat/recipe.json'] and files.folders == {'cat'} and set(files.passed.values()) == {'written by cifar_fastai'}


def test_folders_in_a_zip_from_windows(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive:
        for name, content in {'set\\train\\cat\\': b'', 'set\\train\\cat\\1.png': b'one'}.items():
            info = zipfile.ZipInfo('x')
            info.filename = name
            archive.writestr(info, content)
    files = open_files(tmp_path/'a.zip')
    assert files.sizes == {'set/train/cat/1.png': 3} and files.folders == {'set/train/cat'}


def test_link_in_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo('set/train/cat/0.png')
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive: archive.writestr(info, '/etc/passwd')
    refused(tmp_path/'a.zip', 'is a link')


@pytest.mark.parametrize('name', ['a.tar', 'a.tgz', 'a.zip'])
def test_truncation_anywhere_is_noticed(tmp_path, name):
    random = {f'set/{number}.bin': os.urandom(700) for number in range(6)}
    WRITERS[name](tmp_path/name, random)
    whole = (tmp_path/name).read_bytes()
    payload = 6*(512+1024) if name == 'a.tar' else len(whole)-1 # a tar pads its end with zeros that nobody misses
    for length in [*range(1, payload, 512), payload-1, payload]:
        (tmp_path/f'cut-{name}').write_bytes(whole[:length])
        refused(tmp_path/f'cut-{name}', 'whole archive|cannot be read')


@pytest.mark.parametrize('name', ['a.tgz', 'a.zip'])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    WRITERS[name](tmp_path/name, {'set/1.bin': os.urandom(5000)})
    data = bytearray((tmp_path/name).read_bytes())
    data[2500] ^= 8
    (tmp_path/name).write_bytes(data)
    with pytest.raises(BadInput, match='cannot be read'): list(open_files(tmp_path/name).read(['set/1.bin']))


def test_an_encrypted_zip_is_refused(tmp_path):
    write_zip(tmp_path/'a.zip', CONTENT)
    data = bytearray((tmp_path/'a.zip').read_bytes())
    for magic, place in ((b'PK\3\4', 6), (b'PK\1\2', 8)): # the flag that says so, in both headers
        at = -1
        while (at := data.find(magic, at+1)) >= 0: data[at+place] |= 1
    (tmp_path/'a.zip').write_bytes(data)
    with pytest.raises(BadInput, match='encrypted.*\n.*npack it'): list(open_files(tmp_path/'a.zip').read(list(CONTENT)))


@pytest.mark.parametrize('name', WRITERS)
def test_bounds(tmp_path, name):
    WRITERS[name](tmp_path/name, CONTENT)
    for bounds in (dict(most_files=2), *((dict(most_bytes=5000),) if name != 'folder' else ())):
        with pytest.raises(BadInput, match='too many'): open_files(tmp_path/name, **bounds)


def test_what_is_no_source(tmp_path):
    refused(tmp_path/'nothing', 'no such file')
    (tmp_path/'empty').mkdir()
    refused(tmp_path/'empty', 'is empty')
    for content in ('words\n', '', 'words '*9000):
        (tmp_path/'words.txt').write_text(content)
        refused(tmp_path/'words.txt', 'neither a folder nor a whole archive')
    with tarfile.open(tmp_path/'empty.tgz', 'w:gz'): pass
    refused(tmp_path/'empty.tgz', 'is empty')
    os.mkfifo(tmp_path/'pipe')
    refused(tmp_path/'pipe', 'neither a file nor a folder')


def test_a_folder_may_link_into_itself(tmp_path):
    write_folder(tmp_path/'data', CONTENT)
    (tmp_path/'data'/'set'/'round').symlink_to(tmp_path/'data')
    os.mkfifo(tmp_path/'data'/'set'/'pipe.png')
    assert open_files(tmp_path/'data').sizes == {name: len(content) for name, content in CONTENT.items()}


def test_a_locked_zip_is_named_by_its_member(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive: archive.writestr('set/a.png', b'x')
    content = bytearray((tmp_path/'a.zip').read_bytes())
    for place in (6, content.find(b'PK\1\2') + 8): content[place] |= 1
    (tmp_path/'a.zip').write_bytes(content)
    with pytest.raises(BadInput, match="File 'set/a.png' is encrypted"): list(open_files(tmp_path/'a.zip').read(['set/a.png']))
