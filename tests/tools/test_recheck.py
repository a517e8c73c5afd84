"""What is committed of a study is small, whole, and says what the pages say."""

import bz2
import json
import shutil

import numpy as np
import pytest
from mini_study import LARGE, MiniStudy, a_whole_study, rows_with

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.runs.files import (
    write_hypotheses,
    write_json,
    write_losses,
)
from speechbrain_ext.runs.reading import load_runs, read_utterances
from speechbrain_ext.runs.result import RunResult, load_run
from speechbrain_ext.training.choose_layers import table_file
from speechllm.report import blocks, command, healing, recheck
from speechllm.report.committed import PACKED, STUDIES, Evidence
from speechllm.report.pack import main, pack, unpack, without_places

BY_NAME = {study.name: study for study in STUDIES}
MINI, TASKS = BY_NAME["mini"], BY_NAME["mini-full"]
PAPER, HEALING = BY_NAME["paper-mini"], BY_NAME["study-healing"]
WANTED = ["mini-table", "mini-runs"]
PAGE = """# A page

<!-- figures: mini-table -->
| old | table |
<!-- end -->

It has <!-- figures: mini-runs -->3<!-- end --> runs.
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three seeds of a baseline and of two depths, as a study leaves them."""
    folder = tmp_path_factory.mktemp("study") / "results"
    study = MiniStudy(folder)
    places = {
        "baseline": f"{folder}/mini-qwen2--ASR-s1",
        "data_folder": str(folder / "data" / "LibriSpeech"),
        "prompt": "{speech}\ntranscribe: {target}",
        "steps": 0.1,
    }
    study.run(LARGE, 4)
    study.run(LARGE, 5, 2, "both", configuration=places)
    study.run(LARGE, 9, 4, "both", configuration=places)
    study.run(LARGE, 30, 4, "none", configuration=places)
    error = f"cannot read {folder}/a.flac (try {folder}/b)"
    study.run(LARGE, 9, 6, "both", status="failed", error=error)
    study.table(LARGE, "speech")
    study.table(LARGE, "text", 0.001)
    for place, run in enumerate(load_runs(folder).done):
        rng = np.random.default_rng(place)
        rows = [
            {"id": f"v{i}", "loss": float(loss), "tokens": 10 + i % 3}
            for i, loss in enumerate(rng.exponential(size=40))
        ]
        lost = sum(row["loss"] for row in rows)
        tokens = sum(row["tokens"] for row in rows)
        run.validation = {"final_loss": lost / tokens}
        run.save(folder / run.name)
        write_losses(folder / run.name, rows)
    runs = [
        {"name": name, "kind": "healed", "made": "1a", "command": [str(folder)]}
        for name in ("gone", load_runs(folder).done[0].name)
    ]
    write_json(folder / "plan.json", {"report": "runs", "runs": runs})
    noted = {"status": "failed", "error": f"{folder}/x is not there"}
    (folder / "graph" / "healed").mkdir(parents=True)
    write_json(folder / "graph" / "healed" / "gone.1a.json", noted)
    return folder


@pytest.fixture(scope="module")
def packed(results):
    """The study in one file."""
    file = results.parent / PACKED
    assert pack(results, file) == 15
    return file


@pytest.fixture
def unpacked(packed, tmp_path):
    """The study as it was, but for places."""
    unpack(packed, tmp_path / "unpacked")
    return tmp_path / "unpacked"


def test_answers_losses_and_tables_come_back_to_the_last_byte(
    results, unpacked
):
    kinds = ("hypotheses-*.jsonl", "losses-valid.jsonl", "redundancy-*.json")
    files = [file for kind in kinds for file in results.rglob(kind)]
    assert len(files) == 12 * 3 + 6
    for file in files:
        again = unpacked / file.relative_to(results)
        assert again.read_bytes() == file.read_bytes()


def test_a_result_loses_places_and_nothing_else(results, unpacked):
    for run in load_runs(results).all:
        again = load_run(unpacked / run.name)
        assert again.configuration == without_places(run.configuration)
        again.configuration, again.error = run.configuration, run.error
        assert again == run


