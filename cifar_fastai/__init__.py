"""Train small image classifiers with fastai, with numbers that can be trusted and pages that show why the model is wrong.

A `Recipe` holds everything that decides a run. `train` follows it and leaves a folder with the weights, the curves, the
errors and one page that explains them. The same recipe, data and machine give the same weights.

    from cifar_fastai.all import *
    run = train(Recipe(data='shapes', epochs=8))   # a Learner, a folder, an interpretation
    run.interpretation.plot_gradcam(10)            # the worst errors, and where the network looked

On the command line: `cifar-fastai train --recipe demo`, and `cifar-fastai --help`."""

def __getattr__(name):
    if name != '__version__': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from configparser import ConfigParser
    from importlib.metadata import version
    from pathlib import Path
    settings = ConfigParser(delimiters=['='])
    settings.read(Path(__file__).parents[1]/'settings.ini', encoding='utf-8')
    if settings['DEFAULT'].get('name') == __name__: return settings['DEFAULT']['version']  # a checkout, whatever is installed
    return version(__name__)
