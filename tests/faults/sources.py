"Data from strangers: damaged, and malicious"
import io
import os
import pickle
import random
import signal
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from harness import Row, forked
from drawn import CLASSES, coloured, write_images
from trials import HARD, timed, write_binary

SECONDS = 10  # that one reading may take


def write_folder(folder, form='png'): return write_images(folder, {'train': (12, 1), 'test': (6, 2)}, 16, form, **HARD)


def write_python(folder, fine=False):
    folder.mkdir(parents=True)
    label_key, meta = ('fine_labels', 'meta') if fine else ('labels', 'batches.meta')
    for name, count, seed in (('train' if fine else 'data_batch_1', 9, 1), ('test' if fine else 'test_batch', 3, 2)):
        images, labels = coloured(count, 32, seed, **HARD)
        held = {'data': images.transpose(0, 3, 1, 2).reshape(count, -1).copy(), label_key: labels.tolist()}
        (folder/name).write_bytes(pickle.dumps(held, 2))
    (folder/meta).write_bytes(pickle.dumps({'fine_label_names' if fine else 'label_names': list(CLASSES)}, 2))
    return folder


def packed(folder, path, form):
    "A folder as an archive"
    if form == 'zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob('*')): archive.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(path, {'tgz': 'w:gz', 'tar': 'w'}[form]) as archive: archive.add(folder, folder.name)
    return path


def kinds(folder):
    "Each kind of source, small: the path to read, and the files of it that may be damaged"
    made = {
        'folder of PNG': write_folder(folder/'png'), 'folder of JPEG': write_folder(folder/'jpeg', 'jpeg'), 'folder of WebP': write_folder(folder/'webp', 'webp'),
        'folder of GIF': write_folder(folder/'gif', 'gif'), 'folder of BMP': write_folder(folder/'bmp', 'bmp'), 'folder of TIFF': write_folder(folder/'tiff', 'tiff'),
        'CIFAR-10 python': write_python(folder/'cifar-10-batches-py'), 'CIFAR-100 python': write_python(folder/'cifar-100-python', fine=True),
        'CIFAR-10 binary': write_binary(folder/'cifar-10-batches-bin', 9, 3)}
    for form in ('tgz', 'tar', 'zip'): made[f'images in {form}'] = packed(made['folder of PNG'], folder/f'images.{form}', form)
    made['CIFAR-10 python in tgz'] = packed(made['CIFAR-10 python'], folder/'cifar-10-python.tgz', 'tgz')
    made['CIFAR-10 binary in zip'] = packed(made['CIFAR-10 binary'], folder/'cifar-10-binary.zip', 'zip')
    return {name: (path, [path] if path.is_file() else sorted(file for file in path.rglob('*') if file.is_file())) for name, path in made.items()}


class Slow(Exception): pass


def read(path, parts):
    "'' where reading gives arrays of the right shape and kind or one clean message naming a file; else what went wrong"
    from cifar_fastai.base.messages import BadInput
    from cifar_fastai.data.sources import load_images
    def late(*_): raise Slow
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try: data = load_images(path, cache=False)
    except BadInput as error:
        text = str(error)
        if not 1 <= len(text.splitlines()) <= 5: return f'{len(text.splitlines())} lines'
        return '' if any(part in text for part in parts) else f'names no file: {text}'
    except Slow: return 'took over 10 s'
    except BaseException as error: return f'{type(error).__name__}: {error}'
    finally: signal.alarm(0)
    well = (data.images.dtype == np.uint8 and data.images.ndim == 4 and data.images.shape[3] == 3 and data.labels.dtype == np.int64
            and len(data.labels) == len(data.images) == len(data.names) and data.labels.min() >= 0 and data.labels.max() < len(data.classes))
    return '' if well else 'arrays that do not match'


def damaged(folder, truncations, changes, seed=0):
    "A row for each kind of source"
    rows = []
    for name, (path, files) in kinds(folder).items():
        started, row = time.monotonic(), Row(f'{name}: truncated at {truncations} places, {changes} bytes changed one at a time')
        def work():
            numbers, fine = random.Random(f'{seed} {name}'), 0
            for number in range(truncations + changes):
                file = numbers.choice(files)
                content = file.read_bytes()
                place = numbers.randrange(len(content))
                changed = content[:place] + (b'' if number < truncations else bytes([content[place] ^ numbers.randrange(1, 256)]) + content[place+1:])
                file.write_bytes(changed)
                wrong = read(path, [str(path), file.name])
                file.write_bytes(content)
                print('well' if not wrong else f'{file.name} at {place}: {wrong}'.replace('\n', ' '), flush=True)
        ended = forked(work, folder, limit=600.)
        for line in ended.out.splitlines(): row.add(line == 'well', line)
        if row.count != truncations + changes or ended.status: row.add(False, f'ended with {ended.status} after {row.count}: {ended.err[-500:]}')
        row.seconds = time.monotonic() - started
        rows.append(row)
    return rows


# Malicious

class Runs:
    def __init__(self, call, *words): self.call, self.words = call, words
    def __reduce__(self): return self.call, self.words


