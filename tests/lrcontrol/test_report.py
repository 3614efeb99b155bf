"""The report without a browser: what the page holds, which text it is made of, and the command line."""

import html
import io
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from rich.console import Console
from studies import study

import lrcontrol
from lrcontrol.envs import InputError, Smoothing
from lrcontrol.report import write_report
from lrcontrol.report_cli import main
from lrcontrol.report_data import pack, page_data, unpack
from lrcontrol.report_html import ASSETS, page_of
from lrcontrol.report_study import combine, differing, facts, load_all, rerun
from lrcontrol.report_text import brief, latex_page, markdown_page
from lrcontrol.standings import standings
from lrcontrol.tables import standings_tables

ONE, TWO = ("a", "sgd"), ("b", "adamw")
EVIL = '</script><img src=x onerror="alert(1)">&amp;'


def small(steps=30, agents=("constant", "other"), seed=0, **manifest):
    random = np.random.default_rng(seed)
    losses = {pair: {name: random.uniform(0.1, 1.0, (2, 3)) for name in agents} for pair in (ONE, TWO)}
    traces = {pair: {name: random.uniform(0.1, 1.0, (2, 3, steps)) for name in agents} for pair in (ONE, TWO)}
    return study(losses, traces=traces if steps else None, **manifest)


def page_and_data(path):
    text = path.read_text(encoding="utf-8")
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_packed_series_come_back_to_a_tenth_of_a_percent():
    values = np.concatenate([np.geomspace(1e-13, 1e13, 999), [0.0, -1.0, np.nan, np.inf]])
    back = unpack(pack(values))
    np.testing.assert_allclose(back[:999], values[:999], rtol=1e-3)
    assert np.isnan(back[999:]).all()


def test_traces_are_quantiles_over_runs_of_binned_steps():
    steps, runs = 400, 5
    loss = np.exp(np.arange(runs))[:, None] * np.ones((1, runs, steps))  # run i stays at exp(i)
    results = study({ONE: {"x": np.exp(np.arange(runs))[None]}}, traces={ONE: {"x": loss}})
    data = page_data(results, standings(results))
    ends, trace = data["bins"][steps], data["pairs"][0]["agents"][0]["trace"]
    assert (len(ends), ends[0], ends[-1], trace["steps"]) == (160, 1, 400, 400)
    low, middle, high = (unpack(data["pool"][number]) for number in trace["loss"][0])
    for found, quantile in ((low, 0.1), (middle, 0.5), (high, 0.9)):
        np.testing.assert_allclose(found, np.quantile(np.exp(np.arange(runs)), quantile), rtol=1e-3)
    rate = unpack(data["pool"][trace["lr"][0][1]])
    np.testing.assert_allclose(rate[:15], 0.5 ** (np.array(ends[:15]) - 1.0), rtol=1e-3)  # the last step of each bin
    assert len(set(trace["lr"][0])) == 1  # equal series are kept once


