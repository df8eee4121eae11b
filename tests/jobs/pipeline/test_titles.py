"""What a text is called: words, and no markup."""

import pytest

from docworker.jobs.pipeline.media_types import TEXT
from docworker.jobs.pipeline.titles import title_of


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (".. SPDX-License-Identifier: GPL-2.0\n\n=========\nThe lamps\n=========\n", "The lamps"),
        (".. include:: <isonum.txt>\n.. meta::\n   :keywords: oil\n\n:orphan:\n\nThe lamps\n", "The lamps"),
        ("#\n# 0\n\nWhat this is for\n", "What this is for"),
        ("/***********\n *** NEWS ***\n", "NEWS"),
        ("---\ntitle: The lamps\n---\n\nAbout oil.", "The lamps"),
        ("=head1 NAME\n\nlamp - burns oil\n\n=cut", "lamp - burns oil"),
        ("#+TITLE: The lamps\n* Oil", "The lamps"),
        ('.\\" a comment\n.TH LAMP 1\n.SH NAME\nlamp \\- burns \\fBoil\\fP', "lamp - burns oil"),
        (
            ".de1 mark\nds -- \\(*W-\n..\n.TH LAMP 1\n.ss 0\n\\1\n.SH NOM\nl\\*(Aqusage \\(`a br\\(^uler",
            "l'usage à brûler",
        ),
        (".Dd June 1\n.Dt LAMP 1\n.Sh NAME\n.Nm lamp ,\n.Nm lantern\n.Nd burn oil\n", "lamp - burn oil"),
        ("Format: https://example.org/format/1.0\nUpstream-Name: lamp", "lamp"),
        ("From: Ada\n <ada@example.org>\nSubject: The lamps\nDate: today\n\nDear Ben,", "The lamps"),
        ("Present: Ada, Ben\nDate: today\n\nThe lamps", "Present: Ada, Ben"),
        ("$Id: lamp,v 1.3$\n@(#)lamp 5.1\nThe lamps\n", "The lamps"),
        ("#\n# /etc/lamp.rc: how it burns\n", "/etc/lamp.rc: how it burns"),
        ("-- 3 --\n灯台\n", "灯台"),
        ("0\n", "0"),
    ],
)
def test_title_of_a_text_is_its_first_line_of_words(text: str, title: str) -> None:
    assert title_of(text, TEXT) == title


@pytest.mark.parametrize(
    ("filename", "text", "title"),
    [
        ("lamps.rst", "About oil.\n\nThe :mod:`lamps`\n================\n", "The lamps"),
        ("lamp.py", '#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nr"""The lamp."""\n', "The lamp."),
        ("lamp.py", "import oil  # and more\n\nburn = 1\n", "lamp.py"),
        ("lamp", "#!/bin/sh\n# Light it.\n", "Light it."),
        ("lamp.py", "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n# too far down\n", "lamp.py"),
        ("lamp.h", "// SPDX-License-Identifier: MIT\n#ifndef LAMP\n/*\n * How it burns.\n */\n", "How it burns."),
        (
            "lamp.h",
            "/* Copyright the keepers.\n *\n * No warranty.\n */\n\n// -*- C -*-\n// How it burns.",
            "How it burns.",
        ),
        ("lamp.c", "#include <oil.h>\nint burn;\n", "lamp.c"),
        ("lamp.sql", "-- How it burns\nSELECT 1;", "How it burns"),
        ("lamp.conf", "# ----\n# How it burns\n# ----\noil = 1\n", "How it burns"),
        ("lamp.ini", "[oil]\nburns = true", "lamp.ini"),
        ("lamp", "[Unit]\nDescription=Lamp", "lamp"),
        ("lamp.tex", "% !TEX root\n\\title[L]{The \\emph{lamp} \\\\ of~glass}\n\\begin{document}", "The lamp of glass"),
        ("lamp.bib", "@book{lamp,\n title = {Lamps}}", "lamp.bib"),
        ("lamp.xml", "<?xml version='1.0'?>\n<book><title>Lamps &amp; oil</title></book>", "Lamps & oil"),
        ("lamp.xml", "<?xml version='1.0'?>\n<!-- How it\n burns -->\n<lamp/>", "How it"),
        ("lamp", "<?xml version='1.0'?>\n<lamp>on</lamp>", "lamp"),
        ("lamp.json", '{"lamp": "on"}', "lamp.json"),
        ("lamp", '{"lamp": "on"}', "lamp"),
        ("lamp.pem", "-----BEGIN CERTIFICATE-----\nabcd\n", "lamp.pem"),
        ("lamp.cmake", "#[=======[.rst:\nLamp\n----\n#]=======]\n", "lamp.cmake"),
        ("lamps.csv", "name,oil\nSkerry,6\n", "lamps.csv"),
        ("lamp.log", "2026-01-01 lit the lamp\n", "lamp.log"),
        ("numbers.txt", "12\n34\n{\n", "numbers.txt"),
        ("copyright", "Format: https://example.org/format/1.0\n\nFiles: *\nLicense: MIT\n", "copyright"),
        ("lamp.bat", "@echo off\nrem lights it\n", "lamp.bat"),
        ("lamp.cocci", "@@\ntype T;\nexpression E;\n@@\n", "lamp.cocci"),
    ],
)
def test_source_files_and_data_are_called_by_their_title_or_comment_else_like_the_file(
    filename: str, text: str, title: str
) -> None:
    assert title_of(text, TEXT, filename) == title
