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
    # base
    Fault('an interval of 95 % holds 90', 'base', 'base/intervals.py', 'float(ndtri((1 + level)/2)), right/images', 'float(ndtri(level)), right/images',
          'test_intervals.py -k wilson'),
    Fault('heatmaps move the random state of NumPy', 'base', 'base/randomness.py', 'np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))', 'pass',
          'test_gradcam.py -k "found_unchanged and eigencam"'),
    Fault('each epoch draws the same augmentation', 'base', 'base/randomness.py', "f'{self.seed} {epoch} {batch}'", "f'{self.seed} {batch}'",
          'test_augment.py -k "keep_kind and 32-crop_flip_zeros"'),
    Fault('two processes write to one run folder', 'base', 'base/files.py', 'try: lock.acquire(timeout=wait)', 'try: pass', 'test_runs.py -k one_writer'),
    Fault('a changed byte in a run is not found out', 'base', 'base/files.py', "'' if checksum(folder/name) == known.get('sha256') else", "'' if known.get('sha256') else",
          'test_runs.py -k one_changed_byte'),
    Fault('a failed write leaves a torn file', 'base', 'base/files.py', "path.with_name(f'.{path.stem}.{os.getpid()}.partial{path.suffix}')", 'path',
          'test_figures.py -k a_file_is_whole'),
    Fault('bf16 is taken where a machine only emulates it', 'base', 'base/devices.py', "    if bf16_is_native(device): return 'bf16'", "    return 'bf16'",
          'test_training.py -k emulated'),
    Fault('titles of a gallery stand over the next picture', 'base', 'base/figures.py', 'in zip(images, titles, corners):', 'in zip(images, [*titles[1:], titles[0]], corners):',
          'test_interpret.py -k gallery_s_pictures'),

    # recipes
    Fault("Muon has SGD's momentum", 'recipes', 'recipes/resolved.py', "choose('momentum'), None", "0.9 if recipe.momentum == 'auto' else recipe.momentum, None", 'test_recipes.py -k auto_is'),
    Fault('a weight decay of 0 becomes the default', 'recipes', 'recipes/resolved.py', "if getattr(recipe, name) == 'auto' else", "if getattr(recipe, name) in ('auto', 0) else",
          'test_recipes.py -k auto_is'),
    Fault('a misspelt field of a recipe is passed over', 'recipes', 'recipes/recipe.py', "    for name in fields: one_of(name, names, 'recipe field')\n    return Recipe(**fields)",
          '    return Recipe(**{name: value for name, value in fields.items() if name in names})', 'test_recipes.py -k unknown_fields'),
    Fault('a cutout of any size is 8', 'recipes', 'recipes/choices.py', 'cutout=int(side))', 'cutout=8)', 'test_augment.py -k wired'),
    Fault("a typed option loses to the recipe's", 'recipes', 'recipes/options.py', "named_recipe(options.recipe or 'default'), **typed)", "named_recipe(options.recipe or 'default'), **({} if options.recipe else typed))",
          'test_command.py -k words_of_train'),
    Fault('the command to reproduce a run leaves out what it changed', 'recipes', 'recipes/options.py', "for field, value in {'data': recipe.data, **differing_fields(recipe, RECIPES[name].recipe), 'seed': recipe.seed}.items():",
          "for field, value in {'data': recipe.data, **dict([*differing_fields(recipe, RECIPES[name].recipe).items()][1:]), 'seed': recipe.seed}.items():", 'test_recipes.py -k command_again'),

    # heatmaps
    Fault("target='actual' explains the predicted class", 'heatmaps', 'heatmaps/gradcam.py',
          "if target == 'actual': return [Evidence(*pair) for pair in zip(logits, actual)]",
          "if target == 'actual': return [Evidence(*pair) for pair in zip(logits, predicted)]", 'test_gradcam.py::test_targets'),
    Fault('actual classes of the first batch explain the second', 'heatmaps', 'heatmaps/gradcam.py', 'target, actual[part], classes)', 'target, actual[:len(batch)], classes)',
          'test_gradcam.py::test_targets'),
    Fault('contrast is actual minus predicted', 'heatmaps', 'heatmaps/gradcam.py', 'zip(logits, predicted, actual)', 'zip(logits, actual, predicted)', 'test_gradcam.py -k contrast'),
    Fault('a heatmap is transposed against its picture', 'heatmaps', 'heatmaps/gradcam.py', 'np.concatenate(maps).clip(0, 1)', 'np.concatenate(maps).clip(0, 1).transpose(0, 2, 1)',
          'test_gradcam.py -k "peak_lies and size0 and hirescam"'),
    Fault('smoothing over changed pictures does nothing', 'heatmaps', 'heatmaps/gradcam.py', 'cam(batch, wanted, aug_smooth, eigen_smooth)', 'cam(batch, wanted, False, eigen_smooth)',
          'test_gradcam.py::test_smoothing'),
    Fault('noise is stretched to a map', 'heatmaps', 'heatmaps/gradcam.py', 'return (peak > 1e-7*size) & (np.ptp(raw, (1, 2)) > 1e-5*peak)', 'return peak > 0', 'test_gradcam.py -k even_and_tiny'),
    Fault('a layer is read by its shape alone', 'heatmaps', 'heatmaps/prepared.py', 'max(good, key=lambda way: max(agrees[way], ENOUGH))', 'good[0]', 'test_gradcam.py -k read_as_the_picture'),
    Fault('the sanity check compares a network with itself', 'heatmaps', 'heatmaps/checks.py', "heatmaps(other, images, 'actual'", "heatmaps(model, images, 'actual'",
          'test_heatmap_checks.py -k ignores_the_weights'),
    Fault('ROAD takes the least relevant pixels for the most', 'heatmaps', 'heatmaps/road.py', '(curves[0] - curves[1]).mean(0)/2', '(curves[1] - curves[0]).mean(0)/2',
          'test_heatmap_checks.py -k truth_beats'),

    # data
    Fault('cutout filled with zero', 'data', 'data/loaders.py', 'random, fill=mean)', 'random, fill=[0., 0., 0.])', 'test_data.py -k cutout_fills'),
    Fault('pictures shift along the diagonal only', 'data', 'data/augment.py', 'return crop_flip(images, place(), place(), self', 'return crop_flip(images, *[place()]*2, self',
          'test_augment.py -k drawn_evenly'),
    Fault('augmentation also in evaluation', 'data', 'data/augment.py', '    split_idx = 0\n', '    split_idx = None\n', 'test_augment.py -k "keep_kind and 32-crop_flip_zeros"'),
    Fault('alternating flips do not alternate', 'data', 'data/augment.py', '((coins + self.random.epoch) & 1)', '(coins & 1)', 'test_augment.py -k alternating_flip'),
    Fault('shares of mixed labels are swapped', 'data', 'data/augment.py', 'torch.lerp(targets[partners], targets, share', 'torch.lerp(targets, targets[partners], share', 'test_augment.py -k mixup_blends'),
    Fault('cutmix counts what the border cut away', 'data', 'data/augment.py', 'partners, 1 - pasted.flatten(1).float().mean(1))', 'partners, 1 - side**2)', 'test_augment.py -k cutmix_share'),
    Fault('training images are in the hold-out too', 'data', 'data/images.py', 'train = kept[~taken[kept]]', 'train = kept', 'test_data.py -k holdout_is'),
    Fault('statistics of the hold-out too', 'data', 'data/loaders.py', 'remember_statistics(data, train)', 'remember_statistics(data, data.train_positions)', 'test_data.py -k statistics_are'),
    Fault('the order is the same in each epoch', 'data', 'data/loaders.py', 'self.random.start(self.order, -1)', 'self.random.start(0, -1)', 'test_data.py -k order_and_pixels'),
    Fault('CIFAR-100 gets its coarse labels', 'data', 'data/readers.py', "batch['fine_labels' if fine else 'labels']", "batch['coarse_labels' if fine else 'labels']", 'test_readers.py -k python_version'),
    Fault('blue is taken for red', 'data', 'data/readers.py', 'CIFAR_SIDE).transpose(0, 2, 3, 1)', 'CIFAR_SIDE).transpose(0, 2, 3, 1)[..., ::-1]', 'test_readers.py -k "python_version or binary_version"'),
    Fault('photos lie on their side', 'data', 'data/formats.py', "found if found in TURNS else 1", "1", 'test_readers.py -k turned_by'),
    Fault('transparent is black', 'data', 'data/formats.py', "picture.size, 'white')", "picture.size, 'black')", 'test_readers.py -k every_mode'),
    Fault('images that were changed come from the cache as they were', 'data', 'data/cache.py', 'repr((name, files.stamps[name]))', 'repr((name, files.stamps[name][0]))',
          'test_sources.py -k what_changes'),
    Fault('a folder is known by its names and sizes', 'data', 'data/cache.py', '        digest.update(data)\n', '', 'test_reading.py -k same_times'),
    Fault('a copy in the test set is not counted', 'data', 'data/reading.py', 'splits[position] > splits[first]', 'splits[position] > 2', 'test_reading.py -k copies'),

    # models
    Fault('layer normalisation in 32 groups', 'models', 'models/layers.py', "'layer': lambda channels: nn.GroupNorm(1, channels)", "'layer': lambda channels: nn.GroupNorm(group_count(channels), channels)",
          'test_models.py -k "widths_and_norms and layer and resnet9"'),
    Fault('first weights by the inputs', 'models', 'models/weights.py', "nn.init.kaiming_normal_(layer.weight, mode='fan_out'", "nn.init.kaiming_normal_(layer.weight, mode='fan_in'",
          'test_models.py -k "initial_weights or first_logits"'),
    Fault('whitening filters are trained', 'models', 'models/weights.py', '    layer.weight.requires_grad_(False)', '    layer.weight.requires_grad_(True)', 'test_speed_ideas.py -k whitened_filters'),
    Fault("the recipe's momentum of norms is ignored", 'models', 'models/weights.py', 'part.momentum = momentum', 'pass', 'test_training.py -k rates_and_norms'),
    Fault('--dirac does nothing', 'models', 'models/weights.py', 'if dirac and layer.in_channels > 3:', 'if False:', 'test_models.py -k dirac'),

    # interpretation
    Fault('plot_gradcam lays heat over the wrong images', 'interpretation', 'interpretation/galleries.py',
          '*(overlay(images, maps, alpha, cmap) for maps in heat)', '*(overlay(images, maps[::-1], alpha, cmap) for maps in heat)', 'test_interpret.py -k heat_lies_over'),
    Fault('columns of heat are named by each other', 'interpretation', 'interpretation/galleries.py', 'return self.images(indices, inputs), layers, columns, [', 'return self.images(indices, inputs), layers, columns[::-1], [',
          'test_interpret.py -k heat_lies_over'),
    Fault('pictures beside their titles are those of others', 'interpretation', 'interpretation/galleries.py', 'plot_images(self.images(indices), [title', 'plot_images(self.images(indices[::-1]), [title',
          'test_interpret.py -k gallery_s_pictures'),
    Fault('actual and predicted are swapped in titles', 'interpretation', 'interpretation/galleries.py', "{kept.classes[actual]} → {kept.classes[predicted]}\\np(predicted)",
          "{kept.classes[predicted]} → {kept.classes[actual]}\\np(predicted)", 'test_interpret.py -k titles_tell'),
    Fault('pictures are shown normalised', 'interpretation', 'interpretation/inference.py', 'seen = to_cpu(undo.decode(images))', 'seen = to_cpu(images)',
          'test_interpret.py -k pictures_are_those'),
    Fault('the matrix is drawn the wrong way round', 'interpretation', 'interpretation/charts.py', 'axes.text(column, row, written', 'axes.text(row, column, written',
          'test_figures.py -k right_way_round'),
    Fault('bars of classes are in another order than their names', 'interpretation', 'interpretation/charts.py', 'axes.barh(places, table.accuracy.fillna(0)', 'axes.barh(places[::-1], table.accuracy.fillna(0)',
          'test_figures.py -k bars_are'),
    Fault('intervals of classes are half as wide', 'interpretation', 'interpretation/charts.py', 'xerr=np.nan_to_num(reach)', 'xerr=np.nan_to_num(reach)/2', 'test_figures.py -k bars_are'),
    Fault('precision of a class is called its accuracy', 'interpretation', 'interpretation/predictions.py', "table['accuracy'] = np.diag(matrix)/matrix.sum(1)", "table['accuracy'] = np.diag(matrix)/matrix.sum(0)",
          'test_interpret.py -k tables_equal'),
    Fault('bins of calibration count alike', 'interpretation', 'interpretation/predictions.py', '.abs()*table.images).sum()/table.images.sum())', '.abs()).mean())', 'test_interpret.py -k calibration_error'),
    Fault('masks of other images judge the heatmaps', 'interpretation', 'interpretation/analysis.py', 'masks[np.asarray(positions)[indices]]', 'masks[indices]', 'test_heatmap_checks.py -k own_mask'),

    # training
    Fault('validation loss from the last batch only', 'training', 'training/history.py', '        target = self.y.argmax(1) if',
          '        if not self.training: self.loss_sum, self.count = 0., 0\n        target = self.y.argmax(1) if', 'test_training.py -k second_look'),
    Fault('training goes on from the averaged weights', 'training', 'training/averaging.py',
          '        if self.raw is not None: self.model.load_state_dict(self.raw)\n', '', 'test_training.py -k averaged_weights'),
    Fault('training accuracy under mixing by the lighter label', 'training', 'training/history.py', 'self.y.argmax(1) if', 'self.y.argsort(1)[:, -2] if', 'test_training.py -k heavier_label'),
    Fault('mixup with cutmix always takes cutmix', 'training', 'training/callbacks.py',
          '(not self.mixup_alpha or bool(random.coins(1)))', '(not self.mixup_alpha or bool(random.coins(1)) or True)', 'test_training.py -k mixup_beside'),
    Fault("mixup takes cutmix's alpha", 'training', 'training/callbacks.py', '(mixup, self.mixup_alpha)', '(mixup, self.cutmix_alpha or self.mixup_alpha)', 'test_training.py -k mixup_beside'),
    Fault('Muon steps its matrices without momentum', 'training', 'training/optimizers.py',
          'grad_avg.mul_(matrix_mom).add_(gradient)', 'grad_avg.mul_(0).add_(gradient)', 'test_training.py -k muon_s_matrices'),
    Fault("Muon's matrices take the momentum of the rest", 'training', 'training/optimizers.py',
          'grad_avg.mul_(matrix_mom).add_(gradient)', 'grad_avg.mul_(mom).add_(gradient)', 'test_training.py -k muon_s_matrices'),
    Fault('momentum without Nesterov', 'training', 'training/optimizers.py', 'p.data.add_(gradient.add(grad_avg, alpha=mom), alpha=-lr)', 'p.data.add_(grad_avg, alpha=-lr)', 'test_training.py -k nesterov_sgd'),
    Fault('label smoothing in evaluation too', 'training', 'training/losses.py', 'cross_entropy(logits, target, reduction=reduction)', 'cross_entropy(logits, target, label_smoothing=self.label_smoothing, reduction=reduction)', 'test_training.py -k "smooths or second_look"'),
    Fault('seconds of training hold the evaluation too', 'training', 'training/history.py', '        self.trained = None\n', "        self.trained, self.train_seconds = None, sum(row['seconds'] for row in self.rows)\n",
          'test_training.py -k seconds_of_training'),
    Fault('images a second count the first steps', 'training', 'training/history.py', 'elif self.steps > WARM_UP: self.timed_images', 'else: self.timed_images', 'test_training.py -k seconds_of_training'),
    Fault('early stopping keeps the last weights', 'training', 'training/stopping.py', 'if self.weights is not None: self.model', 'if False: self.model', 'test_training.py -k early_stopping_brings'),
    Fault('the rate ends a tenth of where it should', 'training', 'training/schedules.py', 'lr/recipe.div_final', 'lr/recipe.div_final/10', 'test_training.py -k schedules_by_hand'),
    Fault('momentum goes the same way as the rate', 'training', 'training/learner.py', 'moms=(resolved.momentum, resolved.momentum_low, resolved.momentum))', 'moms=(resolved.momentum_low, resolved.momentum, resolved.momentum_low))', 'test_training.py -k other_way'),
    Fault('training images stay small', 'training', 'training/schedules.py', 'if share else size', 'if share else max(8, size*3//4//8*8)', 'test_training.py -k progressive_sizes'),
    Fault('the finder suggests from a curve that is not smoothed', 'training', 'training/lr_find.py', 'self.average*0.98 + 0.02*float', 'self.average*0 + 1.*float', 'test_lr_find.py -k curve_is'),
    Fault('Lookahead goes back all the way', 'training', 'training/averaging.py', 'slow.lerp_(weight, 0.5)', 'slow.lerp_(weight, 0.)', 'test_speed_ideas.py -k lookahead_by'),
    Fault('values of gradients are not clipped', 'training', 'training/callbacks.py', 'nn.utils.clip_grad_value_(self.model.parameters(), self.limit)', 'pass', 'test_training.py -k are_clipped'),

    Fault("the mean of batches' means is called the accuracy", 'training', 'training/recorder.py', '*learn.yb), cpu=False)*count\n        self.count += count', '*learn.yb), cpu=False)\n        self.count += 1',
          'test_recorder.py -k mean_over_images'),
    Fault('the last batch is called the loss of the set', 'training', 'training/recorder.py', 'self.total += learn.to_detach(learn.loss.mean(), cpu=False)*count\n        self.count += count',
          'self.total, self.count = learn.to_detach(learn.loss.mean(), cpu=False)*count, count', 'test_training.py -k second_look'),

    # profiling
    Fault("a step's backward pass is counted for half", 'profiling', 'profiling/peak.py', 'backward.get_total_flops()', 'backward.get_total_flops()//2',
          'test_profile.py -k "operations_are and resnet9"'),
    Fault('the loss is told as part of the network', 'profiling', 'profiling/step_profile.py', "{'after_pred': 'loss', ", '{', 'test_profile.py -k each_part'),

    # runs
    Fault('random states are not restored at the end of an epoch', 'runs', 'runs/checkpoints.py', "    set_random_states(state['random'])\n    if", '    if', 'test_checkpoints.py -k draws_go_on'),
    Fault('the optimizer starts anew on resume', 'runs', 'runs/checkpoints.py', '        learner.opt.state[parameter] = {name: match_layout(value, parameter) for name, value in values.items()}\n', '',
          'test_checkpoints.py -k draws_go_on'),
    Fault('a found learning rate is lost on resume', 'runs', 'runs/session.py', "with_rate(about['resolved']['lr'])", "with_rate(0.1)", 'test_checkpoints.py -k rate_that_was_found'),
    Fault('a run whose images grow is made longer', 'runs', 'runs/resume.py', "recipe.schedule == 'constant' and not recipe.progressive", "recipe.schedule == 'constant'", 'test_checkpoints.py -k rate_that_was_found'),
    Fault('pictures of the hold-out beside predictions of the test set', 'runs', 'runs/interpreted.py', 'steady_loader(loaders().test)', 'steady_loader(loaders().valid)', 'test_runs.py -k pictures_are_of'),
    Fault('sample images stand under the class of another', 'runs', 'runs/folder.py', 'plot_images(data.images[where], named(where)', 'plot_images(data.images[where], named(where[::-1])',
          'test_runs.py -k samples_stand'),
    Fault('a run that stopped early says it kept the last weights', 'runs', 'runs/folder.py', "'selected': 'best_on_holdout' if learner.recipe.early_stopping else 'last'", "'selected': 'last'", 'test_runs.py -k stops_early'),
    Fault('predictions of other weights are taken', 'runs', 'runs/interpreted.py', "    check_fingerprint(record, 'predictions', arrays_fingerprint(vars(found)))\n", '', 'test_interpret.py -k with_others'),

    # views
    Fault('the curve of training is called that of the test set', 'views', 'views/report_facts.py', "known = [(f'train_{kind}', 'training'), (f'valid_{kind}', MEASURED[valid_is])]",
          "known = [(f'valid_{kind}', 'training'), (f'train_{kind}', MEASURED[valid_is])]", 'test_report.py -k curves_lie'),
    Fault('curves hang upside down', 'views', 'views/vector_charts.py', 'round(self.start + share*(self.end - self.start), 1)', 'round(self.end - share*(self.end - self.start), 1)',
          'test_report.py -k "curves_lie or accuracy_lies"'),
    Fault('ticks stand beside other numbers', 'views', 'views/vector_charts.py', "return [(self.place(value), f'{100*value", "return [(self.place(self.high + self.low - value), f'{100*value", 'test_report.py -k "curves_lie or accuracy_lies"'),
    Fault('whiskers of reliability end at the bin', 'views', 'views/report_facts.py', 'full.accuracy.tolist(), full.low.tolist(), full.high.tolist(), True', 'full.accuracy.tolist(), full.accuracy.tolist(), full.high.tolist(), True',
          'test_report.py -k accuracy_lies'),
    Fault('samples stand under the class of another', 'views', 'views/report_images.py', 'for loader, indices in ((train, where), (test, there)))', 'for loader, indices in ((train, where), (test, there[::-1])))',
          'test_report.py -k samples_stand'),
    Fault("the page's heat for the actual class is that for the predicted", 'views', 'views/report_images.py', 'np.stack([kept.predicted[part], kept.targets[part]], 1)',
          'np.stack([kept.predicted[part], kept.predicted[part]], 1)', 'test_report.py -k every_error'),
    Fault('the view of a page forgets what an image was taken for', 'views', 'views/assets/explorer.js', "if (predicted && this.predicted[row] !== +predicted) continue;", '',
          'test_report_browser.py -k "address or cell_of"'),
    Fault('a file of marks takes the place of those that are there', 'views', 'views/assets/marks.js', 'new Map([...found, ...this.kept])', 'new Map(found)', 'test_report_browser.py -k file_of_marks'),
    Fault('a page warns of a loss that falls by design', 'interpretation', 'interpretation/cautions.py', ' and len(rates) and rates[-1] > 0.5*rates.max()', '', 'test_cautions.py'),
    Fault('the explorer shows the next page', 'views', 'views/browsing.py', 'self.indices[self.number*self.per_page:(self.number + 1)*self.per_page]',
          'self.indices[(self.number + 1)*self.per_page:(self.number + 2)*self.per_page]', 'test_explore.py -k first_the_wrong'),

    Fault('the bar of each class is that of the first', 'views', 'views/browsing.py', 'width:{max(shares[one]*100, 0.5):.1f}%', 'width:{max(shares[order[0]]*100, 0.5):.1f}%',
          'test_explore.py -k image_is_opened'),

    # comparison
    Fault('McNemar counts one side', 'comparison', 'comparison/significance.py', 'stats.binomtest(fixed, fixed + broke)', "stats.binomtest(fixed, fixed + broke, alternative='greater')",
          'test_compare_statistics.py -k mcnemar_is'),
    Fault('differences of seeds are not paired', 'comparison', 'comparison/arms.py', '[(a.seeds.index(seed), b.seeds.index(seed)) for seed in a.seeds if seed in b.seeds]',
          '[(place, place) for place in range(min(a.n, b.n))]', 'test_compare.py -k seeds_are_paired'),
    Fault('many pairs are not corrected for', 'comparison', 'comparison/significance.py', 'if len(tested) < 2:', 'if len(tested) < 99:', 'test_compare_statistics.py -k holm'),
    Fault('fixed and broken images are swapped', 'comparison', 'comparison/arms.py', '[most_b & ~most_a, most_a & ~most_b,', '[most_a & ~most_b, most_b & ~most_a,', 'test_compare.py -k image_by_image'),
    Fault('the gallery of what changed shows other pictures', 'comparison', 'comparison/comparison.py', "self.test_images(shown['index'])", "self.test_images(sorted(shown['index'], reverse=True))", 'test_compare.py -k galleries_show'),
    Fault('the worst value is chosen', 'comparison', 'comparison/choosing.py', 'best = max(good,', 'best = min(good,', 'test_compare.py -k highest_hold_out'),
    Fault('curves are of one seed', 'comparison', 'comparison/comparison.py', 'mean=values.mean(0)', 'mean=values[0]', 'test_compare.py -k means_over_seeds'),
    Fault('seconds to an accuracy leave the last epoch out', 'comparison', 'comparison/arms.py', 'iloc[:there[0] + 1].sum()', 'iloc[:there[0]].sum()', 'test_compare.py -k arms_table'),

    # doors
    Fault('--checkpoint-every is ignored', 'doors', 'train.py', 'options.checkpoint_every, options.keep', '300., options.keep', 'test_command.py -k words_of_train'),
    Fault('--target is ignored', 'doors', 'interpret.py', 'layers, options.target,', "layers, ('predicted', 'actual'),", 'test_command.py -k words_of_interpret'),
    Fault('--reach is a hundred times too high', 'doors', 'compare.py', '[level/100 for level in options.reach]', 'options.reach', 'test_command.py -k words_of_compare'),
    Fault('every arm has one seed', 'doors', 'compare.py', 'arms = grid_arms(recipe, fields, seeds)\n    if len(arms)', 'arms = grid_arms(recipe, fields, 1)\n    if len(arms)', 'test_command.py -k words_of_compare'),
]
