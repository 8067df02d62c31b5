"""What a person is told when the environment cannot be made."""

import pytest

from infra.stack import bootstrap

OFFLINE = "WARNING: Retrying ... NewConnectionError ... Temporary failure in name resolution\nERROR: No matching x\n"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (OFFLINE, "package index does not answer"),
        ("ERROR: Could not install: [Errno 28] No space left on device\n", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", "another sum"),
        ("ERROR: something new\n", "something new"),
        ("", "no reason given"),
    ],
)
def test_each_failure_has_a_sentence(output, sentence):
    assert sentence in bootstrap.why_not(output)


def test_another_lock_another_place_or_another_python_is_another_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "LOCK", tmp_path / "dev.txt")
    bootstrap.LOCK.write_text("a==1\n")
    first = bootstrap.mark()
    assert bootstrap.mark() == first
    bootstrap.LOCK.write_text("a==2\n")
    assert bootstrap.mark() != first


def test_a_python_that_does_not_fit_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 10, 1))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit):
        bootstrap.use_a_fitting_python()
    assert "3.11 to 3.14" in capsys.readouterr().err
