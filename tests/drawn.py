"Small pictures whose class is their colour, for the tests and for the fault suite"
import numpy as np
from PIL import Image

CLASSES = ('ant', 'bee', 'cat')


def coloured(count, size, seed, noise=120, tint=100):
    "Images and their labels; the less tint for the noise, the harder to tell apart"
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = random.integers(0, noise, (count, size, size, 3))
    images[np.arange(count), ..., labels] += tint
    return images.astype(np.uint8), labels


def write_images(folder, parts, size, form='png', **hardness):
    "As files: a folder for each of `parts`, name → (count, seed), a sub-folder a class"
    for part, (count, seed) in parts.items():
        for number, (image, label) in enumerate(zip(*coloured(count, size, seed, **hardness))):
            place = folder/part/CLASSES[label]/f'{number:03}.{form}'
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    return folder
