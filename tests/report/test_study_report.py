"""The report of a study stands on its own and has every item; exports are alike and overwrite nothing."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from made_study import made_study
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.report.charts import apply_theme, png, svg
from mnemoscope.report.charts.study import CHARTS
from mnemoscope.report.export import export
from mnemoscope.report.pages import code_markup
from mnemoscope.report.study_html import render_report, study_findings, write_report
from mnemoscope.study.items import ITEMS
from mnemoscope.study.results import Study
from pictures import inside

FORMS = ("csv", "parquet", "tex")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.open(made_study(tmp_path_factory.mktemp("made") / "study", model="<b>/gpt2-large"))


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return render_report(study)


def test_has_every_item_with_its_words_table_chart_and_data(page: str, study: Study) -> None:
    link = re.search(r'download="tables.zip" href="data:application/zip;base64,([^"]*)"', page)
    assert link is not None
    files = zipfile.ZipFile(io.BytesIO(base64.b64decode(link[1])))
    for item in ITEMS:
        section = re.search(rf'<h2 id="item-{item.number}">.*?</section>', page, re.DOTALL)
        assert section is not None, item.title
        text = section[0]
        assert code_markup(item.shows) in text
        assert f"<b>This does not</b> {code_markup(item.does_not)}" in text
        assert text.count("<svg") == len(item.tables)
        for shown in item.tables:
            data = files.read(f"{item.number:02d}_{shown.name}.csv")
            assert len(pd.read_csv(io.BytesIO(data))) == len(shown.of(study))


def test_findings_are_of_the_tables(page: str, study: Study) -> None:
    tables = {shown.name: shown.of(study) for item in ITEMS for shown in item.tables}
    sentences = study_findings(tables)
    assert all(escape(sentence) in page for sentence in sentences)
    assert sentences[0] == "The model knows 5 of 6 prompts; 5 facts of 2 relations are measured."
    zeroed = tables["value_zeroed"].iloc[0]
    assert f"falls by {zeroed['mrr_drop_percent']:.3g} %" in " ".join(sentences)


def test_no_text_of_a_chart_leaves_its_picture(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == sum(len(item.tables) for item in ITEMS)
    for picture in pictures:
        inside(picture)


def test_fetches_and_runs_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe|base|form|object)\b", page)
    assert not re.search(r"https?:|\bsrc=|\bon\w+=|\bstyle=|@import", page)
    addresses = set(re.findall(r'href="([^"]{0,24})', page))
    assert all(address.startswith(("#item-", "data:application/")) for address in addresses)
    own = page.replace("url(#hatch)", "")  # of the page for one prompt, whose style this shares
    assert set(re.findall(r"url\(([^)]*)\)", own)) <= {
        f"#{name}" for name in re.findall(r'id="([^"]*)"', page)
    }


def test_obeys_no_text_of_the_study(page: str) -> None:
    assert "<b>/gpt2" not in page
    assert "&lt;b&gt;/gpt2-large" in page
    assert "<script" not in page


def test_ids_are_of_one_element(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_an_unfinished_study_says_so(tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemoscope.report.study_html.ITEMS", ITEMS[:1])
    assert "unfinished" not in page
    study = Study.open(made_study(tmp_path / "study", leave_out=("sums",)))
    path = write_report(study, tmp_path / "report.html")
    assert "The study is unfinished: the sums of all neurons are not all there." in path.read_text()
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["report.html"]


def test_a_study_without_lists_of_neurons_has_a_report(tmp_path: Path) -> None:
    study = Study.open(made_study(tmp_path / "study", leave_out=("value_neurons", "query_neurons")))
    assert "Number of a fact" in render_report(study)


def test_the_paper_s_numbers_stand_beside_its_model_s(page: str) -> None:
    assert page.count("The paper's numbers for this model") == 5


def test_refuses_other_names(study: Study, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.html"):
        write_report(study, tmp_path / "report.pdf")


def test_the_same_chart_is_the_same_file(study: Study) -> None:
    shown = next(shown for item in ITEMS for shown in item.tables if shown.name == "overlap")
    chart = apply_theme(CHARTS["overlap"](shown.of(study)), "a <title>", "b & c")
    first = svg(chart.to_dict(), "overlap")
    assert 'id="overlap_0"' in first
    ET.fromstring(first)
    assert svg(chart.to_dict(), "overlap") == first
    assert png(chart)[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_table_has_a_chart() -> None:
    assert set(CHARTS) == {shown.name for item in ITEMS for shown in item.tables}


def test_exports_the_same_bytes_again(study: Study, tmp_path: Path) -> None:
    # The same rows in the same shards, written in another process and folder, as a resumed study does.
    other = Study.open(made_study(tmp_path / "study", model="<b>/gpt2-large"))
    folders = [export(study, tmp_path / "a", FORMS), export(other, tmp_path / "b", FORMS)]
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second
    n_tables = sum(len(item.tables) for item in ITEMS)
    assert len(first) == len(FORMS) * n_tables + 2
    assert first["01_methods.csv"].startswith(
        b"relation,method,title,n_facts,n_neurons,mrr,mrr_low,mrr_high,"
    )
    table = pd.read_parquet(io.BytesIO(first["11_readings.parquet"]))
    assert list(table["promotes"][0]) == [" Tokyo", "\n", "<b>"]
    assert "␣Tokyo ⏎ <b>".encode() in first["11_readings.csv"]
    assert rb"n\_facts" in first["11_readings.tex"]
    assert json.loads(first["editing.json"])["relations"]["capital"]["heads"] == [[1, 0]]


def test_exports_charts(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemoscope.report.export.ITEMS", ITEMS[1:2])
    folder = export(study, tmp_path / "out", ("svg", "png"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "01_methods.png",
        "01_methods.svg",
        "about.json",
        "editing.json",
    ]


def test_overwrites_nothing_but_its_own_export(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="something else"):
        export(study, folder, ("csv",))
    (folder / "thesis.tex").rename(folder / "01_methods.csv")
    with pytest.raises(OutputError, match="something else"):
        export(study, folder, ("csv",))
    assert (folder / "01_methods.csv").read_text() == "years of work"
    (folder / "01_methods.csv").unlink()
    export(study, folder, ("csv",))
    export(study, folder, ("csv",))
    with pytest.raises(OutputError, match="an export of another study"):
        export(Study.open(made_study(tmp_path / "other")), folder, ("csv",))
    with pytest.raises(OptionError, match="no format 'pdf'"):
        export(study, tmp_path / "new", ("pdf",))
    with pytest.raises(OutputError, match="create the folder"):
        export(study, tmp_path / "no" / "where", ("csv",))
    assert not (tmp_path / "new").exists()