def near(module, name):
    "A pickle that asks for a global near those that are admitted"
    return b'\x80\x02c' + module.encode() + b'\n' + name.encode() + b'\n)R.'


def zeros(gigabytes):
    "A gzip of zeros, made by repeating one compressed block: the checksum at its end is never reached"
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = squeeze.compress(bytes(2**24)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(bytes(2**24)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return head, block, gigabytes*64 - 1


def tar_bomb(path, gigabytes=10):
    "A tar of one member of zeros"
    member = tarfile.TarInfo('train/a/1.png')
    member.size = gigabytes*2**30
    head, block, times = zeros(gigabytes)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = squeeze.compress(member.tobuf()) + squeeze.flush(zlib.Z_FULL_FLUSH)
    with open(path, 'wb') as file:
        file.write(b'\x1f\x8b\x08\0\0\0\0\0\0\xff' + start + head)
        for _ in range(times): file.write(block)
    return path


def zip_bomb(path, claimed, gigabytes=10):
    "A zip of one member of zeros, that says of itself what it likes"
    head, block, times = zeros(gigabytes)
    squeezed = head + block*times + b'\x03\0'
    name = b'train/a/1.png'
    fields = struct.pack('<HHHHHIIIHH', 20, 0, 8, 0, 0, 0, min(len(squeezed), 2**32-1), min(claimed, 2**32-1), len(name), 0)
    local = b'PK\3\4' + fields + name
    central = b'PK\1\2' + struct.pack('<H', 20) + fields[:-4] + struct.pack('<HHHHHII', len(name), 0, 0, 0, 0, 0, 0) + name
    end = b'PK\5\6' + struct.pack('<HHHHIIH', 0, 0, 1, 1, len(central), len(local) + len(squeezed), 0)
    path.write_bytes(local + squeezed + central + end)
    return path


def one_member(path, name, kind=tarfile.REGTYPE, link='', content=b'x'):
    with tarfile.open(path, 'w:gz') as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(content))
    return path


def one_zipped(path, name, link=False):
    with zipfile.ZipFile(path, 'w') as archive:
        member = zipfile.ZipInfo(name)
        if link: member.external_attr = 0o120777 << 16
        archive.writestr(member, '/etc/passwd')
    return path


def many_members(path, count):
    with tarfile.open(path, 'w:gz', compresslevel=1) as archive:
        for number in range(count): archive.addfile(tarfile.TarInfo(f'a/{number}'))
    return path


def large_png(folder, side=50_000):
    "A PNG that claims to have many pixels, in a few bytes"
    write_folder(folder)
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    content = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')
    (folder/'train'/'ant'/'000.png').write_bytes(content)
    return folder


def python_with(folder, content):
    write_python(folder)
    (folder/'data_batch_1').write_bytes(content)
    return folder


def malicious(folder, members):
    "Each thing to point --data at, and what its message must hold"
    import builtins
    (folder/'x').mkdir(parents=True)
    def place(name):
        made = folder/f'{len(list(folder.iterdir()))}'
        made.mkdir()
        return made/name
    py = 'cifar-10-batches-py'
    yield 'pickle: os.system', python_with(place(py), pickle.dumps(Runs(os.system, f'touch {folder}/stolen'))), 'system'
    yield 'pickle: eval', python_with(place(py), pickle.dumps(Runs(builtins.eval, f"open('{folder}/stolen', 'w')"))), 'eval'
    yield 'pickle: in a label', python_with(place(py), pickle.dumps({'data': 1, 'labels': [Runs(os.system, f'touch {folder}/stolen')]})), 'system'
    for module, name in (('numpy', 'load'), ('numpy', 'fromfile'), ('numpy.core.multiarray', 'fromfile'), ('_codecs', 'decode'), ('builtins', 'bytearray'), ('numpy', '__builtins__'),
                         ('numpy.core.multiarray', '__loader__'), ('copyreg', '_reconstructor'), ('numpy.testing', 'measure')):
        yield f'pickle: {module}.{name}', python_with(place(py), near(module, name)), name
    yield 'pickle: bytes of 100 GB', python_with(place(py), b'\x80\x02c__builtin__\nbytes\n\x8a\x06' + (10**11).to_bytes(6, 'little') + b'\x85R.'), 'data_batch_1'
    yield 'pickle: a length of 2^60', python_with(place(py), b'\x80\x04\x8e' + (2**60).to_bytes(8, 'little') + b'x'), 'data_batch_1'
    for name in ('../../escaped.png', '/tmp/escaped.png', '..\\escaped.png', 'C:/escaped.png', 'a/../../escaped.png'):
        yield f'tar: {name}', one_member(place('a.tgz'), name), 'leads out'
        yield f'zip: {name}', one_zipped(place('a.zip'), name), 'leads out'
    for kind, word, said in ((tarfile.SYMTYPE, 'symbolic link', 'leads out'), (tarfile.LNKTYPE, 'hard link', 'leads out'), (tarfile.CHRTYPE, 'device', 'is a device'), (tarfile.BLKTYPE, 'block device', 'is a device'), (tarfile.FIFOTYPE, 'fifo', 'is a device')):
        yield f'tar: {word}', one_member(place('a.tgz'), 'train/a/1.png', kind, '/etc/passwd'), said
    yield 'zip: symbolic link', one_zipped(place('a.zip'), 'train/a/1.png', link=True), 'a link'
    yield 'tar: 10 GB of zeros', tar_bomb(place('a.tgz')), 'too many files or bytes'
    yield 'zip: 10 GB of zeros, truly said', zip_bomb(place('a.zip'), 2**32-1), 'too many files or bytes'
    yield 'zip: 10 GB of zeros that claim to be 100 bytes', zip_bomb(place('a.zip'), 100), 'a.zip'
    yield f'tar: {members:,} members', many_members(place('a.tgz'), members), 'a.tgz'
    yield 'PNG of 50,000×50,000', large_png(place('images')), 'ant/000.png'


@timed('malicious data: pickles, archives, pictures: refused with a message, nothing run, nothing written, under 400 MB more memory')
def strangers(row, bench, members=1_000_000):
    import resource
    folder = bench.place()
    for name, path, part in malicious(folder, members):
        before = {file for file in folder.rglob('*')}
        def work():
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            signal_text = ''
            from cifar_fastai.base.messages import BadInput
            from cifar_fastai.data.sources import load_images
            try: load_images(path, cache=False)
            except BadInput as error: signal_text = str(error)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)/1024
            print(f'{grown:.0f} MB\n{signal_text}', flush=True)
        ended = forked(work, bench.folder, limit=240. if 'members' in name else 60.)
        grown, _, text = ended.out.partition(' MB\n')
        new = {file for file in folder.rglob('*')} - before
        well = ended.status == 0 and part in text and 1 <= len(text.strip().splitlines()) <= 5 and not new and float(grown) < 400 and not Path('/tmp/escaped.png').exists()
        row.add(well, f'{name}: {ended.status} {grown} MB, {ended.seconds:.1f} s, {new}, {text[:300]} {ended.err[-300:]}')
        if ended.seconds > SECONDS and 'members' not in name: row.add(False, f'{name} took {ended.seconds:.0f} s')
    bench.done(folder)


