"""Command lines: types of options, one-line errors, and help that never fails."""

import argparse

import pytest

from burn_timm.arguments import KeyValues, Parser, above_zero, fraction, natural, number, positive, run
from burn_timm.errors import BurnError


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (positive, ["1", "20"], ["0", "-1", "x", "1.5"]),
    (natural, ["0", "3"], ["-1", ""]),
    (above_zero, ["0.1", "3"], ["0", "nan", "inf", "-1"]),
    (fraction, ["0", "1", "0.5"], ["1.1", "-0.1", "nan"]),
    (number(2), ["2"], ["1.9", "inf"]),
])
def test_types_take_what_they_say(kind, good, bad):
    assert [kind(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected .* not {text}"):
            kind(text)


def test_help_shows_defaults_and_survives_percent_signs():
    parser = Parser(prog="p")
    parser.add_argument("--share", type=fraction, default=0.5, help="1 % to 100 % of the images")
    parser.add_argument("--stages", nargs="+", default=["a", "b"], help="of training")
    parser.add_argument("--seed", type=natural, default=0, help="of everything")
    parser.add_argument("--size", default=7, help="default: the model's own")
    parser.add_argument("--fast", action="store_true", help="go fast")
    parser.add_argument("--place", help="where to")
    text = parser.format_help()
    assert "1 % to 100 % of the images (default: 0.5)" in text and "(default: a b)" in text and "default: 7" not in text
    assert "(default: 0)" in text and "go fast (default: off)" in text and "where to (default: none)" in text


@pytest.mark.parametrize("words", [["--kwargs", "drop"], ["--kwargs", "=3"], ["--nothing"], ["--kwar", "a=1"]])
def test_bad_words_are_one_line_and_code_2(words, capsys):
    parser = Parser(prog="p")
    parser.add_argument("--kwargs", nargs="*", action=KeyValues, default={})
    with pytest.raises(SystemExit) as end:
        parser.parse_args(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("p: error: ")


def test_key_values_are_parsed_as_timm_does():
    parser = Parser(prog="p")
    parser.add_argument("--kwargs", nargs="*", action=KeyValues, default={})
    assert parser.parse_args(["--kwargs", "a=1", "b=(1, 2)", "c=x"]).kwargs == {"a": 1, "b": (1, 2), "c": "x"}


def test_bad_input_and_interrupts_end_the_process_with_their_codes(capsys):
    def fail(error):
        raise error

    for error, code in ((BurnError("no such file"), 2), (OSError("disk full"), 2), (KeyboardInterrupt(), 130)):
        with pytest.raises(SystemExit) as end:
            run("p", lambda error=error: fail(error))
        assert end.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "p: error: no such file" and lines[-1] == "p: interrupted"
    assert run("p", lambda: 3) == 3