def test_a_page_holds_its_tables_without_a_script_and_the_numbers_of_the_standings(tmp_path):
    results = small()
    write_report({"x": results}, tmp_path / "new/report.html")
    text, data = page_and_data(tmp_path / "new/report.html")
    for row in standings(results).rows.to_pylist():
        assert f'data-value="{row["ratio"]!r}"' in text
        assert f'data-value="{row["area"]!r}"' in text
    assert data["agents"] == [row["agent"] for row in standings(results).overall.to_pylist()]
    assert [(pair["task"], pair["optimizer"]) for pair in data["pairs"]] == [ONE, TWO]
    assert "No run failed" in text
    assert "Test data selected nothing" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_same_results_make_the_same_bytes(tmp_path):
    for name in ("one.html", "two.html"):
        write_report({"x": small()}, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_names_are_text_wherever_they_stand(tmp_path):
    failure = {"task": EVIL, "optimizer": EVIL, "agent": EVIL, "runs": [0], "error": EVIL}
    results = small(agents=("constant", EVIL), failures=[failure], commit=EVIL, config={"agents": [EVIL]})
    write_report({EVIL: results, "other": results}, tmp_path / "report.html")
    text, data = page_and_data(tmp_path / "report.html")
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert f"{EVIL} [other]" in data["agents"]
    assert html.escape(EVIL) in text


def test_without_traces_there_are_no_curves_over_the_run(tmp_path):
    write_report({"x": small(steps=0)}, tmp_path / "report.html")
    _, data = page_and_data(tmp_path / "report.html")
    assert data["pool"] == []
    assert all(agent["trace"] is None for pair in data["pairs"] for agent in pair["agents"].values())


def test_a_benchmark_of_6_pairs_30_agents_8_starts_stays_below_5_megabytes(tmp_path):
    random = np.random.default_rng(0)  # no two of the series alike: the worst case
    pairs = [(f"task-{number}", optimizer) for number in range(3) for optimizer in ("sgd", "adamw")]
    agents = [f"schedule:kind=one-cycle,start={number}" for number in range(30)]
    losses = {pair: {name: random.uniform(0.1, 1.0, (8, 2)) for name in agents} for pair in pairs}
    traces = {pair: {name: random.uniform(0.1, 1.0, (8, 2, 120)) for name in agents} for pair in pairs}
    write_report({"x": study(losses, traces=traces)}, tmp_path / "report.html")
    assert 1e6 < (tmp_path / "report.html").stat().st_size < 4e6
    _, data = page_and_data(tmp_path / "report.html")
    assert 80 <= len(data["bins"]["120"]) < 120  # fewer points rather than more bytes


def test_the_same_agent_of_two_results_is_told_apart_and_what_differs_is_said(tmp_path):
    old = small(config={"runs": 3, "seed": 0}, commit="aaa", seconds=1.0)
    new = small(agents=("constant", "newer"), seed=1, config={"runs": 3, "seed": 7}, commit="bbb", seconds=2.0)
    found = combine({"old": old, "new": new})
    assert found.results.agents == ["constant [old]", "other", "constant [new]", "newer"]
    assert found.baseline == "constant [old]"
    assert combine({"old": old, "new": new}, "constant [new]").baseline == "constant [new]"
    assert set(found.results.traces["agent"].to_pylist()) == set(found.results.agents)
    assert differing(found.manifests) == {"config.seed": ["0", "7"], "commit": ["aaa", "bbb"]}
    write_report({"old": old, "new": new}, tmp_path / "report.html")
    assert "What differs between the results" in (tmp_path / "report.html").read_text(encoding="utf-8")
    apart = combine({"old": old.of(*ONE), "new": new.of(*TWO)})  # no agent twice on one task: nothing to tell apart
    assert apart.results.agents == ["constant", "other", "newer"]


def test_runs_of_other_seeds_steps_or_tasks_are_not_called_pairs(tmp_path):
    config = {"tasks": ["a", "b"], "optimizers": ["sgd", "adamw"], "seed": 0, "steps": None, "contents": {"a": "0"}}
    others = [
        {"settings": {"momentum": "None"}},
        {"seed": 7},
        {"steps": 9, "contents": {"a": "1"}},
        {"seed": 7, "tasks": ["c"]},
    ]
    told = []
    for other in others:
        both = {"old": small(config=config), "new": small(agents=("newer",), config=config | other)}
        write_report(both, tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        told.append(re.findall("The results differ in (.*?): their runs are no pairs", page))
    assert told == [[], ["seed"], ["steps and what a task of the same name is"], []]


def test_a_result_says_how_to_make_it_again():
    assert rerun({"command": ["evaluate.py", "--task", "a b"]}) == "python -m lrcontrol.evaluate --task 'a b'"
    command = ["python", "-m", "lrcontrol.evaluate", "--task", "a b"]
    assert rerun({"command": command}) == "python -m lrcontrol.evaluate --task 'a b'"
    config = {"tasks": ["a"], "optimizers": ["sgd"], "agents": ["constant"], "lr0": None, "runs": 2, "seed": 0}
    config["settings"] = {"momentum": "0.9"}
    assert rerun({"command": ["pytest"], "config": config}) == (
        "lrcontrol.evaluate(task=['a'], agents=['constant'], runs=2, optimizer=['sgd'], seed=0, momentum=0.9)"
    )
    more = config | {"block": 10, "traces": False, "tasks": ["mine"], "contents": {"mine": "abc"}}
    assert rerun({"command": None, "config": more}) == (
        "# in the place of 'mine': that Task\nlrcontrol.evaluate(task=['mine'], agents=['constant'], runs=2, "
        "optimizer=['sgd'], seed=0, block=10, traces=False, momentum=0.9)"
    )
    smooth = Smoothing(rate=0.2, start="first")
    written = rerun({"config": config | {"settings": {"smoothing": str(smooth), "reward": "log-loss"}}})
    assert written.endswith(f"smoothing={smooth!r}, reward='log-loss')")
    assert "block" not in rerun({"config": config | {"block": 5, "traces": True}})
    assert facts({"config": {"runs": 2}, "seconds": 3.0, "commit": None}) == {"config.runs": "2", "commit": "null"}


def failure(agent, *pair, runs=(0, 2), error="RuntimeError: no more"):
    return {"task": pair[0], "optimizer": pair[1], "agent": agent, "runs": list(runs), "error": error}


def reported(tmp_path, results, **options):
    """Return the page, the Markdown, the LaTeX and what a terminal shows of results."""
    combined = combine(results, **options)
    found = standings(combined.results, combined.baseline)
    console = Console(width=200, record=True, file=io.StringIO())
    for table in standings_tables(found):
        console.print(table)
    said = "\n".join([console.export_text(), *brief(combined, found)])
    return page_of(combined, found), markdown_page(combined, found), latex_page(combined, found), said


def test_an_agent_that_failed_altogether_stands_in_every_table_and_at_the_head(tmp_path):
    failures = [failure("gone", *ONE), failure("gone", *TWO), failure("other", *TWO, runs=(3, 5))]
    page, markdown, latex, said = reported(tmp_path, {"x": small(failures=failures, complete=False)})
    assert markdown.count("| `gone` | failed | – |") == 2
    assert latex.count(r"gone & failed & -- &") == 2
    assert len(re.findall(r"gone +failed +–", said)) == 3  # over all pairs too
    assert page.count('<th scope="row" class="text agent" data-value="gone"><code>gone</code></th>') == 3
    assert page.count(">failed<") == 3
    told = (
        "3 cells failed, and their runs are missing here: gone on a, sgd, all runs; "
        "gone on b, adamw, all runs; other on b, adamw, runs 3 to 5."
    )
    assert told in said
    for text, bare in ((page, r"</?code>|</?strong>"), (markdown, "[`*]"), (latex, r"\\\w+\{|\}")):
        assert told in re.sub(bare, "", text)
    for text in (page, markdown, latex, said):
        assert "interrupted" not in text
        assert "did not get to" not in text
    assert "interrupted" in reported(tmp_path, {"x": small(complete=False)})[0]
    with pytest.raises(InputError, match="baseline gone has no results, all its cells having failed"):
        reported(tmp_path, {"x": small(failures=failures)}, baseline="gone")


def test_an_agent_that_failed_in_one_of_two_results_is_told_apart(tmp_path):
    whole, partly = small(), small(agents=("constant",), failures=[failure("other", *ONE)])
    found = combine({"old": whole, "new": partly})
    assert found.results.failed == [(*ONE, "other [new]")]
    assert set(found.results.agents) == {"constant [old]", "other [old]", "constant [new]"}
    assert "| `other [new]` | failed |" in reported(tmp_path, {"old": whole, "new": partly})[1]


def test_markdown_and_latex_say_what_they_do_not_prove(tmp_path):
    page, markdown, latex, said = reported(tmp_path, {"x": small()})
    for text in (page, markdown, latex):
        assert "Others are held against" in text
        assert "Test data selected nothing" in text
        assert "nothing here is said about generalisation" in text
    assert markdown.index("Test data") < markdown.index("| task |")
    assert latex.index(r"\end{tabular}") < latex.index(r"\footnotesize") < latex.index("Test data")
    assert "what this does not prove: training loss, not generalisation; intervals over 3 runs" in said
    assert r"\resizebox{\ifdim\width>\linewidth" in latex
    assert latex.count("{") == latex.count("}")
    assert r"@ 1" in latex
    assert "1e" not in latex


def test_no_p_can_be_low_where_runs_are_few_and_agents_many(tmp_path):
    agents = ("constant", "b", "c")
    few, many = (
        study({ONE: {name: np.random.default_rng(0).uniform(size=(2, runs)) for name in agents}}) for runs in (5, 8)
    )
    said = "With 5 runs and 2 agents against the baseline no p after Holm can fall below 0.125: look at the intervals."
    assert said in reported(tmp_path, {"x": few})[1]
    assert "no p after Holm" not in reported(tmp_path, {"x": many})[1]  # 2 · 2 / 2^8


def test_replays_and_optimizers_of_ones_own_are_told_of(tmp_path):
    plain = reported(tmp_path, {"x": small()})[1]
    assert "The mean rank depends on who else is in the table" in plain
    assert "these very runs" not in plain
    assert "optimizer of one's own" not in plain
    agents = ("constant", "replay:of=constant", "dog", "prodigy:knob=true", "random-search")
    runs = {name: np.ones((1, 2)) for name in agents}
    _, markdown, _, said = reported(tmp_path, {"x": study({("a", "sgd"): runs, ("a", "adamw"): runs})})
    assert "- `replay:of=constant`: a replay follows the mean of what its agent did on these very runs" in markdown
    assert "a replay has seen these very runs" in said
    assert "- `dog`: an optimizer of one's own does not look at the base optimizer" in markdown
    alone = reported(tmp_path, {"x": study({("a", "sgd"): runs})})[1]
    assert "optimizer of one's own" not in alone  # there is nothing that it counts for twice


def test_one_bad_agent_does_not_hide_the_intervals_of_the_others(tmp_path):
    random = np.random.default_rng(0)
    losses = {f"agent-{n}": random.uniform(0.8, 1.2, (2, 5)) for n in range(6)} | {"constant": np.ones((2, 5))}
    drawn = re.compile(r'class="span" d="M([\d.]+) 9H([\d.]+)"')

    def widths(page):
        ratios = re.findall(r'<td class="dots">(.*?)</td>', page)[1::2]
        spans = [drawn.search(cell) for cell in ratios]
        return [float(span[2]) - float(span[1]) for span in spans], [cell.count("beyond") for cell in ratios]

    alone, beyond = widths(reported(tmp_path, {"x": study({ONE: losses})})[0])
    assert sum(beyond) == 0
    page = reported(tmp_path, {"x": study({ONE: losses | {"random": np.full((2, 5), 1e3)}})})[0]
    with_bad, beyond = widths(page)
    assert beyond == [0] * 7 + [1]
    np.testing.assert_allclose(with_bad[:-1], alone, atol=0.2)
    assert re.search(r"0\.\d+ to 1\.\d+, log, ▸ beyond", page)


def test_a_profile_is_read_where_agents_part(tmp_path):
    write_report({"x": small()}, tmp_path / "report.html")
    taus = np.array(page_and_data(tmp_path / "report.html")[1]["taus"])
    assert (taus[0], taus[-1]) == (1.0, 100.0)
    assert ((taus > 1.0) & (taus < 1.3)).sum() >= 30
    assert (np.diff(taus) > 0).all()


def test_caveats_follow_what_is_shown(tmp_path):
    agents = ("constant", "prodigy:knob=true", "pbt:population=4")
    write_report({"x": small(agents=agents, complete=False)}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "d0 for prodigy" in text
    assert "The curve of <code>pbt:population=4</code> is that of the run chosen at its end" in text
    assert "interrupted" in text
    write_report({"x": small(complete=True)}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "d0 for prodigy" not in text
    assert "chosen at its end" not in text
    assert "interrupted" not in text


# Machado et al. (2009), severity 1.0, on linear RGB: protanopia, deuteranopia, tritanopia
SEEN = {
    "all": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def cielab(rgb):
    xyz = TO_XYZ @ np.clip(rgb, 0.0, 1.0) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("mode", [0, 1])
def test_lines_can_be_told_apart_by_the_colour_blind_and_from_the_paper(mode):
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    paper = re.findall(r"--paper: (#\w{6})", css)[mode]
    colours = [re.findall(rf"--{name}: (#\w{{6}})", css)[mode] for name in ("base", *(f"c{k}" for k in range(7)))]
    for matrix in SEEN.values():
        seen = [cielab(np.array(matrix) @ linear(colour)) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 14
    for colour in colours:
        dark, light = sorted(float(TO_XYZ[1] @ linear(c)) for c in (colour, paper))
        assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.2, 1.4.11: graphical objects


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("results")
    for name in ("first", "second"):
        agents = ["constant", "hillclimb:factor=2"]
        lrcontrol.evaluate(agents=agents, lr0=[0.001, 0.1], runs=2, steps=5, out=parent / name)
    return parent


def test_the_command_writes_page_markdown_and_latex(folders, capsys):
    texts = ["--markdown", str(folders / "t.md"), "--latex", str(folders / "t.tex")]
    assert main([str(folders / "first"), *texts]) == 0
    printed = capsys.readouterr().out
    assert "against constant" in printed
    assert "report.html" in printed
    assert (folders / "first/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "| `digits-mlp` | `sgd` | `hillclimb:factor=2` |" in (folders / "t.md").read_text(encoding="utf-8")
    assert r"\toprule" in (folders / "t.tex").read_text(encoding="utf-8")


def test_the_command_holds_two_folders_side_by_side(folders, capsys):
    out = folders / "both.html"
    two = [str(folders / "first"), str(folders / "second")]
    assert main([*two, "--out", str(out), "--baseline", "hillclimb:factor=2 [second]"]) == 0
    _, data = page_and_data(out)
    assert sorted(data["agents"])[:2] == ["constant [first]", "constant [second]"]
    assert data["agents"][data["baseline"]] == "hillclimb:factor=2 [second]"
    first = combine(load_all([folders / "first"]), "hillclimb:factor=2.0,every=1")  # as evaluate takes it
    assert first.baseline == "hillclimb:factor=2"
    both = combine(load_all([folders / "first", folders / "second"]), "hillclimb:factor=2.0 [second]")
    assert both.baseline == "hillclimb:factor=2 [second]"


def test_failures_are_in_the_exit_code(folders, tmp_path, capsys):
    shutil.copytree(folders / "first", tmp_path / "failed")
    path = tmp_path / "failed" / "manifest.json"
    failures = [failure("gone", "digits-mlp", "sgd", runs=(0, 1))]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False, "failures": failures}))
    assert main([str(tmp_path / "failed")]) == 1
    printed = capsys.readouterr()
    assert printed.err == "failed: digits-mlp, sgd, gone, runs 0 to 1: RuntimeError: no more\n"
    assert "1 cell failed" in printed.out


def test_what_cannot_be_reported_is_named(folders, capsys):
    command = ["python", "-m", "lrcontrol.evaluate", "--runs", "2"]
    for name, failures in (("begun", []), ("lost", [failure("constant", *ONE)])):
        (folders / name).mkdir()
        manifest = {"complete": False, "failures": failures, "command": command}
        (folders / name / "manifest.json").write_text(json.dumps(manifest))
    for name, file, content in (
        ("not text", "manifest.json", b"\xff\xfe{}"),
        ("a list", "manifest.json", b"[]"),
        ("no optimizer", "runs.csv", b"task,agent\nquadratic,constant\n"),
    ):
        shutil.copytree(folders / "first", folders / name)
        (folders / name / file).write_bytes(content)
    for arguments, said in (
        *(([str(folders / name)], "does not hold the results") for name in ("not text", "a list", "no optimizer")),
        ([str(folders)], "does not hold the results"),
        ([str(folders / "first"), str(folders / "first")], "first is given 2 times"),
        ([str(folders / "first"), "--baseline", "constnt"], "did you mean 'constant'"),
        (
            [str(folders / "begun")],
            f"it is not finished; give the same evaluate command again, and it does what is "
            f"missing: python -m lrcontrol.evaluate --runs 2 --out {folders / 'begun'}",
        ),
        ([str(folders / "lost")], "every cell failed, the first with RuntimeError: no more; give"),
        ([str(folders / "first"), "--out", str(folders / "first/runs.csv/x.html")], "cannot write"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "best" not in capsys.readouterr().err
    with pytest.raises(InputError, match="no results"):
        combine({})


def test_folders_are_called_by_the_shortest_ends_that_tell_them_apart(folders, tmp_path):
    (tmp_path / "first").symlink_to(folders / "first")
    assert list(load_all([folders / "first", folders / "second"])) == ["first", "second"]
    (folders / "other").mkdir()
    for file in ("runs.csv", "traces.parquet", "manifest.json"):
        (folders / "other/first").mkdir(exist_ok=True)
        (folders / "other/first" / file).write_bytes((folders / "first" / file).read_bytes())
    assert list(load_all([folders / "first", folders / "other/first"])) == [f"{folders.name}/first", "other/first"]
