"""The compiled-in floor (attack cases 50, 52, 71)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bridge.core.actions import EnvSecret, EnvValue
from agent_bridge.core.policy import Policy
from agent_bridge.core.policy_file import load_policy
from agent_bridge.core.policy_floor import floor_of
from agent_bridge.core.policy_request import Request
from agent_bridge.core.tiers import Tier
from tests.agent_bridge.core.requests import run, script, with_environment
from tests.agent_bridge.core.samples import ISSUED

PROTECTED = (b"/etc/countersign", b"/srv/gate")


def floor(request: Request) -> Tier:
    return floor_of(request, PROTECTED)[0]


WRAPPERS = [
    ("sh", "-c", "ls"),
    ("bash", "script.sh"),
    ("dash",),
    ("busybox", "ls"),
    ("env", "-S", "ls -l"),
    ("env", "A=b", "ls"),
    ("xargs", "ls"),
    ("find", ".", "-exec", "ls", ";"),
    ("find", ".", "-execdir", "ls", "+"),
    ("find", ".", "-delete"),
    ("git", "-c", "alias.x=!sh", "x"),
    ("git", "--config-env=alias.x=Y", "x"),
    ("git", "--exec-path=/tmp", "status"),
    ("git", "rebase", "-x", "ls", "main"),
    ("git", "rebase", "--exe=ls", "main"),
    ("git", "submodule", "foreach", "ls"),
    ("git", "bisect", "run", "ls"),
    ("ssh", "-o", "ProxyCommand=ls", "host"),
    ("nohup", "ls"),
    ("timeout", "5", "ls"),
    ("python3", "-c", "print(1)"),
    ("python3", "-Ic", "print(1)"),
    ("python3", "-cprint(1)"),
    ("python3", "-m", "timeit", "print(1)"),
    ("python3",),
    ("python3", "-i"),
    ("python3", "-"),
    ("node", "-e", "1"),
    ("node", "--eval=1"),
    ("node", "--ev", "1"),
    ("node", "-p", "1"),
    ("node", "--require", "./x.js", "y.js"),
    ("perl", "-ne", "print"),
    ("ruby", "-e", "1"),
    ("php", "-r", "1;"),
    ("lua5.4", "-e", "1"),
    ("awk", "{print}", "file"),
    ("sed", "s/a/b/e", "file"),
    ("vim", "-c", "!ls"),
    ("tar", "--checkpoint-action=exec=ls", "-cf", "x.tar", "."),
    ("tar", "--to-comm", "ls", "-xf", "x.tar"),
    ("rg", "--pre", "ls", "x"),
    ("npx", "cowsay"),
    ("npm", "exec", "cowsay"),
    ("docker", "run", "x"),
    ("make", "--eval=$(shell ls)"),
]
ALLOW_ALL = """
version = 1
expires_at = 2030-01-01T00:00:00Z
[[rules]]
name = "everything"
tier = "T0"
executables = [{programs}]
matches = [{{ executable = {first}, argv = ["x"] }}]
matches_not = [{{ executable = "/no", argv = ["x"] }}]
"""


def allow_all(*programs: str) -> Policy:
    quoted = [f'"{program}"' for program in programs]
    return load_policy(ALLOW_ALL.format(programs=", ".join(quoted), first=quoted[0]))


@pytest.mark.parametrize("argv", WRAPPERS, ids=" ".join)
def test_attack_52_wrappers_are_never_below_inline_code(argv: tuple[str, ...]) -> None:
    request = run(*argv)

    assert floor(request) >= Tier.T2
    allowed = allow_all(f"/usr/bin/{argv[0]}").classify(request, ISSUED)
    assert allowed.tier >= Tier.T2


@pytest.mark.parametrize("program", ["/usr/bin/python3.11", "/opt/x/python", "/usr/bin/Python3"])
def test_attack_52_a_version_or_place_does_not_hide_an_interpreter(program: str) -> None:
    assert floor(run("x", "-c", "1", program=program)) is Tier.T2


def test_attack_52_a_multi_call_program_is_known_by_its_first_argument() -> None:
    assert floor(run("sh", "-c", "ls", program="/opt/multitool")) is Tier.T2
    assert floor(run("harmless", program="/usr/bin/busybox")) is Tier.T2


@pytest.mark.parametrize(
    "argv",
    [
        ("ls", "-c"),
        ("python3", "tool.py"),
        ("python3", "-m", "pytest"),
        ("node", "tool.js"),
        ("find", ".", "-name", "x"),
        ("git", "diff", "--cached"),
        ("git", "log", "--exclude=x"),
        ("sed", "--sandbox", "s/a/b/", "file"),
        ("tar", "-tf", "x.tar"),
        ("make", "-k", "test"),
        ("make", "--", "test"),
        ("sort", "-u", "file"),
    ],
    ids=" ".join,
)
def test_ordinary_commands_are_not_taken_for_wrappers(argv: tuple[str, ...]) -> None:
    assert floor(run(*argv)) is Tier.T0


def test_inline_code_is_tier_two_and_the_network_too() -> None:
    assert floor(script("print(1)")) is Tier.T2
    assert floor(replace(run("ls"), network=True)) is Tier.T2
    assert floor(replace(run("ls"), writable=(b"/tmp",))) is Tier.T1


INJECTING = """
    LD_PRELOAD GIT_EXTERNAL_DIFF BASH_ENV ENV PYTHONPATH PYTHONSTARTUP NODE_OPTIONS PERL5OPT RUBYOPT
    IFS GIT_SSH_COMMAND PAGER EDITOR LD_LIBRARY_PATH MAKEFLAGS JAVA_TOOL_OPTIONS
