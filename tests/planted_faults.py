"The faults that `planted.py` plants, each one that a user would suffer from"
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    name:str # What the program then does
    wing:str # Where
    file:str # Under cifar_fastai/
    text:str # What stands there, once
    instead:str # What stands there then
    tests:str # Those that should notice, as pytest takes them, from tests/
    why_not:str = '' # Where they don't: why not


FAULTS = [
    Fault("target='actual' explains the predicted class", 'heatmaps', 'heatmaps/gradcam.py',
          "if target == 'actual': return [Evidence(*pair) for pair in zip(logits, actual)]",
          "if target == 'actual': return [Evidence(*pair) for pair in zip(logits, predicted)]", 'test_gradcam.py::test_targets'),
    Fault('plot_gradcam lays heat over the wrong images', 'interpretation', 'interpretation/galleries.py',
          '*(overlay(images, maps, alpha, cmap) for maps in heat)', '*(overlay(images, maps[::-1], alpha, cmap) for maps in heat)',
          'test_interpret.py -k heat_lies_over'),
    Fault('validation loss from the last batch only', 'training', 'training/history.py', '        target = self.y.argmax(1) if',
          '        if not self.training: self.loss_sum, self.count = 0., 0\n        target = self.y.argmax(1) if',
          'test_training.py::test_history_is_what_a_second_look_finds'),
    Fault('training goes on from the averaged weights', 'training', 'training/averaging.py',
          '        if self.raw is not None: self.model.load_state_dict(self.raw)\n', '', 'test_training.py::test_averaged_weights_by_hand'),
    Fault('cutout filled with zero', 'data', 'data/loaders.py', 'random, fill=mean)', 'random, fill=[0., 0., 0.])', 'test_data.py -k cutout_fills'),
    Fault('training accuracy under mixing by the lighter label', 'training', 'training/history.py', 'self.y.argmax(1) if', 'self.y.argsort(1)[:, -2] if',
          'test_training.py -k heavier_label'),
    Fault('mixup with cutmix always takes cutmix', 'training', 'training/callbacks.py',
          '(not self.mixup_alpha or bool(random.coins(1)))', '(not self.mixup_alpha or bool(random.coins(1)) or True)', 'test_training.py -k mixup_beside'),
    Fault('Muon steps its matrices without momentum', 'training', 'training/optimizers.py',
          'grad_avg.mul_(matrix_mom).add_(gradient)', 'grad_avg.mul_(0).add_(gradient)', 'test_training.py -k muon_s_matrices'),
    Fault('random states are not restored at the end of an epoch', 'runs', 'runs/checkpoints.py',
          "    set_random_states(state['random'])\n    if", '    if', 'test_checkpoints.py -k draws_go_on'),
]
