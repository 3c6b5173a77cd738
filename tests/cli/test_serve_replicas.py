"""`serve replicas` without Ray: its flags, its errors, and that nothing else imports Ray."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from lmcourse.__main__ import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--replicas", "0"], "min_replicas is too small"),
        (["--min-replicas", "3", "--max-replicas", "2"], "max_replicas is below"),
        (["--max-replicas", "0"], "max_replicas is too small"),
        (["--patience", "-1"], "patience_seconds"),
        (["--server-port", "70000"], "cannot listen"),
        (["--ssl"], "SSL_KEYFILE"),
        (["--cache-max-entry-count", "-1"], "cache_max_entry_count"),
    ],
)
def test_wrong_flags_are_one_clear_error_before_ray_starts(flags, message, capsys, monkeypatch) -> None:
    monkeypatch.delenv("SSL_KEYFILE", raising=False)
    assert main(["serve", "replicas", "tiny-chat", "--server-port", "0", *flags]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert "ray" not in sys.modules


def test_unknown_model_is_known_before_ray_starts(capsys) -> None:
    assert main(["serve", "replicas", "/no/such/folder", "--server-port", "0"]) == 1
    assert "/no/such/folder" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["tiny-chat"], ["--restart", "127.0.0.1:1"]])
def test_missing_extra_says_how_to_install_it(flags, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", "replicas", *flags]) == 1
    assert 'pip install "lmcourse[serve,ray]"' in capsys.readouterr().err


def test_limits_follow_what_is_given() -> None:
    from lmcourse.cli import serve_replicas

    def limits(*flags: str) -> tuple[int, int]:
        parser = argparse.ArgumentParser()
        serve_replicas.add_parser(parser.add_subparsers())
        return serve_replicas._limits(parser.parse_args(["replicas", *flags]))

    assert limits() == (2, 2)
    assert limits("--replicas", "5") == (5, 5)
    assert limits("--max-replicas", "1") == (1, 1)
    assert limits("--max-replicas", "4") == (2, 4)
    assert limits("--min-replicas", "3") == (3, 3)
    assert limits("--min-replicas", "1", "--max-replicas", "8") == (1, 8)


def test_help_tells_defaults_and_examples(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "replicas", "-h"])
    shown = capsys.readouterr().out
    assert "examples:" in shown
    for flag in ["replicas", "min-replicas", "max-replicas", "ray-address", "routing", "restart", "api-keys", "tp"]:
        assert f"--{flag} " in shown


def test_package_is_imported_without_ray() -> None:
    modules = "lmcourse.replicas.front, lmcourse.replicas.keeper, lmcourse.cli.serve_replicas"
    code = f"import sys, {modules}; print('ray' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.strip() == "False"