"""


@pytest.mark.parametrize("name", INJECTING.split())
def test_attack_50_variables_that_load_code_are_never_below_inline_code(name: str) -> None:
    assert floor(with_environment(run("ls"), **{name: EnvValue(b"x")})) is Tier.T2


def test_ordinary_variables_raise_nothing() -> None:
    request = with_environment(run("ls"), PATH=EnvValue(b"/usr/bin:/bin"), LANG=EnvValue(b"C"))

    assert floor(request) is Tier.T0


def test_a_secret_is_tier_three() -> None:
    assert floor(with_environment(run("ls"), TOKEN=EnvSecret("github"))) is Tier.T3


@pytest.mark.parametrize("argv", [("sudo", "ls"), ("su", "-"), ("pkexec", "ls"), ("doas", "ls")])
def test_changing_the_user_is_tier_three(argv: tuple[str, ...]) -> None:
    assert floor(run(*argv)) is Tier.T3


@pytest.mark.parametrize(
    "request_",
    [
        run("cat", "../../anna/.ssh/id_ed25519"),
        run("cat", "/etc/shadow"),
        run("tar", "-cf", "x", "--directory=/home/anna/.gnupg"),
        run("ls", cwd="/home/anna/.aws"),
        script("open('/home/anna/.ssh/id_ed25519')"),
    ],
)
def test_places_for_credentials_are_tier_three(request_: Request) -> None:
    assert floor(request_) is Tier.T3


@pytest.mark.parametrize(
    "request_",
    [
        run("cat", "/etc/countersign"),
        run("cat", "/etc/countersign/policy.toml"),
        run("cat", "../../../etc/countersign/policy.toml"),
        run("cat", "countersign", cwd="/etc"),
        run("ls", cwd="/srv/gate/state"),
        run("cp", "x", "--target-directory=/srv/gate"),
        run("cp", "-t/srv/gate", "x"),
        run("docker", "run", "-v", "/srv/gate:/x"),
        run("x", program="/srv/gate/bin/x"),
        script("open('/srv/gate/store.db')"),
        with_environment(run("ls"), X=EnvValue(b"/tmp:/srv/gate")),
        replace(run("ls"), writable=(b"/srv",)),
        replace(run("ls"), writable=(b"/",)),
        run("dd", "of=/dev/sda"),
        run("cat", "/dev/nvme0n1"),
        run("cat", "/proc/1/mem"),
        run("cat", "/proc/self/mem"),
        run("cat", "/dev/mem"),
    ],
)
def test_attack_71_the_gates_own_files_and_raw_devices_are_denied(request_: Request) -> None:
    assert floor(request_) is Tier.DENY


@pytest.mark.parametrize(
    "request_",
    [
        run("cat", "/etc/countersigned"),
        run("cat", "-f/srv/gate-2/x"),
        run("cat", "gates", cwd="/srv"),
        run("cat", "/dev/null"),
        run("cat", "/proc/meminfo"),
        replace(run("ls"), writable=(b"/srv/gates",)),
    ],
)
def test_neighbors_of_protected_files_are_not_denied(request_: Request) -> None:
    assert floor(request_) < Tier.T2


def test_no_policy_lowers_what_is_denied() -> None:
    policy = load_policy(
        ALLOW_ALL.format(programs='"/usr/bin/cat"', first='"/usr/bin/cat"'), (b"/srv/gate",)
    )

    for path in ("/srv/gate/pins.json", "/etc/countersign/x", "/var/lib/countersign/y"):
        classified = policy.classify(run("cat", path), ISSUED)
        assert (classified.tier, classified.rule, classified.need) == (Tier.DENY, "floor", None)


@given(st.lists(st.sampled_from(["-c", "-x", "a", "/etc/shadow", "--eval", "é"]), max_size=4))
def test_more_arguments_never_lower_the_floor_of_a_program_that_runs_code(
    extra: list[str],
) -> None:
    for argv in (("git", "-c", "a=b"), ("find", "-exec"), ("sh",), ("cat", "/etc/shadow")):
        assert floor(run(*argv, *extra)) >= floor(run(*argv))
