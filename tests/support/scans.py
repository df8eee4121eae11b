"""Pictures of text: PDF files of them, as a scanner makes, and such files."""

from collections.abc import Sequence
from io import BytesIO

import pypdfium2

from samples.make_samples import pdf

_DOTS_PER_INCH = 150


def photographed(text: str) -> bytes:
    """A PNG file with a line of text."""
    page = pypdfium2.PdfDocument(pdf([[text]], title="photo"))[0]
    file = BytesIO()
    page.render(scale=_DOTS_PER_INCH / 72).to_pil().save(file, "PNG")
    return file.getvalue()


def scanned_pdf(pages: Sequence[str], *, beside: Sequence[str] = ()) -> bytes:
    """A page of text for each of `beside`, then a picture of a page for each of `pages`."""
    shown = pypdfium2.PdfDocument(pdf([[one] for one in [*beside, *pages]], title="scan"))
    scan = pypdfium2.PdfDocument.new()
    if beside:
        scan.import_pages(shown, list(range(len(beside))))
    for index in range(len(beside), len(shown)):
        width, height = shown[index].get_size()
        picture = pypdfium2.PdfImage.new(scan)
        picture.set_bitmap(shown[index].render(scale=_DOTS_PER_INCH / 72))
        picture.set_matrix(pypdfium2.PdfMatrix().scale(width, height))
        page = scan.new_page(width, height)
        page.insert_obj(picture)
        page.gen_content()
    file = BytesIO()
    scan.save(file)
    return file.getvalue()
