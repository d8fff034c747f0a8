"""`featurize doctor`: what works here, and how to fix what does not."""

import errno
import os
from importlib import metadata

from data import command
from featurize import doctor
from featurize.cli import app


def test_it_reports_this_machine_and_ends_with_0(tmp_path, capsys):
    assert command.run(app, ["doctor", "--out", str(tmp_path / "out"), "--offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("torch " + metadata.version("torch") in line for line in lines)
    assert any(line.split()[:2] == ["ok", "--out"] for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_cannot_be_written_and_a_missing_package_are_problems(tmp_path, monkeypatch, capsys):
    def refuse(_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    requires = metadata.requires
    monkeypatch.setattr(metadata, "requires", lambda name: [*(requires(name) or ()), "no-such-package>=3"])
    checks = doctor.examine(tmp_path, tmp_path / "data", online=False)
    assert [check.name for check in checks if check.status == "problem"] == ["no-such-package", "--out"]
    assert doctor.report(checks) == 1
    assert "pip install 'no-such-package>=3'" in capsys.readouterr().out


def test_a_hub_that_cannot_be_reached_is_a_note(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    check = doctor._hub()
    assert check.status == "note" and "--weights" in check.fix
