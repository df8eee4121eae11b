"""Writes samples/documents and samples/expected.json: the papers of an imaginary lighthouse society.

Not part of docworker: run it after changing a sample. With the same zlib the same bytes come out.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENTS = HERE / "documents"

ONBOARDING = """\
# Welcome to the Northlight Society

This page is for everybody who joins the society as a volunteer. Read it once, then ask a keeper to walk
the stairs with you.

## Your first week

- Collect the key of the lamp room from the office, and sign for it.
- Learn the **fog signal**: one long blast, a pause, two short ones.
- Write down each ship that passes between dusk and dawn in the log book.

## If the lamp goes out

Do not climb alone. Call the keeper on duty, then light the reserve lamp on the gallery. The lighthouse must
not be dark for more than five minutes; the log book says why.
"""

TRAVEL_POLICY = """\
<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Travel policy of the Northlight Society</title>
  <style>td { padding: 0 1em }</style>
  <script>var visitors = "this is not part of the text";</script>
</head>
<body>
  <h1>Travel policy</h1>
  <p>Volunteers who travel to a lighthouse are paid what the ferry costs,&nbsp;and the
     ac&shy;com&shy;mo&shy;da&shy;tion on the island.</p>
  <table>
    <tr><th>Island</th><th>Ferry</th><th>Nights</th></tr>
    <tr><td>Great Skerry</td><td>24 €</td><td>2</td></tr>
    <tr><td>Little Skerry</td><td>31 €</td><td>3</td></tr>
  </table>
  <p>Keep the tickets. <em>No ticket, no money</em> &mdash; the treasurer is strict.</p>
</body>
</html>
"""

DISGUISED = """\
<!doctype html>
<html><head><title>Session expired</title></head>
<body><h1>Please sign in</h1>
<p>A download that went wrong: this web page was saved under the name of a PDF, and it is read as what it is.</p>
</body></html>
"""

MINUTES = """\
Minutes of the keepers' meeting

Present: Ada, Bjørn, Chloé, Dmitri.

1. The lens of the lighthouse was cleaned on Monday. It turns again without a sound, and the beam can be seen
   from the harbour.
2. The new generator is louder than the old one. Bjørn will ask for a quieter one before the winter.
3. The museum wants to show the log books from 1890 to 1914. It was decided that copies are lent, not the books.

The next meeting is on the first Tuesday of March.
"""

GERMAN_NOTE = """\
Notiz für den Leuchtturmwärter

Die Glühlampe im großen Scheinwerfer wurde am Dienstag gewechselt. Die alte Lampe ist nicht kaputt, sondern nur
trüb; sie liegt im Schrank über der Tür. Bitte prüfen Sie, ob der Dichtungsring am Gehäuse noch schließt,
und tragen Sie das Ergebnis in das Wachbuch ein.

Mit freundlichen Grüßen
Jörg Möller
"""

SPANISH_RECORD = """\
Acta de la reunión anual