def tensors_file(header, data=b''):
    import json
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


@timed('weights from strangers: offsets that overlap or lead out, headers without end, pickles as .pth: refused')
def weights(row, bench):
    import torch
    from torch import nn
    from cifar_fastai.base.messages import BadInput
    from cifar_fastai.runs.files import read_weights
    folder = bench.place()
    folder.mkdir()
    def entry(*offsets, shape=(2,)): return {'dtype': 'F32', 'shape': list(shape), 'data_offsets': list(offsets)}
    made = {
        'overlapping offsets': tensors_file({'weight': entry(0, 8), 'bias': entry(4, 12)}, bytes(12)), 'offsets that lead out': tensors_file({'weight': entry(0, 8000)}, bytes(8)),
        'offsets backwards': tensors_file({'weight': entry(8, 0)}, bytes(8)), 'a shape that does not fit': tensors_file({'weight': entry(0, 8, shape=(2**40,))}, bytes(8)),
        'a hole': tensors_file({'weight': entry(8, 16)}, bytes(16)), 'a header of 2^63 bytes': struct.pack('<Q', 2**63) + b'{}', 'a header of 100 MB': struct.pack('<Q', 10**8 + 1) + b'{' + bytes(10**4),
        'a header that is no JSON': struct.pack('<Q', 4) + b'{{{{', 'nothing': b'', 'metadata nested without end': tensors_file({'__metadata__': {'about': '['*100_000}, 'weight': entry(0, 8)}, bytes(8)),
        'metadata that is a list': tensors_file({'__metadata__': {'about': '[]'}, 'weight': entry(0, 8)}, bytes(8))}
    for name, content in made.items(): (folder/f'{name}.safetensors').write_bytes(content)
    torch.save(Runs(os.system, f'touch {folder}/stolen'), folder/'a call.pth')
    torch.save({'weight': Runs(os.system, f'touch {folder}/stolen')}, folder/'a call inside.pth')
    torch.save(nn.Linear(2, 1), folder/'a whole module.pth')
    (folder/'a bare pickle.pth').write_bytes(pickle.dumps(Runs(os.system, f'touch {folder}/stolen')))
    for path in sorted(folder.iterdir()):
        def work():
            try: read_weights(path, nn.Linear(2, 1))
            except BadInput as error: print(error)
            else: print('taken')
        ended = forked(work, bench.folder, limit=20.)
        text = ended.out.strip()
        row.add(ended.status == 0 and path.name in text and 1 <= len(text.splitlines()) <= 5 and not (folder/'stolen').exists(), f'{path.name}: {ended.status} {text[:300]} {ended.err[-300:]}')
    plain = nn.Linear(2, 1)
    torch.save(plain.state_dict(), folder/'plain.pth')
    twin = nn.Linear(2, 1)
    read_weights(folder/'plain.pth', twin)
    row.add(torch.equal(plain.weight, twin.weight), 'a plain .pth is not read')
    bench.done(folder)
