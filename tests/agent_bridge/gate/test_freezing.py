"""What a request becomes when it is frozen, and which requests cannot be."""

import os
from pathlib import Path

import pytest

from agent_bridge.core.actions import EnvSecret, EnvValue, ExecAction, ScriptAction
from agent_bridge.core.pae import digest_of
from agent_bridge.gate.freezing import (
    ExecRequest,
    RequestRefused,
    ScriptRequest,
    Workspace,
    freeze_action,
    make_workspace,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    root.mkdir()
    return make_workspace(bytes(root))


def freeze_exec(workspace: Workspace, *argv: str, **wishes: object) -> ExecAction:
    request = ExecRequest(tuple(os.fsencode(part) for part in argv), **wishes)  # type: ignore[arg-type]  # test shorthand
    action = freeze_action(request, workspace, secret_names={"token"}).action
    assert isinstance(action, ExecAction)
    return action


def refusal_of(workspace: Workspace, *argv: str, **wishes: object) -> str:
    with pytest.raises(RequestRefused) as refused:
        freeze_exec(workspace, *argv, **wishes)
    return refused.value.code


def put(workspace: Workspace, name: str, text: str = "x", mode: int = 0o644) -> Path:
    path = Path(os.fsdecode(workspace.root), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_program_is_named_by_its_real_file_and_digest(workspace: Workspace) -> None:
    action = freeze_exec(workspace, "awk", "1")

    real = os.path.realpath("/usr/bin/awk")
    assert action.executable.path == real.encode()
    assert action.executable.digest == digest_of(Path(real).read_bytes())
    assert action.argv == (real.encode(), b"1")


def test_attack_49_the_callers_path_is_not_searched(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "bin"
    evil.mkdir()
    (evil / "cat").write_text("#!/bin/sh\necho evil\n")
    (evil / "cat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{evil}:{os.environ['PATH']}")

    action = freeze_exec(workspace, "cat")

    assert action.executable.path == os.path.realpath("/usr/bin/cat").encode()


def test_attack_49_a_binary_in_the_workspace_is_not_found_by_its_bare_name(
    workspace: Workspace,
) -> None:
    put(workspace, "only-here", "#!/bin/sh\n", 0o755)

    assert refusal_of(workspace, "only-here") == "executable_not_found"


def test_a_script_file_becomes_its_interpreter_and_an_input(workspace: Workspace) -> None:
    script = put(workspace, "build.sh", "#!/bin/sh -e\necho hi\n", 0o755)

    action = freeze_exec(workspace, "./build.sh", "all")

    assert action.executable.path == os.path.realpath("/bin/sh").encode()
    assert action.argv[1:] == (b"-e", bytes(script), b"all")
    assert [file.path for file in action.surroundings.inputs] == [bytes(script)]


def test_a_script_file_that_asks_env_for_its_interpreter_gets_it_from_the_fixed_path(
    workspace: Workspace,
) -> None:
    put(workspace, "build.sh", "#!/usr/bin/env sh\n", 0o755)

    action = freeze_exec(workspace, "./build.sh")

    assert action.executable.path == os.path.realpath("/usr/bin/sh").encode()


@pytest.mark.parametrize(
    "first_line",
    ["#!/usr/bin/env -S sh -c", "#!/usr/bin/env LD_PRELOAD=x sh", "#!sh", "#!/bin/sh no newline"],
)
def test_attack_52_a_script_file_with_an_unclear_interpreter_is_refused(
    workspace: Workspace, first_line: str
) -> None:
    put(workspace, "x", first_line + ("" if "newline" in first_line else "\n"), 0o755)

    assert refusal_of(workspace, "./x") == "cannot_be_frozen"


def test_attack_52_inline_shell_code_is_a_script(workspace: Workspace) -> None:
    request = ExecRequest((b"sh", b"-c", b"echo $HOME | cat"))

    action = freeze_action(request, workspace).action

    assert isinstance(action, ScriptAction)
    assert action.script == b"echo $HOME | cat\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("sh", "-ec", "id"),
        ("bash", "-o", "pipefail", "-c", "id"),
        ("bash", "-lc", "id"),
        ("bash", "--norc", "-c", "id"),
        ("sh", "-c", "echo $0", "name"),
        ("fish", "--command=id"),
    ],
)
def test_attack_52_other_spellings_of_inline_shell_code_are_refused(
    workspace: Workspace, argv: tuple[str, ...]
) -> None:
    assert refusal_of(workspace, *argv) == "cannot_be_frozen"


def test_a_shell_that_runs_a_file_is_an_ordinary_program(workspace: Workspace) -> None:
    put(workspace, "a.sh")

    assert freeze_exec(workspace, "sh", "-e", "a.sh", "-c").argv[1:] == (b"-e", b"a.sh", b"-c")


def test_attack_53_arguments_stay_as_they_are_typed(workspace: Workspace) -> None:
    put(workspace, "a.txt")
    typed = ("*", "~", "$HOME", "$(id)", "`id`", "{a,b}", "a\\ b", "a b")

    assert freeze_exec(workspace, "echo", *typed).argv[1:] == tuple(x.encode() for x in typed)


def test_attack_50_the_environment_is_constructed_and_inherits_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/tmp/evil.so")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")

    environment = freeze_exec(workspace, "id").surroundings.environment

    assert set(environment) == {"HOME", "LANG", "PATH", "PWD", "TERM"}


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND", "BASH_ENV"),
        *("PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "ENV", "PERL5OPT", "RUBYOPT", "PATH"),
        *("BASH_FUNC_ls%%", "HOME", "npm_config_script_shell", "SSH_AUTH_SOCK", "PAGER", "a b", ""),
    ],
)
def test_attack_50_a_dangerous_variable_is_refused(workspace: Workspace, name: str) -> None:
    wishes = {name: EnvValue(b"x")}

    assert refusal_of(workspace, "id", environment=wishes) == "environment_not_allowed"