La sociedad se reunió el domingo en la casa del farero. Se aprobó el presupuesto del año y se decidió que el faro
estará abierto para los niños de las escuelas cada mañana de verano. ¿Quién se encarga de la llave? La respuesta
es de todos: la llave está en la oficina, y no se presta sin una firma.
"""

REPORT_TITLE = "Annual report of the Northlight Society"
REPORT = [
    [
        REPORT_TITLE,
        "",
        "The lighthouse on Great Skerry was lit on every night of the year. The society has",
        "one hundred and twelve members, eleven more than in the year before, and most of",
        "them have climbed the tower at least once.",
    ],
    [
        "Repairs",
        "",
        "The gallery was painted in May. The lens, made in 1887, was taken out for the first",
        "time in forty years, cleaned, and put back by four keepers in a single day without",
        "wind. The old foghorn sounds again; it is heard on the mainland.",
    ],
    [
        "Money",
        "",
        "Visitors brought 18,400 and the ferry company gave 5,000. The largest expense was",
        "the generator. The treasurer proposes to keep the fee as it is.",
    ],
]
INVITATION_TITLE = "Invitation à la fête du phare"
INVITATION = [
    [
        INVITATION_TITLE,
        "",
        "Nous vous invitons à la fête du phare, qui est dans son été le plus long. Les enfants",
        "pourront monter à la lanterne avec le gardien, et une soupe est prête pour tous sur",
        "la plage. Le bac part du port à midi ; le retour est prévu pour la nuit.",
    ]
]


def main() -> None:
    """Write every sample, and what becomes of it."""
    report = pdf(REPORT, title=REPORT_TITLE)
    samples: dict[str, tuple[bytes, str, str | None]] = {
        "handbook/onboarding.md": (ONBOARDING.encode(), "processed", None),
        "handbook/travel-policy.html": (TRAVEL_POLICY.encode(), "processed", None),
        "handbook/annual-report.pdf": (report, "processed", None),
        "correspondence/inventory.docx": (inventory(), "processed", None),
        "correspondence/invitation.pdf": (pdf(INVITATION, title=INVITATION_TITLE), "processed", None),
        "correspondence/note-windows-1252.txt": (GERMAN_NOTE.encode("cp1252"), "processed", None),
        "correspondence/acta-utf-16.txt": (b"\xff\xfe" + SPANISH_RECORD.encode("utf-16-le"), "processed", None),
        "notes/minutes.txt": (MINUTES.encode(), "processed", None),
        "notes/web-page-called.pdf": (DISGUISED.encode(), "processed", None),
        "broken/encrypted.pdf": (pdf(REPORT[:1], title=REPORT_TITLE, password=b"skerry"), "failed", "encrypted"),
        "broken/truncated.pdf": (report[: len(report) * 3 // 5], "failed", "truncated"),
        "broken/not-a-zip.docx": (b"PK but nothing that a zip would hold\0\n" * 40, "failed", "corrupt"),
        "broken/cut-off.docx": (inventory()[:1500], "failed", "truncated"),
        "broken/decompression-bomb.pdf": (bomb(), "failed", "memory_limit"),
        "broken/empty.txt": (b"", "failed", "empty"),
        "broken/sound.wav": (sound(), "unsupported", "unsupported"),
    }
    for name, (data, _, _) in samples.items():
        path = DOCUMENTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    expected = {name: {"status": status, "reason": reason} for name, (_, status, reason) in samples.items()}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


# --- PDF ---------------------------------------------------------------------------------------------------


def pdf(pages: Sequence[Iterable[str]], *, title: str, password: bytes | None = None) -> bytes:
    """A PDF 1.4 file with a page for each list of lines, in Helvetica."""
    lock = _Lock(password) if password is not None else None
    kids = " ".join(f"{5 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Title <" + _locked(lock, 4, b"\xfe\xff" + title.encode("utf-16-be")).hex().encode() + b"> >>",
    ]
    for index, lines in enumerate(pages):
        content = _locked(lock, 6 + 2 * index, _page_content(lines))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> "
            + f"/Contents {6 + 2 * index} 0 R >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    if lock is not None:
        objects.append(lock.dictionary())
    return _pdf_file(objects, info=4, encrypt=len(objects) if lock else None)


def bomb() -> bytes:
    """A page whose content is two gigabytes of spaces, packed three times: less than a kilobyte on disk."""
    packer = zlib.compressobj(9)
    spaces = b" " * 2**20
    packed = b"".join([*(packer.compress(spaces) for _ in range(2000)), packer.flush()])
    content = zlib.compress(zlib.compress(packed, 9), 9)
    return _pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>",
            b"<< /Length %d /Filter [/FlateDecode /FlateDecode /FlateDecode] >>\nstream\n%s\nendstream"
            % (len(content), content),
        ]
    )


def _page_content(lines: Iterable[str]) -> bytes:
    shown = []
    for line in lines:
        escaped = line.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
        shown.append(b"(" + escaped + b") Tj T*")
    return b"BT /F1 12 Tf 16 TL 56 770 Td\n" + b"\n".join(shown) + b"\nET"


def _pdf_file(objects: Sequence[bytes], *, info: int | None = None, encrypt: int | None = None) -> bytes:
    file = io.BytesIO()
    file.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(file.tell())
        file.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = file.tell()
    file.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    file.writelines(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"/Size %d /Root 1 0 R" % (len(objects) + 1)
    if info is not None:
        trailer += b" /Info %d 0 R" % info
    if encrypt is not None:
        trailer += b" /Encrypt %d 0 R /ID [<%s> <%s>]" % (encrypt, _Lock.FILE_ID.hex().encode(), b"00" * 16)
    file.write(b"trailer\n<< %s >>\nstartxref\n%d\n%%%%EOF\n" % (trailer, start))
    return file.getvalue()


class _Lock:
    """The standard security handler of PDF 1.4, revision 2 (40-bit RC4): weak, but locked is locked."""

    FILE_ID = bytes(range(16))
    PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    PERMISSIONS = -4

    def __init__(self, password: bytes) -> None:
        padded = (password + self.PADDING)[:32]
        self.owner = _rc4(_md5(padded)[:5], padded)
        self.key = _md5(padded + self.owner + struct.pack("<i", self.PERMISSIONS) + self.FILE_ID)[:5]

    def locked(self, number: int, data: bytes) -> bytes:
        return _rc4(_md5(self.key + struct.pack("<I", number)[:3] + b"\0\0")[:10], data)

    def dictionary(self) -> bytes:
        user = _rc4(self.key, self.PADDING)
        return (
            f"<< /Filter /Standard /V 1 /R 2 /O <{self.owner.hex()}> /U <{user.hex()}> /P {self.PERMISSIONS} >>"
        ).encode()


def _locked(lock: _Lock | None, number: int, data: bytes) -> bytes:
    return data if lock is None else lock.locked(number, data)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data).digest()  # noqa: S324 -- the format asks for it


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


# --- DOCX --------------------------------------------------------------------------------------------------

NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:v="urn:schemas-microsoft-com:vml"'
)
RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"


def inventory() -> bytes:
    """A Word document with a title, a header, a footer, a table, and a text box in both its spellings."""
    body = (
        _paragraph("Inventory of the lamp room", style="Title")
        + _paragraph("This list was made by the keeper on duty and is true for the first of January.")
        + _text_box("Warning: the mercury under the lens is poisonous. Do not open the float.")
        + _table([("Thing", "Number", "Where"), ("Spare lamp", "6", "Cupboard"), ("Wick", "40", "Drawer")])
        + _paragraph("Whatever is taken from the room is written down here, and by whom.")
    )
    edges = (("header", "rId1"), ("footer", "rId2"))
    section = "".join(f'<w:{kind}Reference w:type="default" r:id="{relation}"/>' for kind, relation in edges)
    return _package(
        {
            "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{WORD}.document.main+xml"/>'
            f'<Override PartName="/word/header1.xml" ContentType="{WORD}.header+xml"/>'
            f'<Override PartName="/word/footer1.xml" ContentType="{WORD}.footer+xml"/>'
            f'<Override PartName="/word/styles.xml" ContentType="{WORD}.styles+xml"/>'
            "</Types>",
            "_rels/.rels": _relationships(("rId1", "officeDocument", "word/document.xml")),
            "word/document.xml": f"<w:document {NAMESPACES}><w:body>{body}"
            f"<w:sectPr>{section}</w:sectPr></w:body></w:document>",
            "word/_rels/document.xml.rels": _relationships(
                ("rId1", "header", "header1.xml"), ("rId2", "footer", "footer1.xml"), ("rId3", "styles", "styles.xml")
            ),
            "word/styles.xml": f'<w:styles {NAMESPACES}><w:style w:type="paragraph" w:styleId="Title">'
            '<w:name w:val="Title"/></w:style></w:styles>',
            "word/header1.xml": f"<w:hdr {NAMESPACES}>{_paragraph('Northlight Society, Great Skerry')}</w:hdr>",
            "word/footer1.xml": f"<w:ftr {NAMESPACES}>{_paragraph('Return this sheet to the office.')}</w:ftr>",
        }
    )


def _package(parts: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(entry, '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>' + content)
    return file.getvalue()


def _relationships(*relations: tuple[str, str, str]) -> str:
    inner = "".join(
        f'<Relationship Id="{name}" Type="{RELATIONSHIPS}/{kind}" Target="{target}"/>'
        for name, kind, target in relations
    )
    return f'<Relationships xmlns="{PACKAGE}/relationships">{inner}</Relationships>'


def _paragraph(text: str, *, style: str | None = None) -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def _text_box(text: str) -> str:
    content = f"<w:txbxContent>{_paragraph(text)}</w:txbxContent>"
    graphic = f"<a:graphic><a:graphicData><wps:wsp><wps:txbx>{content}</wps:txbx></wps:wsp></a:graphicData></a:graphic>"
    return (
        '<w:p><w:r><mc:AlternateContent><mc:Choice Requires="wps">'
        f"<w:drawing><wp:inline>{graphic}</wp:inline></w:drawing>"
        "</mc:Choice><mc:Fallback>"
        f"<w:pict><v:shape><v:textbox>{content}</v:textbox></v:shape></w:pict>"
        "</mc:Fallback></mc:AlternateContent></w:r></w:p>"
    )


def _table(rows: Iterable[Iterable[str]]) -> str:
    inner = "".join("<w:tr>" + "".join(f"<w:tc>{_paragraph(cell)}</w:tc>" for cell in row) + "</w:tr>" for row in rows)
    return f"<w:tbl>{inner}</w:tbl>"


# --- WAV ---------------------------------------------------------------------------------------------------


def sound() -> bytes:
    """A tenth of a second of silence."""
    silence = bytes([128]) * 800
    described = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    chunks = b"WAVE" + described + struct.pack("<4sI", b"data", len(silence)) + silence
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks


if __name__ == "__main__":
    main()
