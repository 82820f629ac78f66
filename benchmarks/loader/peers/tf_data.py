"""TensorFlow's tf.data with decode_and_crop_jpeg and antialiased resizing.

Takes turns as ``turns`` says: python tf_data.py FOLDER, which holds folder/CLASS/*.jpg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf
from turns import BATCH, MIN_SCALE, SIZES, Pass, serve

FOLDER = Path(sys.argv[1])


def random_window(shape):
    """Top, left, height and width."""
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        tf.zeros([0, 0, 4]),
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(MIN_SCALE, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def central_window(shape):
    side = tf.cast(tf.cast(tf.minimum(shape[0], shape[1]), tf.float32) * 224 / 256, tf.int32)
    return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])


def prepare(contender: str, task: str) -> Pass:
    size, is_random = SIZES[task], task.startswith("crop")

    def load(path):
        content = tf.io.read_file(path)
        shape = tf.image.extract_jpeg_shape(content)
        window = random_window(shape) if is_random else central_window(shape)
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.cast(tf.image.resize(image, (size, size), antialias=True), tf.uint8)
        return tf.image.random_flip_left_right(image) if is_random else image

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    paths = [str(path) for path in sorted((FOLDER / "folder").glob("*/*"))]
    loaded = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).map(load, num_parallel_calls=1)
    batches = loaded.batch(BATCH).prefetch(2).with_options(options)
    return lambda: sum(len(images) for images in batches)


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    serve(prepare, tensorflow=tf.__version__)
