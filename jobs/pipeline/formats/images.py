"""Pictures that are files of their own (PNG, JPEG, TIFF, WebP, BMP, GIF), by Pillow: they hold no text, and are shown
to whoever recognises characters. Of what moves, the first picture."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from docworker.jobs.pipeline.draft import PipelineError, Reason
from docworker.jobs.pipeline.formats import MOST_PICTURES, PAGE_BREAK, Reading
from docworker.jobs.pipeline.limits import Limits

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
_OF_PAGES = "TIFF"
_BYTES_A_PIXEL = 12
"""Of memory, while colours become grey."""
_SHARE_OF_LIMIT = 0.9
Image.MAX_IMAGE_PIXELS = None  # what is allowed is told by the limits


def read(data: bytes, limits: Limits) -> Reading:
    """No text, and the numbers of its pages."""
    with _opened(data, limits) as picture:
        pages = min(getattr(picture, "n_frames", 1), MOST_PICTURES) if picture.format == _OF_PAGES else 1
    return Reading(PAGE_BREAK * (pages - 1), pages=pages, pictures=range(1, pages + 1))


def render(data: bytes, page: int, limits: Limits) -> bytes:
    """A picture the right way up, in grey on white; smaller where it would have more than the bytes allowed."""
    with _opened(data, limits) as picture:
        try:
            picture.seek(page - 1)
            _refuse_large(picture, limits)
            shown = _grey(ImageOps.exif_transpose(picture))
        except EOFError:
            raise PipelineError(Reason.CORRUPT, f"the picture has no page {page}") from None
        except (OSError, SyntaxError, ValueError) as error:
            is_cut = "truncated" in str(error)
            reason, what = (Reason.TRUNCATED, "ends in the middle") if is_cut else (Reason.CORRUPT, "cannot be decoded")
            raise PipelineError(reason, f"the picture {what}") from None
    scale = (_SHARE_OF_LIMIT * limits.output_bytes / (shown.width * shown.height)) ** 0.5
    if scale < 1:
        shown = shown.resize((max(1, int(shown.width * scale)), max(1, int(shown.height * scale))))
    return b"P5 %d %d 255\n" % shown.size + shown.tobytes()


def _grey(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("L")
    colours = picture.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    white.alpha_composite(colours)
    return white.convert("L")


def _opened(data: bytes, limits: Limits) -> Image.Image:
    try:
        picture = Image.open(BytesIO(data), formats=_FORMATS)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise PipelineError(Reason.CORRUPT, "the picture cannot be opened: it is none, or it is damaged") from None
    _refuse_large(picture, limits)
    return picture


def _refuse_large(picture: Image.Image, limits: Limits) -> None:
    pixels = picture.width * picture.height
    if pixels * _BYTES_A_PIXEL > limits.memory_bytes:
        raise PipelineError(
            Reason.MEMORY_LIMIT,
            f"the picture has {pixels} pixels, which take more than the {limits.memory_bytes} bytes of memory allowed",
        )
