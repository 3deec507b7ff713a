"""What a tool's command tells its caller."""

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.tool import exit_code


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("no such key"), 2, "x: no such key [docs/errors.md#commands-and-configs]\n"),
        (DataError("row 3 is empty"), 2, "x: row 3 is empty [docs/errors.md#data]\n"),
        (OSError(28, "No space left on device", "/films/TREMBLAY.dcm"), 2, "x: reading or writing failed: No space left on device; then [docs/errors.md#reading-or-writing-failed]\n"),
        (OSError("bad"), 2, "x: reading or writing failed: OSError; then [docs/errors.md#reading-or-writing-failed]\n"),
        (KeyboardInterrupt(), 130, "x: interrupted; run the same command again to go on\n"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_no_file(capsys, error, code, line):
    assert exit_code("x", raising(error), debug=False, remedy="; then") == code
    assert capsys.readouterr() == ("", line)


def test_debug_shows_the_error_itself_and_a_bug_is_never_hidden(capsys):
    for error in (DataError("wrong"), OSError(5, "Input/output error")):
        with pytest.raises(type(error)):
            exit_code("x", raising(error), debug=True)
    with pytest.raises(ZeroDivisionError):
        exit_code("x", raising(ZeroDivisionError()), debug=False)
    assert exit_code("x", lambda: 5, debug=False) == 0 and capsys.readouterr() == ("", "")
