"""check() itself: what it says for stubs, wrong values, exceptions, prints, and that it keeps quiet otherwise."""

from __future__ import annotations

import pickle
import re
import sys

import pytest

from lmcourse.homework import Score, check
from lmcourse.homework.parameters import tensor_shapes
from lmcourse.homework.score import Outcome


def right(config: dict[str, int]) -> int:
    import math

    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def stub(config: dict[str, int]) -> int:
    """What the student edition holds."""
    ...  # write your answer here


def test_right_answer_scores_one_without_naming_a_seed() -> None:
    score = check("1.1", right)
    assert score == 1.0
    assert score.outcome is Outcome.PASSED
    assert repr(score) == "Exercise 1.1 · Count the weights: 8 of 8 cases pass"
    assert "✓" in score._repr_html_()


@pytest.mark.parametrize("answer", [stub, ..., None, lambda config: None], ids=["stub", "dots", "none", "empty"])
def test_untried_answer_is_no_error(answer: object) -> None:
    score = check("1.1", answer)
    assert score == 0.0
    assert score.outcome is Outcome.UNTRIED
    assert 'homework.hint("1.1")' in repr(score)
    assert "seed" not in repr(score)


def test_answer_that_returns_a_constant_was_tried() -> None:
    assert check("1.1", lambda config: 0).outcome is Outcome.FAILED


def test_forgotten_return_is_named() -> None:
    def forgets(config: dict[str, int]) -> None:
        right(config)

    assert "is a `return` missing?" in repr(check("1.1", forgets))


def test_value_instead_of_function_is_explained() -> None:
    score = check("1.1", 1_889_110_016)
    assert "not a function" in repr(score)
    assert "1,889,110,016" in repr(score)


def test_exception_is_shown_with_the_line_of_the_answer() -> None:
    def breaks(config: dict[str, int]) -> float:
        return config["hidden_size"] / (config["vocab_size"] - config["vocab_size"])

    said = repr(check("1.1", breaks))
    assert "ZeroDivisionError" in said
    assert 'return config["hidden_size"] /' in said


def test_wrong_number_of_parameters_is_explained() -> None:
    assert "TypeError" in repr(check("1.1", lambda: 1))


def test_exit_of_the_answer_does_not_end_the_notebook() -> None:
    assert "SystemExit" in repr(check("1.1", lambda config: sys.exit(3)))


def test_keyboard_interrupt_is_let_through() -> None:
    def interrupted(config: dict[str, int]) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("1.1", interrupted)


def test_output_of_the_answer_is_kept_and_stderr_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    def noisy(config: dict[str, int]) -> int:
        print("I am here")
        print("quiet, please", file=sys.stderr)
        return 7

    score = check("1.1", noisy)
    assert dict(score.details)["printed"].startswith("I am here")
    assert capfd.readouterr() == ("", "")


def test_seed_in_the_message_repeats_the_failure() -> None:
    def nearly(config: dict[str, int]) -> int:
        return right(config) + (config["num_hidden_layers"] > 20 and config["vocab_size"] != 92544)

    for _ in range(20):
        score = check("1.1", nearly)
        if score.outcome is Outcome.FAILED:
            seed = int(re.search(r"seed=(\d+)", repr(score))[1])  # type: ignore[index]
            assert repr(check("1.1", nearly, seed=seed)) == repr(score)
            return
    pytest.fail("20 times no case with more than 20 layers")


def test_html_escapes_what_the_answer_says() -> None:
    page = check("2.2", lambda messages: "<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_score_is_a_float_and_survives_pickling() -> None:
    score = check("1.1", lambda config: 5)
    assert isinstance(score, float)
    assert sum([score, check("1.1", right)]) == 1.0
    copy = pickle.loads(pickle.dumps(score))
    assert isinstance(copy, Score)
    assert repr(copy) == repr(score)


def test_partial_credit_is_the_share_of_passed_cases() -> None:
    score = check("1.1", lambda config: 1_889_110_016)
    assert score == 1 / 8
    assert "1 of 8 cases pass" in score.headline
