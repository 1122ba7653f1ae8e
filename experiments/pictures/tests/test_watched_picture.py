"""The picture of a watched run is drawn by its command."""

from __future__ import annotations

from experiments.pictures.watched import main


def test_the_command_draws_a_watched_run(tmp_path, capsys):
    out = tmp_path / "picture.png"
    assert main(["--steps", "4", "--every", "2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert f"written: {out}" in capsys.readouterr().out
