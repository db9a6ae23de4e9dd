"""What it costs to look at a run: tables, galleries, heatmaps, report and explorer, against one inference pass over its test set.

    python benchmarks/interpret_cost.py runs/NAME

The arms take turns in one process, round after round, each on an interpretation of its own, so that nothing is kept from one to the next:

bare       the network's forward pass over the test set and nothing else, images already normalised and in memory
pass       our inference pass, from uint8 images to logits, both in fp32
bare run   the forward pass in the run's arithmetic
evaluate   the Learner's `validate` over the test set, in the run's arithmetic
tables     accuracies, calibration, confusions, classification report and the losses of all images, files written
galleries  which images are worst, best, least sure and at random, 10 of each, and their pictures
heatmaps   Grad-CAM of the predicted class of the 100 images with the largest losses
drawing    the figures of a run that need no network, drawn and written
report     report.html, written
explorer   the notebook's explorer, its first page shown

Ratios are taken within a round; their median, lowest and highest are printed.
"""
import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from common import in_turn, machine, ratios, spread, wait

from cifar_fastai.base.commands import run_command

TOGETHER = ('tables', 'galleries', 'heatmaps')


def forward(learner, batches, precision):
    "The network's forward pass, by hand"
    import torch
    device, dtype = learner.dls.device, {'bf16': torch.bfloat16, 'fp16': torch.float16}.get(precision)
    learner.model.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for images in batches: learner.model(images)


def tables(interpretation, folder):
    "Everything that is numbers"
    from cifar_fastai.interpretation.analysis import metric_additions
    from cifar_fastai.base.files import write_json, write_text
    interpretation.confusion_matrix(), interpretation.most_confused()
    interpretation.write_top_losses(folder/'top_losses.csv')
    write_text(folder/'classification_report.txt', interpretation.classification_report())
    write_json(folder/'metrics.json', metric_additions(interpretation))


def galleries(interpretation, count=10):
    "The pictures of every kind of gallery"
    from cifar_fastai.interpretation.predictions import SORTS, choose_images
    for sort in SORTS: interpretation.images(choose_images(interpretation.kept, 'all', sort)[:count])


def drawing(interpretation, folder):
    "The figures that need no network"
    from cifar_fastai.interpretation.charts import plot_matrix
    from cifar_fastai.base.figures import save_figure
    figures = dict(confusion_matrix=plot_matrix(interpretation.confusion_matrix(), list(interpretation.vocab)), per_class=interpretation.plot_class_accuracy(),
                   reliability=interpretation.plot_reliability(), worst=interpretation.plot_gallery(10, 'all', 'loss'))
    for name, figure in figures.items(): save_figure(figure, folder/f'{name}.png')


def prepared_arms(path, count, folder):
    "The arms: name → a function that does the work; and the device, and how many images a pass has"
    import numpy as np
    import torch
    from cifar_fastai.base.devices import choose_precision, memory_format
    from cifar_fastai.views.explorer import Explorer
    from cifar_fastai.interpretation.inference import run_inference, steady_loader
    from cifar_fastai.runs.interpreted import load_interpretation
    from cifar_fastai.views.report_page import write_run_report
    from cifar_fastai.runs.files import load_run
    learner = load_run(path)
    device = learner.dls.device
    precision = choose_precision(learner.recipe.precision, device)
    batches = [images.as_subclass(torch.Tensor).contiguous(memory_format=memory_format(device)) for images, _ in steady_loader(learner.dls.test)]
    def fresh(): return load_interpretation(path, learner)
    def heatmaps():
        interpretation = fresh()
        interpretation.heatmaps(np.argsort(-interpretation.kept.losses)[:count].tolist())
    def validate():
        with learner.no_bar(), learner.no_logging(): learner.validate(dl=learner.dls.test)
    return {'bare': lambda: forward(learner, batches, 'fp32'), 'pass': lambda: run_inference(learner.model, steady_loader(learner.dls.test)),
            'bare run': lambda: forward(learner, batches, precision), 'evaluate': validate,
            'tables': lambda: tables(fresh(), folder), 'galleries': lambda: galleries(fresh()), 'heatmaps': heatmaps,
            'drawing': lambda: drawing(fresh(), folder), 'report': lambda: write_run_report(path, fresh(), folder/'report.html'),
            'explorer': lambda: Explorer(fresh(), folder/'marks.csv')}, device, sum(map(len, batches)), precision


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help='a run folder, complete')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--heatmaps', type=int, default=100, help='how many heatmaps [100]')
    parser.add_argument('--traceback', action='store_true')
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        arms, device, images, precision = prepared_arms(options.run, options.heatmaps, Path(folder))
        print(machine(str(device)))
        print(f'{options.run}: {images:,} test images, {options.heatmaps} heatmaps, the run in {precision}')
        def measure(arm):
            wait(device)
            started = time.perf_counter()
            with open('/dev/null', 'w') as nowhere, contextlib.redirect_stdout(nowhere): arms[arm]()
            wait(device)
            return {'seconds': time.perf_counter() - started}
        for arm in arms: measure(arm)  # kernels, fonts and imports are there from now on
        results = in_turn(list(arms), options.rounds, measure, lambda result: f"{result['seconds']:.2f} s")
    print(f"\n{'':10} {'seconds':38} of one pass")
    for arm in arms:
        print(f"{arm:10} {spread([done[arm]['seconds'] for done in results], '{:.3f}'):38} {spread(ratios(results, arm, 'pass', 'seconds'))}")
    whole = [sum(done[arm]['seconds'] for arm in TOGETHER)/done['pass']['seconds'] for done in results]
    print(f"\n{', '.join(TOGETHER)} / pass   {spread(whole)}")
    print(f"bare / pass (inference, fp32)         {spread(ratios(results, 'bare', 'pass', 'seconds'))}")
    print(f"bare / evaluate (Learner, {precision})        {spread(ratios(results, 'bare run', 'evaluate', 'seconds'))}")


if __name__ == '__main__': sys.exit(run_command(main))
