"""Sizes, digests, settings and errors: what everything else stands on."""

from __future__ import annotations

import hashlib
import pickle
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lynx_engine.cli.app import app
from lynx_engine.digest import digest_bytes, digest_file, digest_mapping, sample_file
from lynx_engine.errors import ErrorCode, Problem, RefusedError, RowError, nearest
from lynx_engine.provenance.environment import make_workspace_key, read_commit
from lynx_engine.settings import Settings, find_workspace, load_settings
from lynx_engine.shapes import FrameSize, latent_frames


@given(st.integers(1, 99999), st.integers(1, 99999))
def test_size_reads_back_what_it_writes(width: int, height: int) -> None:
    assert FrameSize.parse(str(FrameSize(width, height))) == FrameSize(width, height)


@pytest.mark.parametrize("text", ["832", "832X480", "0x480", "832x", "-1x2", "1.5x2", "٨x٨", ""])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write width x height, as in 832x480"):
        FrameSize.parse(text)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3), (81, 21), (121, 31)])
def test_latent_frames_of_the_published_lengths(frames: int, latents: int) -> None:
    assert latent_frames(frames, 4) == latents


def test_digests_of_known_bytes(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_bytes(b"abc") == digest_file(tmp_path / "abc") == abc


def test_mapping_digest_knows_no_order_and_refuses_nan() -> None:
    assert digest_mapping({"a": 1, "b": 2.5}) == digest_mapping({"b": 2.5, "a": 1})
    assert digest_mapping({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert digest_mapping({"a": 1}) != digest_mapping({"a": 1.0})
    with pytest.raises(ValueError, match="Out of range float values"):
        digest_mapping({"a": float("nan")})


def test_sample_tells_sizes_and_scattered_changes_apart(tmp_path: Path) -> None:
    data = bytearray(1_000_000)
    path = tmp_path / "weights"
    path.write_bytes(data)
    before = sample_file(path)
    path.write_bytes(data + b"\0")
    assert sample_file(path) != before
    data[::1000] = b"\1" * 1000  # a fine-tune changes numbers everywhere
    path.write_bytes(data)
    assert sample_file(path) != before


def test_sample_of_a_small_file_covers_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "config"
    for data in (b"", b"a", b"b", b"x" * 4096):
        path.write_bytes(data)
        first = sample_file(path)
        path.write_bytes(data + b"!")
        assert sample_file(path) != first


def test_workspace_is_the_nearest_folder_upward_with_its_file(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_workspace(deep) is None
    (tmp_path / "lynx.toml").touch()
    assert find_workspace(deep) == tmp_path


def test_workspace_of_a_manifest_wins_over_that_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there / "manifests"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    manifest = there / "manifests" / "m.yaml"
    assert load_settings(manifest).workspace == here
    (here / "lynx.toml").touch()
    (there / "lynx.toml").touch()
    assert load_settings(manifest).workspace == there
    assert load_settings().workspace == here


def test_flag_wins_over_variable_and_variable_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lynx.toml").write_text('models = "from-file"\nthreads = 3\noutputs = "file"\n')
    monkeypatch.setenv("LYNX_MODELS", "from-variable")
    monkeypatch.setenv("LYNX_OUTPUTS", "from-variable")
    settings = load_settings(tmp_path, outputs=Path("from-flag"))
    assert settings.threads == 3
    assert settings.models_dir.root == tmp_path / "from-variable"
    assert settings.outputs_dir == tmp_path / "from-flag"
    assert settings.campaign_dir("trial") == tmp_path / "from-flag" / "trial"


@pytest.mark.parametrize("given_home", ["", "relative/cache"])
def test_cache_folder_follows_the_xdg_rule(
    given_home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", given_home)
    assert load_settings(tmp_path).cache == tmp_path / ".cache" / "lynx_engine"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert load_settings(tmp_path).cache == tmp_path / "mine" / "lynx_engine"


def test_every_wrong_setting_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "lynx.toml").write_text("thread = 2\nserver_start_s = -1\n")
    with pytest.raises(RefusedError) as caught:
        load_settings(tmp_path)
    told = [problem.text for problem in caught.value.problems]
    assert any(text == "unknown setting 'thread', did you mean 'threads'?" for text in told)
    assert any(text.startswith("server_start_s: ") for text in told)


def test_refusal_is_one_letter_with_every_problem() -> None:
    error = RefusedError([Problem("a.yaml:1", "x"), Problem("a.yaml:2", "y")])
    assert str(error) == "2 problems, nothing was rendered:\n  a.yaml:1: x\n  a.yaml:2: y"
    assert str(RefusedError([Problem("p", "x")], outcome="nothing was done")) == (
        "1 problem, nothing was done:\n  p: x"
    )


def test_row_error_survives_the_trip_between_processes() -> None:
    error = RowError(ErrorCode.ENCODER, "ffmpeg exited with 1", transient=True)
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, str(again), again.transient) == (ErrorCode.ENCODER, str(error), True)


def test_nearest_name_is_suggested_only_when_it_is_near() -> None:
    assert nearest("promt", ["prompt", "seed"]) == ", did you mean 'prompt'?"
    assert nearest("xyz", ["prompt", "seed"]) == ""


def test_every_error_code_is_documented() -> None:
    words = ErrorCode.__doc__ or ""
    assert [code.name for code in ErrorCode if f"        {code.name}: " not in words] == []


def test_commit_is_read_from_a_checkout_a_worktree_and_packed_branches(tmp_path: Path) -> None:
    git, linked = tmp_path / "main" / ".git", tmp_path / "linked"
    own = git / "worktrees" / "linked"
    for folder in (git / "refs" / "heads", own, linked):
        folder.mkdir(parents=True)
    (linked / ".git").write_text(f"gitdir: {own}\n")
    (own / "commondir").write_text("../..\n")
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "HEAD").write_text("ref: refs/heads/side\n")
    (git / "refs" / "heads" / "side").write_text("5" * 40 + "\n")
    (git / "packed-refs").write_text("# pack-refs\n" + "7" * 40 + " refs/heads/main\n")
    assert read_commit(git.parent) == "7" * 40
    assert read_commit(linked) == "5" * 40
    (own / "HEAD").write_text("9" * 40 + "\n")
    assert read_commit(linked) == "9" * 40
    assert read_commit(tmp_path) == ""


def test_workspace_key_made_before_it_carried_a_digest_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "workspace.key").write_bytes(b"k" * 32)
    assert make_workspace_key(tmp_path) == b"k" * 32


def test_a_new_workspace_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "studio")])
    assert done.exit_code == 0, done.output
    listed = (tmp_path / "studio" / "lynx.toml").read_text()
    lines = re.findall(r"^# ([a-z_]+ = .*)$", listed, re.MULTILINE)
    settings = tomllib.loads("\n".join(lines))
    fields = dict(Settings.model_fields)
    del fields["workspace"]  # where the file lies, so not for the file to say
    assert settings.keys() == fields.keys()
    for name in fields.keys() - {"cache", "model_paths", "credentials"}:  # an example serves better
        written = Settings.model_validate({name: settings[name]})
        assert written == Settings.model_validate({}), name