def test_a_harmless_variable_and_a_known_secret_are_kept(workspace: Workspace) -> None:
    wishes = {"CI": EnvValue(b"1"), "API_TOKEN": EnvSecret("token")}

    environment = freeze_exec(workspace, "id", environment=wishes).surroundings.environment

    assert environment["CI"] == EnvValue(b"1")
    assert environment["API_TOKEN"] == EnvSecret("token")


def test_an_unknown_secret_is_refused(workspace: Workspace) -> None:
    wishes = {"API_TOKEN": EnvSecret("other")}

    assert refusal_of(workspace, "id", environment=wishes) == "environment_not_allowed"


@pytest.mark.parametrize("spelling", ["a.txt", "./a.txt", "--file=a.txt", "@a.txt", "d=@a.txt"])
def test_an_argument_that_names_a_file_makes_it_an_input(
    workspace: Workspace, spelling: str
) -> None:
    path = put(workspace, "a.txt", "hello")

    inputs = freeze_exec(workspace, "cat", spelling, "missing").surroundings.inputs

    assert [(file.path, file.digest) for file in inputs] == [(bytes(path), digest_of(b"hello"))]


def test_a_listed_directory_is_frozen_file_by_file(workspace: Workspace) -> None:
    put(workspace, "lib/b/two.py")
    put(workspace, "lib/one.py")

    inputs = freeze_exec(workspace, "id", inputs=(b"lib",)).surroundings.inputs

    root = workspace.root
    assert [file.path for file in inputs] == [root + b"/lib/b/two.py", root + b"/lib/one.py"]


def test_attack_47_an_input_that_is_a_symbolic_link_is_refused(workspace: Workspace) -> None:
    put(workspace, "real")
    Path(os.fsdecode(workspace.root), "link").symlink_to("real")

    assert refusal_of(workspace, "cat", "link") == "input_not_allowed"
    assert refusal_of(workspace, "cat", inputs=(b"link",)) == "input_not_allowed"


def test_attack_47_a_directory_that_is_a_symbolic_link_is_refused(workspace: Workspace) -> None:
    Path(os.fsdecode(workspace.root), "link").symlink_to("/etc")

    assert refusal_of(workspace, "id", cwd=workspace.root + b"/link") == "cwd_not_allowed"
    assert refusal_of(workspace, "cat", inputs=(b"link/passwd",)) == "input_not_allowed"


@pytest.mark.parametrize("cwd", [b"/etc", b"relative", b"/", b"%s/../x"])
def test_a_directory_outside_the_workspace_is_refused(workspace: Workspace, cwd: bytes) -> None:
    place = cwd.replace(b"%s", workspace.root)

    assert refusal_of(workspace, "id", cwd=place) == "cwd_not_allowed"


def test_a_pipe_among_the_inputs_is_refused_without_being_opened(workspace: Workspace) -> None:
    os.mkfifo(workspace.root + b"/pipe")

    assert refusal_of(workspace, "cat", inputs=(b"pipe",)) == "input_not_allowed"


def test_attack_51_standard_input_is_in_the_draft_as_a_digest(workspace: Workspace) -> None:
    assert freeze_exec(workspace, "cat").surroundings.stdin is None
    assert freeze_exec(workspace, "cat", stdin=b"x").surroundings.stdin == digest_of(b"x")
    assert refusal_of(workspace, "cat", stdin=b"x" * (2 << 20)) == "too_large"


def test_an_empty_request_is_malformed(workspace: Workspace) -> None:
    assert refusal_of(workspace) == "malformed"
    with pytest.raises(RequestRefused, match="malformed"):
        freeze_action(ScriptRequest(b"sh", b""), workspace)


def test_an_interpreter_that_is_a_script_is_refused(workspace: Workspace) -> None:
    put(workspace, "interpreter", "#!/bin/sh\n", 0o755)

    with pytest.raises(RequestRefused, match="cannot_be_frozen"):
        freeze_action(ScriptRequest(b"./interpreter", b"id\n"), workspace)


def test_attack_71_the_workspace_cannot_hold_or_lie_in_the_gates_own_files(tmp_path: Path) -> None:
    state = tmp_path / "home" / "state"
    state.mkdir(parents=True)

    for root in (tmp_path, tmp_path / "home", state):
        with pytest.raises(RequestRefused, match="overlaps"):
            make_workspace(bytes(root), [bytes(state)])


@pytest.mark.parametrize("root", [b"/", b"/usr", b"/usr/share", b"/etc", b"/proc", b"/var"])
def test_a_system_directory_is_no_workspace(root: bytes) -> None:
    with pytest.raises(RequestRefused, match="cwd_not_allowed"):
        make_workspace(root)


def test_a_home_directory_with_keys_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()

    with pytest.raises(RequestRefused, match="keys"):
        make_workspace(bytes(tmp_path))


@pytest.mark.parametrize(
    "argv", [("rm", "notes"), ("/usr/bin/mv", "notes", "old"), ("unlink", "notes")]
)
def test_a_request_to_remove_a_file_that_would_be_pinned_is_refused(
    workspace: Workspace, argv: tuple[str, ...]
) -> None:
    put(workspace, "notes")
    put(workspace, "directory/file")

    assert refusal_of(workspace, *argv) == "cannot_be_frozen"
    assert freeze_exec(workspace, "rm", "-r", "directory").surroundings.inputs == ()
