"""What the page makes of output as a terminal does: lines that are written over, colours, and no more of a flood than fits."""

from __future__ import annotations

from typing import Any

from support.browsing import Served, Visit, expect

#: Feeds a terminal with pairs of a stream and a text; returns of each line its runs, and whether it has ended.
FEED = """async pieces => {
    const { Terminal } = await import('./terminal.js');
    const terminal = new Terminal();
    for (const [stream, text] of pieces) terminal.write(stream, text);
    const lines = terminal.lines.map(line => [...line.runs.map(run => [run.style, run.text]), line.ended]);
    return { lines, left: terminal.left, changed: terminal.changed };
}"""
#: Writes 100,000 lines in pieces, as a server that joins them; returns the longest time that the page was busy with one piece.
FLOOD = """async () => {
    const { makeOutput } = await import('./output.js');
    const output = makeOutput();
    document.querySelector('main').append(output.element);
    let longest = 0;
    for (let from = 0; from < 100_000; from += 5_000) {
        const piece = Array.from({ length: 5_000 }, (_, n) => `line ${from + n}\\n`).join('');
        const before = performance.now();
        output.add('stdout', piece);
        longest = Math.max(longest, performance.now() - before);
        await new Promise(requestAnimationFrame);
    }
    output.settle();
    return longest;
}"""


def out(*texts: str) -> list[tuple[str, str]]:
    return [("stdout", text) for text in texts]


CASES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "a carriage return writes over": (out("10 %\r20 %\r100 %\n"), ["100 %"]),
    "what is shorter leaves the rest": (out("abcd\rx\n"), ["xbcd"]),
    "in pieces however cut": (out("one\r", "two", "\n", "th", "ree"), ["two", "three"]),
    "backspaces": (out("12%\b\b\b34%\n"), ["34%"]),
    "a line that is erased": (out("a long line\r\x1b[Kshort\n"), ["short"]),
    "bars one below the other": (out("a 0\nb 0\x1b[A\ra 1\nb 1\x1b[A\n\nend"), ["a 1", "b 1", "end"]),
    "windows line breaks": (out("one\r\ntwo\r\n"), ["one", "two"]),
    "other sequences": (out("\x1b]0;title\x07a\x1b[2Jb\x1b(Bc\x1b[?25l\x1b]8;;u\x1b\\d\x07\x00\n"), ["abcd"]),
    "a sequence in two pieces": (out("\x1b[", "2Ja\x1b", "[0mb"), ["ab"]),
    "another stream's beginning stays": ([("stdout", "made "), ("stderr", "\r1 %\r2 %"), ("stdout", "!")], ["made 2 %!"]),
}


def texts(fed: dict[str, Any]) -> list[str]:
    """Return the lines without their styles; the last one only where it has something."""
    lines = ["".join(text for _, text in line[:-1]) for line in fed["lines"]]
    return lines if lines[-1] else lines[:-1]


def test_lines_are_written_over_as_in_a_terminal(visit: Visit) -> None:
    page = visit.go()
    for what, (pieces, lines) in CASES.items():
        assert texts(page.evaluate(FEED, pieces)) == lines, what


def test_colours_become_classes(visit: Visit) -> None:
    page = visit.go()

    def runs(*pieces: tuple[str, str]) -> list[list[str]]:
        lines: list[list[list[str]]] = page.evaluate(FEED, list(pieces))["lines"]
        return lines[0][:-1]

    assert runs(*out("a\x1b[1;31mb\x1b[22mc\x1b[0md")) == [
        ["stdout", "a"],
        ["stdout bold ink-1", "b"],
        ["stdout ink-1", "c"],
        ["stdout", "d"],
    ]
    assert runs(*out("\x1b[92;44ma\x1b[39mb\x1b[38;5;13mc\x1b[38;2;1;2;3;49md\x1b[me")) == [
        ["stdout ink-10 paper-4", "a"],
        ["stdout paper-4", "b"],
        ["stdout ink-13 paper-4", "c"],
        ["stdout ink-13", "d"],
        ["stdout", "e"],
    ]
    red, plain = runs(("stderr", "\x1b[31mred"), ("stdout", "plain"))
    assert (red[0], plain[0]) == ("stderr ink-1", "stdout")  # each stream has its own


def test_a_line_without_an_end_and_a_sequence_without_one_take_no_more_than_their_room(visit: Visit) -> None:
    page = visit.go()
    long = page.evaluate(FEED, out(*["x" * 50_000] * 10))
    assert sum(len(text) for text in texts(long)) <= 250_000
    assert long["left"] > 0
    endless = page.evaluate(FEED, out("\x1b]" + "x" * 10_000, "end\n"))
    assert "".join(texts(endless)) == "]" + "x" * 10_000 + "end"


def test_a_flood_leaves_a_bounded_number_of_lines_and_says_so(visit: Visit) -> None:
    page = visit.go("#server")
    page.get_by_role("heading", name="Server").wait_for()
    assert page.evaluate(FLOOD) < 1000  # milliseconds, on a machine that does other things as well
    output = page.get_by_label("Output")
    output.get_by_text("line 99999").wait_for()
    shown = output.evaluate("pre => pre.textContent.trimEnd().split('\\n')")
    assert 900 < len(shown) < 1300
    assert shown == [f"line {n}" for n in range(100_000 - len(shown), 100_000)]
    page.get_by_text(f"The {100_000 - len(shown):,} lines before these are left out.").wait_for()


def test_bars_and_colours_of_a_job_are_shown_as_it_runs_and_from_its_record(visit: Visit, served: Served) -> None:
    served.ask("create_workspace", name="bars")
    page = visit.go("#workspaces/bars")
    page.get_by_text("No job yet").wait_for()
    # In one piece: what is printed may come before it or behind it, and must not come in between.
    code = "import sys\nsys.stderr.write('\\r1/3\\r2/3\\r3/3')\nprint('\\x1b[31mred\\x1b[0m')"
    served.ask("push_job", name="bars", type="script", job=code, timeout=20, variables=False)
    output = page.get_by_role("article", name="Job 0").get_by_label("Output")
    for _ in range(2):
        expect(output.locator(".stderr")).to_have_text("3/3")
        red = output.locator(".ink-1")
        expect(red).to_have_text("red")
        assert red.evaluate("run => getComputedStyle(run).color") == "rgb(179, 38, 30)"
        page.reload()
