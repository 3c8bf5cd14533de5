"""Pictures are read exactly as the model's own image processor reads them, and bytes that are no picture are refused."""

from __future__ import annotations

import io
import json
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidInput
from workers.model.cache import Cache
from workers.model.images import ImageReader, decode

SMALL = {
    "patch_size": 7,
    "merge_size": 3,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 63 * 63, "longest_edge": 63 * 63},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
FULL = {**SMALL, "patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
CLIP = {
    "patch_size": 8,
    "merge_size": 2,
    "min_pixels": 256,
    "max_pixels": 40_000,
    "image_processor_type": "Qwen2VLImageProcessorFast",
}


@pytest.fixture(scope="module")
def processor() -> Callable[[dict[str, Any]], Any]:
    """The family's own processor for a config."""
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")

    def make(config: dict[str, Any]) -> Any:
        return module.Qwen2VLImageProcessorPil(**{k: v for k, v in config.items() if k != "image_processor_type"})

    return make


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(width: int, height: int, seed: int = 0) -> bytes:
    return file(Image.fromarray(noise(width, height, seed)))


def theirs(processor: Any, data: bytes) -> tuple[np.ndarray, list[int]]:
    with Image.open(io.BytesIO(data)) as image:
        given = processor(images=[image], return_tensors="np")
    return given["pixel_values"], given["image_grid_thw"][0].tolist()


def same(processor: Any, config: dict[str, Any], data: bytes) -> None:
    picture = ImageReader.described(config).read(data)
    patches, grid = theirs(processor(config), data)
    assert list(picture.grid) == grid
    assert picture.patches.dtype == np.float32
    assert picture.patches.tobytes() == np.ascontiguousarray(patches, np.float32).tobytes()


@pytest.mark.parametrize(
    ("config", "width", "height"),
    [(SMALL, 63, 63), (FULL, 256, 256), (FULL, 288, 256), (FULL, 512, 320), (CLIP, 144, 144), (CLIP, 160, 64), (CLIP, 16, 16)],
)
def test_a_picture_that_fits_is_read_bit_for_bit_as_by_the_processor(processor, config, width, height):
    reader = ImageReader.described(config)
    assert reader.size(width, height) == (width, height)
    same(processor, config, png(width, height, seed=width))


@pytest.mark.parametrize(
    ("config", "width", "height"),
    [
        (SMALL, 64, 64),
        (SMALL, 9, 9),
        (SMALL, 200, 40),
        (FULL, 64, 64),
        (FULL, 144, 144),
        (CLIP, 300, 500),
        (CLIP, 7, 3),
        (CLIP, 21, 15),
    ],
)
def test_a_picture_of_another_size_is_resized_bit_for_bit_as_by_the_processor(processor, config, width, height):
    assert ImageReader.described(config).size(width, height) != (width, height)
    same(processor, config, png(width, height, seed=height))


def test_every_size_becomes_what_the_processor_makes_of_it(processor):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    random = np.random.default_rng(1)
    for config in (SMALL, FULL, CLIP):
        reader = ImageReader.described(config)
        for width, height in random.integers(1, 1500, (400, 2)).tolist():
            if max(width, height) <= 200 * min(width, height):
                high, wide = smart_resize(height, width, reader.patch * reader.merge, reader.min_pixels, reader.max_pixels)
                assert reader.size(width, height) == (wide, high)


def kinds() -> dict[str, bytes]:
    rgb, grey = Image.fromarray(noise(63, 63)), Image.fromarray(noise(63, 63, channels=1))
    rgba = Image.fromarray(noise(63, 63, channels=4))
    palette = rgb.quantize(17)
    return {
        "grey": file(grey),
        "grey with alpha": file(rgba.convert("LA")),
        "one bit": file(grey.convert("1")),
        "palette": file(palette),
        "palette with a clear colour": file(palette, transparency=3),
        "rgb with a clear colour": file(Image.fromarray(np.zeros((63, 63, 3), np.uint8)), transparency=(0, 0, 0)),
        "rgba": file(rgba),
        "16 bit grey": file(Image.fromarray(noise(63, 63, channels=1).astype(np.uint16) * 3)),
        "16 bit rgb": sixteen_bit(noise(63, 63)),
        "jpeg": file(rgb, "JPEG"),
        "grey jpeg": file(grey, "JPEG"),
        "cmyk jpeg": file(rgb.convert("CMYK"), "JPEG"),
        "webp": file(rgb, "WEBP"),
    }


def sixteen_bit(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and cannot write."""
    height, width, _ = pixels.shape
    return raw(width, height, 16, b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.astype(np.uint16) * 257))


def raw(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A PNG that says this size, whatever its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_colours_is_read_as_by_the_processor(processor, kind):
    same(processor, SMALL, kinds()[kind])


def test_what_is_transparent_is_white():
    assert set(np.asarray(decode(file(Image.new("RGBA", (8, 8), (9, 9, 9, 0))))).ravel().tolist()) == {255}


def test_a_picture_that_was_stored_turned_is_turned_back():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(file(Image.fromarray(noise(40, 20)), "PNG", exif=exif))
    assert upright.size == (20, 40)


def test_without_resizing_a_picture_that_does_not_fit_is_refused(processor):
    config = {**SMALL, "do_resize": False}
    same(processor, config, png(84, 42))
    with pytest.raises(InvalidInput, match="64 x 63 pixels; this model does not resize, so each side must be a multiple of 21"):
        ImageReader.described(config).read(png(64, 63))


@pytest.mark.parametrize(
    "without", [{"do_normalize": False}, {"do_rescale": False}, {"do_normalize": False, "do_rescale": False}]
)
def test_a_config_can_leave_out_a_stage(processor, without):
    same(processor, {**SMALL, **without}, png(63, 63))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "has no bytes"),
        (b"GIF89a" + b"\0" * 50, "begins with b'GIF89a"),
        (b"<html>nothing here</html>", "it must be one of PNG, JPEG, WEBP"),
        (png(63, 63)[:500], "is damaged"),
        (png(63, 63)[:-12], "ends before its end mark"),
        (png(63, 63)[:60] + b"\xff\xff" + png(63, 63)[62:], "is damaged"),
        (file(Image.new("RGB", (5000, 30))), "5000 x 30 pixels; the most is 4096 a side"),
        (file(Image.new("RGB", (2010, 10))), "one side is at most 200 times the other"),
        (raw(20_000, 20_000, 8, b""), "has far more than 4096 pixels a side"),
        (b"\x89PNG" + b"\0" * 10_000_001, "the most is 10000000"),
    ],
)
def test_bytes_that_are_no_picture_are_refused_with_a_sentence(data, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        ImageReader.described(SMALL).read(data)


def test_a_film_is_no_picture():
    frames = [Image.fromarray(noise(63, 63, seed)) for seed in range(3)]
    with pytest.raises(InvalidInput, match="has 3 frames; a picture is one"):
        ImageReader.described(SMALL).read(file(frames[0], "PNG", save_all=True, append_images=frames[1:]))


def test_what_was_read_before_is_not_read_again_and_cannot_be_changed():
    reader = ImageReader.described(SMALL)
    first = reader.read(png(63, 63))
    assert reader.read(png(63, 63)) is first
    assert reader.cache.figures() == {"hits": 1, "misses": 1, "evicted": 0, "entries": 1, "used": first.patches.nbytes}
    with pytest.raises(ValueError, match="read-only"):
        first.patches[0, 0] = 1


def test_the_cache_keeps_to_its_bytes_and_drops_what_was_used_least_recently():
    one = ImageReader.described(SMALL).read(png(63, 63)).patches.nbytes
    reader = ImageReader.described(SMALL, cache_bytes=2 * one)
    a, b, c = (png(63, 63, seed) for seed in range(3))
    reader.read(a), reader.read(b), reader.read(a), reader.read(c)
    kept = reader.read(a)
    assert reader.read(a) is kept
    assert reader.cache.figures()["evicted"] == 1
    assert reader.cache.used == 2 * one
    assert len(reader.cache) == 2


def test_a_value_beyond_the_budget_is_not_held_and_drops_no_other():
    cache: Cache[str, int] = Cache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 11)
    cache.put("a", 3, 5)
    assert cache.get("b") is None
    assert cache.get("a") == 3
    assert cache.used == 5


def test_threads_read_the_same():
    reader = ImageReader.described(SMALL, cache_bytes=200_000)
    files = [png(63, 63, seed) for seed in range(6)]
    wanted = [ImageReader.described(SMALL).read(data).patches for data in files]
    wrong: list[int] = []

    def read(start: int) -> None:
        for i in range(60):
            at = (start + i) % len(files)
            if not np.array_equal(reader.read(files[at]).patches, wanted[at]):
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert reader.cache.used <= 200_000


def test_a_folder_says_how_its_model_reads_pictures(tmp_path: Path):
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SMALL}), encoding="utf-8")
    assert ImageReader.of(tmp_path).patch == 7
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(FULL), encoding="utf-8")
    assert ImageReader.of(tmp_path).patch == 16
    assert ImageReader.of(tmp_path).tokens(ImageReader.of(tmp_path).read(png(256, 256))) == 64


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type is 'CLIPImageProcessor'"),
        ({"do_convert_rgb": False}, "pictures are always read as RGB"),
        ({"patch_size": "many"}, "describes no image processor"),
        ({"image_std": [1, 0, 1]}, "none of std 0"),
    ],
)
def test_a_config_of_something_else_is_refused(config, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        ImageReader.described(config)


def test_a_folder_that_says_nothing_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"has no preprocessor_config.json"):
        ImageReader.of(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(InvalidInput, match="is not JSON"):
        ImageReader.of(tmp_path)
