"""Pictures that are files of their own: how many pages they have, and how these are shown to be recognised."""

from io import BytesIO

import pytest
from PIL import Image

from docworker.jobs.pipeline.draft import Draft, Original, PipelineError
from docworker.jobs.pipeline.extract import Extract
from docworker.jobs.pipeline.formats import reader_of, renderer_of
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import BMP, GIF, JPEG, PNG, TIFF, WEBP, media_type_of

ROTATED_BY_90 = {0x0112: 6}


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 20), *, pages: int = 1, mode: str = "RGB") -> bytes:
    """A picture whose left half is black and whose right half is white."""
    shown = Image.new(mode, size, "white")
    shown.paste(Image.new(mode, (size[0] // 2, size[1]), "black"))
    file = BytesIO()
    more = {"save_all": True, "append_images": [shown] * (pages - 1)} if pages > 1 else {}
    exif = Image.Exif()
    exif.update(ROTATED_BY_90)
    shown.save(file, kind, **more, **({"exif": exif} if kind == "JPEG" else {}))
    return file.getvalue()


def shown(media_type: str, data: bytes, page: int = 1, limits: Limits | None = None) -> Image.Image:
    return Image.open(BytesIO(renderer_of(media_type)(data, page, limits or Limits())), formats=["PPM"])


@pytest.mark.parametrize(
    ("kind", "media_type"), [("PNG", PNG), ("TIFF", TIFF), ("WEBP", WEBP), ("BMP", BMP), ("GIF", GIF), ("JPEG", JPEG)]
)
def test_picture_is_known_by_its_bytes_and_shown_in_grey_the_right_way_up(kind: str, media_type: str) -> None:
    data = picture(kind)
    assert media_type_of("upload", data[:4096]) == media_type
    grey = shown(media_type, data)
    assert grey.mode == "L"
    assert grey.size == ((20, 40) if kind == "JPEG" else (40, 20))
    dark, light = (2, 2), (17, 37) if kind == "JPEG" else (37, 17)
    assert grey.point(lambda level: level // 128).getpixel(dark) == 0
    assert grey.point(lambda level: level // 128).getpixel(light) == 1


def test_pages_of_a_tiff_file_are_counted_and_shown() -> None:
    data = picture("TIFF", pages=3)
    reading = reader_of(TIFF)(data, Limits())
    assert (reading.pages, list(reading.pictures)) == (3, [1, 2, 3])
    assert shown(TIFF, data, 3).size == (40, 20)


def test_what_is_transparent_is_shown_on_white() -> None:
    file = BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(file, "PNG")
    assert shown(PNG, file.getvalue()).getpixel((0, 0)) == 255


def test_picture_is_made_smaller_where_it_would_have_more_bytes_than_are_allowed() -> None:
    size = shown(PNG, picture(size=(3000, 1000)), limits=Limits(output_bytes=MIB)).size
    assert MIB * 0.8 < size[0] * size[1] < MIB


@pytest.mark.parametrize(
    ("data", "limits", "reason"),
    [
        (picture("PNG", (400, 400))[:-40], Limits(), "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Limits(), "corrupt"),
        (picture(size=(3000, 3000)), Limits(memory_bytes=64 * MIB), "memory_limit"),
    ],
)
def test_bad_picture_is_refused_with_its_reason(data: bytes, limits: Limits, reason: str) -> None:
    with pytest.raises(PipelineError) as caught:
        renderer_of(PNG)(data, 1, limits)
    assert caught.value.reason == reason


def test_picture_needs_recognition_and_takes_its_text_from_there() -> None:
    extract = Extract(Limits(), documents_per_child=10)
    original = Original(filename="a.tiff", data=picture("TIFF", pages=2))
    try:
        with pytest.raises(PipelineError, match="its 2 pages hold pictures") as caught:
            extract.process(Draft(original))
        assert caught.value.reason == "needs_ocr"
        recognized = Original(filename="a.tiff", data=original.data, recognized={1: "one", 2: "two"})
        assert extract.process(Draft(recognized)).text == "one\n\ntwo"
    finally:
        extract.close()
