"""Exported files beside the network that they are of: parity of each, and images a second on the CPU, batch 1 and 64.

    python benchmarks/export_speed.py --arch resnet9 --threads 2
    python benchmarks/export_speed.py --arch all --width 8 --parity      # every network of the table, ONNX and PyTorch

Arms are ours (PyTorch, in evaluation mode, channels last), the ONNX file by onnxruntime, and the `.pt2` file. They take turns in
rounds, in one process, since the question is the network and not the start. Pictures are random bytes, weights are first weights.
"""
import argparse
import tempfile
import time
from pathlib import Path

from common import spread


def answer(arch, width, size):
    "The classifier, its answers on 200 pictures, and the two files"
    import numpy as np, torch
    from cifar_fastai.export.classifier import Classifier
    from cifar_fastai.export.onnx_file import write_onnx
    from cifar_fastai.export.parity import Reference
    from cifar_fastai.export.portable import Portable, describe_classifier
    from cifar_fastai.export.torch_file import write_program
    from cifar_fastai.models.networks import network
    torch.manual_seed(0)
    model = network(arch, 10, width).eval().to(memory_format=torch.channels_last)
    draw = np.random.default_rng(0)
    pictures = np.clip(draw.integers(0, 256, (200, 1, 1, 3)) + draw.integers(-60, 60, (200, size, size, 3)), 0, 255).astype(np.uint8)
    with torch.no_grad():
        images = torch.from_numpy(pictures[:50]).permute(0, 3, 1, 2)/255*4 - 2
        model.linear.weight.div_(model(images).std(0).mean())  # else every picture has the same answer
        model.linear.bias.sub_(model(images).mean(0))
    classifier = Classifier(model, tuple('abcdefghij'), size, (.5,)*3, (.25,)*3)
    reference = Reference(pictures, classifier.probabilities(classifier.logits(pictures)), '200 pictures, against ours')
    folder, about = Path(tempfile.mkdtemp()), describe_classifier(classifier, arch)
    told = {'onnx': write_onnx(Portable(classifier), about, folder/'model.onnx', reference), 'torch': write_program(Portable(classifier), about, folder/'model.pt2', reference)}
    return classifier, pictures, folder, told, len(set(reference.probabilities.argmax(1).tolist()))


def arms(classifier, folder, threads):
    import torch
    from cifar_fastai.export.onnx_file import onnx_session
    session, program = onnx_session(folder/'model.onnx', threads), torch.export.load(folder/'model.pt2').module()
    def as_program(pictures):
        with torch.inference_mode(): return program(torch.from_numpy(pictures))
    return {'ours': classifier.logits, 'onnxruntime': lambda pictures: session.run(None, {'pictures': pictures}), 'pt2': as_program}


def rate(run, pictures, seconds):
    run(pictures)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        run(pictures)
        done += len(pictures)
    return done/(time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='resnet9')
    parser.add_argument('--width', default='auto')
    parser.add_argument('--size', type=int, default=32)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=3)
    parser.add_argument('--parity', action='store_true', help='only whether the files say what the network says')
    options = parser.parse_args()
    import torch
    from cifar_fastai.recipes.choices import NETWORKS
    torch.set_num_threads(options.threads)
    for arch in NETWORKS if options.arch == 'all' else [options.arch]:
        classifier, pictures, folder, told, count = answer(arch, options.width if options.width == 'auto' else int(options.width), options.size)
        for kind, text in told.items(): print(f'{arch} {kind}: {text}; {count} classes among them', flush=True)
        if options.parity: continue
        runs = arms(classifier, folder, options.threads)
        for batch in (1, 64):
            rounds = [{name: rate(run, pictures[:batch], options.seconds) for name, run in runs.items()} for _ in range(options.rounds)]
            for name in runs:
                print(f"{arch} batch {batch} {name}: {spread([each[name] for each in rounds], '{:,.0f}')} images/s, "
                      f"of ours {spread([each[name]/each['ours'] for each in rounds])}", flush=True)


if __name__ == '__main__': main()