def test_no_place_on_a_machine_is_packed(results, packed, unpacked):
    text = bz2.decompress(packed.read_bytes()).decode()
    assert str(results) not in text and str(results.parent) not in text
    run = load_run(unpacked / "mini-qwen2--ASR-s1-n2-both-speech")
    assert run.configuration["baseline"] == "mini-qwen2--ASR-s1"
    assert run.configuration["prompt"] == "{speech}\ntranscribe: {target}"
    failed = load_run(unpacked / "mini-qwen2--ASR-s1-n6-both-speech")
    assert failed.error == "cannot read a.flac (try b)"


@pytest.mark.parametrize(
    "told, cut",
    [
        ("/home/jo/my data/x", "x"),
        ("~/runs/mini", "mini"),
        (r"C:\Users\jo\mini", "mini"),
        (r"no C:\Users\jo\mini here", "no mini here"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("recipes/ASR/train.py", "recipes/ASR/train.py"),
        ("and/or 1/2 n/a", "and/or 1/2 n/a"),
        ("/", "/"),
    ],
)
def test_a_place_is_cut_to_its_last_part(told, cut):
    assert without_places([told]) == [cut]


def test_equal_results_give_equal_bytes(packed, unpacked, tmp_path):
    pack(unpacked, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == packed.read_bytes()


def test_what_repeats_is_packed_once(tmp_path):
    """Thirty runs of 400 utterances that differ in few answers."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(500)]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(400)]
    for run in range(30):
        folder = tmp_path / "runs" / f"run-{run}"
        write_json(folder_of(folder) / "result.json", {"name": f"run-{run}"})
        rows = [
            {
                "id": f"u{i}",
                "reference": text,
                "hypothesis": text.rpartition(" ")[0]
                if (i + run // 3) % 7 == 0
                else text,
                "speaker": f"s{i % 40}",
            }
            for i, text in enumerate(texts)
        ]
        write_hypotheses(folder, "test", rows)
    pack(tmp_path, tmp_path / "packed")
    whole = sum(f.stat().st_size for f in tmp_path.rglob("*.jsonl"))
    # Of these, 6,000 are for the words of the 400 references themselves.
    assert whole > 1_500_000 > 100 * (tmp_path / "packed").stat().st_size


def folder_of(path):
    path.mkdir(parents=True)
    return path


def test_odd_rows_are_packed_as_they_are(tmp_path):
    rows = {
        "a": [{"id": "1", "hypothesis": "x"}, {"id": "2", "errors": 1}],
        "b": [
            {"id": "1", "hypothesis": "x"},
            {"id": "3", "hypothesis": "é|\\"},
        ],
        "c": [],
        "d": [{"id": "1", "hypothesis": 1}, {"id": "3", "hypothesis": True}],
        "e": [{"id": "1", "hypothesis": 1.0}, {"id": "3", "hypothesis": None}],
    }
    for name, own in rows.items():
        folder = folder_of(tmp_path / "runs" / name)
        write_json(folder / "result.json", {"name": name})
        write_hypotheses(folder, "test", own)
    spaced = '{"id":"1", "hypothesis": "x"}\n'
    (tmp_path / "runs" / "a" / "hypotheses-ood.jsonl").write_text(spaced)
    pack(tmp_path, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "again")
    for file in (tmp_path / "runs").rglob("*.jsonl"):
        again = tmp_path / "again" / file.relative_to(tmp_path)
        assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "a/../../x", "C:x"])
def test_a_packed_file_writes_nothing_outside(name, packed, tmp_path):
    content = json.loads(bz2.decompress(packed.read_bytes()))
    content["json"] = {name: {}}
    file = tmp_path / "bad"
    file.write_bytes(bz2.compress(json.dumps(content).encode()))
    with pytest.raises(ValueError, match="outside"):
        unpack(file, tmp_path / "inside")
    assert not (tmp_path / "x.json").exists()


def test_what_is_not_packed_results_is_named(tmp_path, capsys):
    (tmp_path / "text").write_text("text")
    assert main([str(tmp_path / "text"), "--unpack", str(tmp_path)]) == 2
    assert "text: no packed results" in capsys.readouterr().err
    assert main([str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert "no result.json" in capsys.readouterr().err
    (folder_of(tmp_path / "run") / "result.json").write_text("{")
    assert main([str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert "run/result.json: not whole JSON" in capsys.readouterr().err


def made(command, runs, output):
    """The texts of a report."""
    assert command([str(runs), "--output", str(output)]) in (0, 1)
    return {
        file.name: file.read_bytes()
        for file in output.iterdir()
        if file.suffix in (".md", ".json", ".html")
    }


@pytest.mark.parametrize("of", [command, healing])
def test_a_report_of_the_unpacked_runs_is_the_same(
    of, results, unpacked, tmp_path
):
    found = made(of.main, results, tmp_path / "one")
    again = made(of.main, unpacked, tmp_path / "other")
    assert {"summary.json"} <= found.keys()
    for file in ("report.md", "table.md", "summary.json"):
        told = found.get(file, b"").decode().replace(f"{results}/", "")
        assert told == again.get(file, b"").decode()


# ----------------------------------------------------------------------------
# Comparing


@pytest.fixture(scope="module")
def written(packed, tmp_path_factory):
    """A repository with the study, its files and a page, all up to date."""
    root = tmp_path_factory.mktemp("root")
    shutil.copy(packed, folder_of(root / MINI.folder))
    (root / "README.md").write_text(PAGE)
    told = recheck.recheck(MINI, root, WANTED, write=True)
    page = recheck.check_page(root / "README.md", root, told.blocks, True)
    assert not told.differs and not page.differs
    return root


@pytest.fixture(scope="module")
def evidence(written, tmp_path_factory):
    """Its runs, and its report, made once."""
    found = Evidence(MINI, written, tmp_path_factory.mktemp("evidence"))
    found.files, fault = found.made()
    assert not fault
    return found


@pytest.fixture
def root(written, tmp_path):
    """A copy, to be tampered with."""
    shutil.copytree(written, tmp_path / "root")
    return tmp_path / "root"


def differing_files(root, evidence):
    """What is told of the committed files."""
    return recheck.compared(MINI, MINI.files(root), evidence.files)


def differing_figures(root, evidence):
    """What is told of the page."""
    figures = {name: blocks.made(name, evidence) for name in WANTED}
    page = root / "README.md"
    return recheck.check_page(page, root, figures, False).differs


def test_nothing_differs_where_nothing_was_changed(root, evidence):
    assert list(recheck.rescored(evidence)) == []
    assert differing_files(root, evidence) == []
    assert differing_figures(root, evidence) == []


def test_a_page_holds_the_figures_of_the_runs(root, results):
    text = (root / "README.md").read_text()
    assert "It has <!-- figures: mini-runs -->12<!-- end --> runs." in text
    assert "| old | table |" not in text
    wers = [
        run.scores["test-clean"].value
        for run in load_runs(results).done
        if run.healing == "none" and run.removed
    ]
    (row,) = [line for line in text.split("\n") if " none " in line]
    assert row.split("|")[3].split()[0] == f"{sum(wers) / 3:.2f}"


def test_a_short_table_is_a_part_of_the_whole_one(evidence):
    whole, short = (
        [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in blocks.made(f"mini-{name}", evidence).split("\n")
        ]
        for name in ("table", "short")
    )
    # A row for each depth, a column for each healing, of the first set.
    shown = {
        (row[0], head): cell
        for row in short[2:]
        for head, cell in zip(blocks.SHORT, row[1:], strict=True)
    }
    for depth, way, score, *_ in whole[2:]:
        if depth.isdecimal():
            assert shown.pop((depth, way or "none")) == score
    assert set(shown.values()) <= {""}


def rescored(root, tmp_path, change):
    """What is told of a study whose files were changed and packed again."""
    file = root / MINI.folder / PACKED
    unpack(file, tmp_path / "runs")
    change(tmp_path / "runs")
    pack(tmp_path / "runs", file)
    return list(recheck.rescored(Evidence(MINI, root, tmp_path)))


def of_one_answer(change):
    """A change to one row of a run."""

    def changed(runs):
        folder = runs / "mini-qwen2--ASR-s2-n4-both-speech"
        rows = read_utterances(folder / "hypotheses-test-other.jsonl")
        change(rows[7])
        write_hypotheses(folder, "test-other", rows)

    return changed


WHERE = "mini-qwen2--ASR-s2-n4-both-speech, test-other"


def test_a_changed_answer_is_found(root, tmp_path):
    def longer(row):
        row["hypothesis"] += " teal"

    told = rescored(root, tmp_path, of_one_answer(longer))
    assert any(one.startswith(f"{WHERE}, value: ") for one in told)
    assert any(one.startswith(f"{WHERE}, interval, 0: ") for one in told)


def test_a_changed_count_of_one_utterance_is_found(root, tmp_path):
    def fewer(row):
        row["errors"] += 1

    (one,) = rescored(root, tmp_path, of_one_answer(fewer))
    assert one.startswith(f"{WHERE}, u7, errors: ")


def test_a_changed_loss_or_a_lost_file_is_found(root, tmp_path):
    def change(runs):
        folder = runs / "mini-qwen2--ASR-s1"
        rows = read_utterances(folder / "losses-valid.jsonl")
        rows[0]["loss"] *= 1 + 1e-6
        write_losses(folder, rows)
        (folder / "hypotheses-test-clean.jsonl").unlink()

    found = rescored(root, tmp_path, change)
    assert len(found) == 2
    assert found[0] == "mini-qwen2--ASR-s1: no hypotheses of test-clean"
    assert found[1].startswith("mini-qwen2--ASR-s1, loss: ")


def test_a_changed_figure_of_a_file_is_found(root, evidence):
    folder = root / MINI.folder
    summary = json.loads((folder / "summary.json").read_text())
    value = summary[0]["scores"]["test-clean"]["value"]
    summary[0]["scores"]["test-clean"]["value"] = value + 1e-6
    (folder / "summary.json").write_text(json.dumps(summary))
    (one,) = differing_files(root, evidence)
    name = summary[0]["name"]
    where = f"summary.json, {name}, scores, test-clean, value"
    assert one == f"{where}: {value + 1e-6} is committed, {value} is right"
    # The last bits of a sum are another machine's, and no difference.
    summary[0]["scores"]["test-clean"]["value"] = value + 1e-14
    (folder / "summary.json").write_text(json.dumps(summary))
    assert differing_files(root, evidence) == []


def test_a_changed_line_of_a_file_is_found(root, evidence):
    file = root / MINI.folder / "table.md"
    assert " 12 " in file.read_text()
    file.write_text(file.read_text().replace(" 12 ", " 13 ", 1))
    (one,) = differing_files(root, evidence)
    assert one.startswith("table.md, line ") and " 13 " in one


def test_a_file_too_few_or_no_picture_is_found(root, evidence, tmp_path):
    (root / MINI.folder / "table.md").unlink()
    told = ["table.md: is not committed"]
    assert differing_files(root, evidence) == told
    (tmp_path / "curves.png").write_text("no")
    files = evidence.files | {"curves.png": tmp_path / "curves.png"}
    del files["heatmap.png"]
    assert recheck.compared(MINI, MINI.files(root), files) == [
        "curves.png: is not drawn",
        "heatmap.png: the report no longer makes it",
        *told,
    ]


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("-->12<!--", "-->13<!--", "mini-runs, line 1: 13 is committed"),
        ("| both ", "| boht ", "boht"),
        ("figures: mini-runs", "figures: mini-rums", "no such figures"),
        ("figures: mini-runs", "figures: paper-mini-runs", "no packed runs"),
        (" runs.", " runs, 1.5 [1.02, 2.00].", "'1.5 [1.02, 2.00]': a study"),
        (" runs.", " runs, WER 1.54.", "'1.54': a study"),
        (" runs.", " runs, 31 % worse.", "'31 %': a study"),
        ("12<!-- end -->", "12", "the other one is missing"),
        ("# A page", "# A page <!-- end -->", "the other one is missing"),
        (
            "<!-- end -->",
            "<!-- figures: mini-seeds -->3<!-- end -->",
            "no end before",
        ),
    ],
)
def test_a_changed_page_is_found(root, evidence, old, new, told):
    page = root / "README.md"
    assert old in page.read_text()
    page.write_text(page.read_text().replace(old, new, 1))
    found = differing_figures(root, evidence)
    assert any(told in one for one in found), found


def test_what_is_no_study_s_may_stand_in_a_page(root, evidence):
    page = root / "README.md"
    page.write_text(
        page.read_text().replace(
            " runs.",
            " runs at 95 %, a limit of 0.25, arXiv 2603.05121, `x[0, 1]`.\n\n"
            "```\nrun 0.42 50 %\n```\n\n## No figures\n\nPython 3.12, 31 %.",
        )
    )
    assert differing_figures(root, evidence) == []


def test_all_of_a_study_s_own_page_is_looked_at(root):
    page = root / MINI.folder / "README.md"
    page.write_text("# A page\n\nIt lost 31 % here.\n\n## More\n\nWER 1.54.\n")
    told = recheck.check_page(page, root, {}, False).differs
    assert [one.split(": a study")[0] for one in told] == [
        "line 3: '31 %'",
        "line 7: '1.54'",
    ]


def test_a_study_without_packed_runs_fails(root):
    (root / MINI.folder / PACKED).unlink()
    told = recheck.recheck(MINI, root, WANTED)
    assert told.differs == ["no packed runs: not rechecked"]
    page = recheck.check_page(root / "README.md", root, told.blocks, False)
    assert len(page.differs) == 2
    assert all("not rechecked" in one for one in page.differs)
    # A study of which nothing is committed is not missed.
    assert recheck.recheck(HEALING, root, []).differs == []


def test_a_packed_file_that_is_broken_is_named(root):
    (root / MINI.folder / PACKED).write_bytes(b"no")
    (one,) = recheck.recheck(MINI, root, WANTED).differs
    assert "no packed results" in one


def updated(study, results, root, names):
    """Pack a study, write its files and a page; the page, and what differs."""
    pack(results, folder_of(root / study.folder) / PACKED)
    marks = "".join(f"<!-- figures: {n} -->\n<!-- end -->\n\n" for n in names)
    (root / "README.md").write_text(f"# A page\n\n{marks}")
    told = recheck.recheck(study, root, names, write=True)
    page = recheck.check_page(root / "README.md", root, told.blocks, True)
    again = recheck.recheck(study, root, names)
    beside = recheck.check_page(root / "README.md", root, again.blocks, False)
    differs = told.differs + page.differs + again.differs + beside.differs
    return (root / "README.md").read_text(), differs


@pytest.mark.slow
def test_the_whole_paper_is_written_and_compared(tmp_path):
    a_whole_study(tmp_path / "results" / "runs")
    what = "claims table degradation chance runs seeds minutes".split()
    names = [f"paper-mini-{one}" for one in what]
    page, differs = updated(PAPER, tmp_path / "results", tmp_path, names)
    assert differs == []
    assert "| 1. Text and speech give the same redundant blocks " in page
    assert "| mini-qwen2 + LoRA | 4 " in page
    assert (tmp_path / PAPER.folder / "figure2.png").is_file()


@pytest.mark.slow
def test_a_healing_study_is_written_and_compared(results, tmp_path):
    names = ["study-healing-best", "study-healing-ratios"]
    page, differs = updated(HEALING, results, tmp_path, names)
    assert differs == []
    assert "| mini-qwen2, ASR | 4 of 12 " in page
    assert (tmp_path / HEALING.folder / "frontier-100.png").is_file()


@pytest.mark.slow
def test_tasks_are_written_and_compared(tmp_path):
    results = tmp_path / "results"
    distances = np.full((12, 12), np.nan)
    for size, first in np.ndindex(12, 12):
        if first + size < 12:
            distances[size, first] = 0.1 + 0.01 * abs(first - 3)
    for name, task in (("mini", "ASR"), ("mini_en_de", "AST en-de")):
        for run, removed in ((name, 0), (f"{name}-prune2", 2)):
            one = RunResult(run, "mini-qwen2", task=task, layers=12, seed=1)
            one.removed, one.start = removed, 3 if removed else None
            one.healing, one.status = "both" if removed else "none", "done"
            one.path = {"from": "speech"} if removed else None
            score, rows = rows_with(5 + removed, 1, task != "ASR")
            one.scores = {"test": score}
            one.save(results / run)
            write_hypotheses(results / run, "test", rows)
        table = RedundancyTable(
            distances, 0 * distances, 3, {"task": task, "input": "speech"}
        )
        table.save(table_file(str(results / name), "speech"))
    part = {"projector": 2**20, "adapter": 2**19}
    memory = {"tasks": {"a": part}, "together": 2**23, "separately": 2**24}
    score = {"metric": "WER", "value": 1.25}
    content = {"scores": {"a": score}, "checks": {}, "memory": memory}
    write_json(folder_of(results / "multitask") / "multitask.json", content)
    what = "translation distances multitask table".split()
    names = [f"mini-full-{one}" for one in what]
    page, differs = updated(TASKS, results, tmp_path, names)
    assert differs == []
    assert "## " not in page and "| En-De " in page and "8.00 MiB tog" in page
    files = {file.name for file in (tmp_path / TASKS.folder).iterdir()}
    assert {"tasks.md", "multitask.json"} <= files
    assert "tables-mini-mini_en_de.json" in files


@pytest.mark.slow
def test_the_command_says_what_differs(root, capsys):
    page = root / "README.md"
    page.write_text(page.read_text().replace("-->12<!--", "-->13<!--"))
    assert recheck.main(["--root", str(root)]) == 1
    told = capsys.readouterr().out
    assert "mini: 15 runs, 24 sets scored again" in told
    assert "Differ: README.md\n" in told
    assert recheck.main(["--root", str(root), "--write"]) == 0
    assert "-->12<!--" in page.read_text()


def test_the_pages_ask_for_figures_that_there_are():
    for page in recheck.pages(recheck.ROOT):
        found, _ = blocks.read(page.read_text(encoding="utf-8"))
        assert [why for name, _ in found if (why := blocks.unknown(name))] == []


def test_what_is_committed_is_small_and_of_no_machine():
    files = [study.packed(recheck.ROOT) for study in STUDIES]
    files = [file for file in files if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 5_000_000
    for file in files:
        told = json.loads(bz2.decompress(file.read_bytes()))["json"]
        assert without_places(told) == told


def test_the_benchmarks_figures_stand_in_pages(root):
    shutil.copytree(recheck.ROOT / "benchmarks", root / "benchmarks")
    figures = recheck.measured_figures(root)
    assert set(figures) == set(blocks.BENCHMARKS)
    page = root / "README.md"
    names = blocks.BENCHMARKS
    lines = [f"<!-- figures: {name} -->\nx\n<!-- end -->" for name in names]
    page.write_text("\n".join(["## Speed", *lines]))
    assert recheck.check_page(page, root, figures, False).differs
    assert recheck.check_page(page, root, figures, True).differs == []
    # It is of the results, and not of a page.
    (file,) = (root / "benchmarks/results").glob("2-core*")
    told = json.loads(file.read_text())
    rows = told["rows"]["redundancy_table"]["rows"]
    (one,) = (row for row in rows if "PruneMe" in row["name"])
    assert f"| {one['ratio']:.2g} times as fast |" in page.read_text()
    one["ratio"] = 31
    file.write_text(json.dumps(told))
    again = recheck.measured_figures(root)
    (differs,) = recheck.check_page(page, root, again, False).differs
    assert "31 times as fast" in differs


def test_the_benchmarks_page_is_made_from_their_results(root):
    shutil.copytree(recheck.ROOT / "benchmarks", root / "benchmarks")
    assert recheck.check_benchmarks(root).differs == []
    page = root / "benchmarks" / "README.md"
    page.write_text(page.read_text().replace("minutes in all", "hours in all"))
    (one,) = recheck.check_benchmarks(root).differs
    assert "hours in all" in one
