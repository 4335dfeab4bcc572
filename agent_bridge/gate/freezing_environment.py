"""The environment of an action: constructed whole, nothing inherited.

protocol: docs/cosign-protocol.md, section 4. Invariant: no variable that makes a program load or
run other code, or find another program, can be wished for.
"""

import re
from collections.abc import Collection, Mapping

from agent_bridge.core.actions import EnvSecret, EnvValue

FIXED_PATH = (b"/usr/bin", b"/usr/local/bin", b"/usr/sbin", b"/usr/local/sbin", b"/bin", b"/sbin")
"""Where the gate looks for programs, in this order; never the caller's PATH."""

HOME = b"/tmp/home"

_MAX_VALUE_BYTES = 4096
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_GATE_OWNED = frozenset(
    {"PATH", "HOME", "PWD", "OLDPWD", "LANG", "TERM", "TMPDIR", "USER", "LOGNAME", "SHELL", "SHLVL"}
)
_DANGEROUS_NAMES = """
    GCONV_PATH GETCONF_DIR LOCPATH NLSPATH GLIBC_TUNABLES HOSTALIASES RESOLV_HOST_CONF RES_OPTIONS
    LOCALDOMAIN TZDIR ENV SHELLOPTS PS4 PROMPT_COMMAND IFS CDPATH GLOBIGNORE ZDOTDIR FPATH
    JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS CLASSPATH MAVEN_OPTS GRADLE_OPTS SBT_OPTS
    GOFLAGS GOPATH GOROOT GOPROXY GOENV GOBIN GOTOOLCHAIN GONOSUMDB GOINSECURE GOPRIVATE GOSUMDB
    CC CXX CPP LD AR AS MAKEFLAGS MAKEFILES GNUMAKEFLAGS MFLAGS CONFIG_SITE
    EDITOR VISUAL PAGER MANPAGER BROWSER LESSOPEN LESSCLOSE LESS
    DISPLAY XAUTHORITY OPENSSL_CONF OPENSSL_MODULES OPENSSL_ENGINES CURL_HOME WGETRC INPUTRC
    TERMCAP TERMINFO TERMINFO_DIRS KUBECONFIG AWKPATH AWKLIBPATH TAR_OPTIONS GREP_OPTIONS RSYNC_RSH
"""
_DANGEROUS_PREFIXES = """
    LD_ DYLD_ MALLOC_ BASH GIT_ SSH_ PYTHON NODE_ NPM_ YARN_ PNPM_ DENO_ BUN_ PERL RUBY GEM_ BUNDLE_
    LUA_ PHP CARGO RUST DOTNET_ CORECLR_ COR_ GTK_ QT_ DBUS_ WAYLAND_ XDG_ AT_SPI_ DOCKER_ CONTAINER
    SUDO_ PIP_ UV_ POETRY_ VIRTUAL_ENV CONDA TCL ERL_ ELIXIR_ R_ JULIA_ GCC_ COMPILER_PATH CMAKE
"""
_DANGEROUS = frozenset(_DANGEROUS_NAMES.split())
_DANGEROUS_BEGINNINGS = tuple(_DANGEROUS_PREFIXES.split())


class EnvironmentRefused(Exception):
    pass


def make_environment(
    wishes: Mapping[str, EnvValue | EnvSecret], cwd: bytes, secret_names: Collection[str]
) -> dict[str, EnvValue | EnvSecret]:
    """Build the whole environment, sorted by name. Raises EnvironmentRefused."""
    environment: dict[str, EnvValue | EnvSecret] = {
        "PATH": EnvValue(b":".join(FIXED_PATH)),
        "HOME": EnvValue(HOME),
        "LANG": EnvValue(b"C.UTF-8"),
        "PWD": EnvValue(cwd),
        "TERM": EnvValue(b"dumb"),
    }
    for name, value in wishes.items():
        _check_wish(name, value, secret_names)
        environment[name] = value
    return dict(sorted(environment.items()))


def is_dangerous_name(name: str) -> bool:
    upper = name.upper()  # some programs read the lower-case twin of a name as well
    return upper in _DANGEROUS or upper.startswith(_DANGEROUS_BEGINNINGS)


def _check_wish(name: str, value: EnvValue | EnvSecret, secret_names: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise EnvironmentRefused(f"{name!r} is not a variable name")
    if name in _GATE_OWNED:
        raise EnvironmentRefused(f"{name} is set by the gate")
    if is_dangerous_name(name):
        raise EnvironmentRefused(f"{name} can make a program run other code")
    if isinstance(value, EnvSecret):
        if value.handle not in secret_names:
            raise EnvironmentRefused(f"{name} names a secret the gate does not have")
    elif b"\0" in value.value or len(value.value) > _MAX_VALUE_BYTES:
        raise EnvironmentRefused(
            f"the value of {name} has a NUL or is over {_MAX_VALUE_BYTES} bytes"
        )
