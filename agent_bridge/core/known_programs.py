"""Programs that run other code, and how to see it in their arguments: data for the policy floor.

protocol: docs/cosign-protocol.md, section 7. Invariant: a row here can only raise a tier; names
carry no version (`python3.11` is `python`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class CodeOptions:
    """The options with which a program takes code, or another program to run, from its command."""

    short: str = ""
    """Letters: `-c` alone, in a cluster such as `-Ic`, or glued to its value."""
    words: frozenset[str] = frozenset()
    """Whole arguments, such as `-exec` or `foreach`."""
    long: frozenset[str] = frozenset()
    """`--eval`, also abbreviated or with `=value`."""
    reads_stdin: bool = False
    """Without a file to run, it runs what it reads."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHELLS = _words("""
    ash bash busybox csh dash elvish fish ksh mksh nu osh pwsh rbash sh tcsh toybox yash zsh
""")
LAUNCHERS = _words("""
    at batch bwrap catchsegv chroot chrt crontab dbus-run-session docker env entr expect fakeroot
    firejail flatpak flock ionice kubectl ld-linux ld-linux-x86-64.so ld.so lldb ltrace nice nohup
    npx nsenter numactl parallel perf pipx pnpx podman proot rlwrap rsh rsync run-parts runc runcon
    scp screen script setarch setpriv setsid sftp snap socat ssh start-stop-daemon stdbuf strace
    systemctl systemd-run taskset tclsh time timeout tmux unbuffer unshare uvx valgrind watch
    wish xargs xvfb-run
""")
LANGUAGES = _words("""
    awk ed emacs ex gawk gdb m4 mawk mysql nawk nvim original-awk psql sed sqlite vi view vim
""")
"""Programs whose ordinary arguments or input are code; sed and gawk are not under --sandbox."""
ELEVATORS = _words("doas gosu pkexec runuser su sudo")

CODE_OPTIONS: Mapping[str, CodeOptions] = MappingProxyType(
    {
        "bun": CodeOptions("ep", _words("x"), _words("--eval --print"), reads_stdin=True),
        "cargo": CodeOptions(long=_words("--config")),
        "cmake": CodeOptions("EP"),
        "deno": CodeOptions(words=_words("eval repl"), reads_stdin=True),
        "erl": CodeOptions(words=_words("-eval -s -run"), reads_stdin=True),
        "fd": CodeOptions("xX", long=_words("--exec --exec-batch")),
        "find": CodeOptions(
            words=_words("-exec -execdir -ok -okdir -delete -fprint -fprint0 -fprintf -fls")
        ),
        "gcc": CodeOptions(words=_words("-wrapper -specs")),
        "git": CodeOptions(
            "c",
            _words("bisect difftool filter-branch foreach mergetool -x"),
            _words("--config-env --exec --exec-path --extcmd --receive-pack --upload-pack"),
        ),
        "go": CodeOptions(words=_words("-exec -toolexec -vettool")),
        "java": CodeOptions(words=_words("-javaagent -agentpath -agentlib")),
        "julia": CodeOptions("eEL", long=_words("--eval --print --load"), reads_stdin=True),
        "lua": CodeOptions("el", reads_stdin=True),
        "luajit": CodeOptions("elj", reads_stdin=True),
        "make": CodeOptions(long=_words("--eval")),
        "node": CodeOptions(
            "epr",
            long=_words("--eval --print --require --import --loader --experimental-loader"),
            reads_stdin=True,
        ),
        "npm": CodeOptions(words=_words("exec x explore")),
        "perl": CodeOptions("eEmMI", reads_stdin=True),
        "php": CodeOptions("rBRE", long=_words("--run --process-code"), reads_stdin=True),
        "pnpm": CodeOptions(words=_words("dlx exec")),
        "pypy": CodeOptions("c", reads_stdin=True),
        "python": CodeOptions("c", _words("code idlelib pdb timeit"), reads_stdin=True),
        "r": CodeOptions("e", reads_stdin=True),
        "rg": CodeOptions(long=_words("--pre --hostname-bin")),
        "rscript": CodeOptions("e", reads_stdin=True),
        "ruby": CodeOptions("erI", reads_stdin=True),
        "sort": CodeOptions(long=_words("--compress-program")),
        "tar": CodeOptions(
            "IF",
            long=_words("""
                --checkpoint-action --info-script --new-volume-script --rmt-command --rsh-command
                --to-command --use-compress-program
            """),
        ),
        "tcpdump": CodeOptions("z"),
        "uv": CodeOptions(words=_words("run tool")),
        "yarn": CodeOptions(words=_words("dlx exec")),
        "zip": CodeOptions(words=_words("-TT"), long=_words("--unzip-command")),
    }
)

INJECTING_VARIABLES = re.compile(
    r"""
    LD_.* | DYLD_.* | GIT_.* | PYTHON.* | PERL5?.* | RUBY.* | NODE_.* | npm_config_.* | LUA_.*
    | BASH_.* | ENV | ZDOTDIR | IFS | PS4 | SHELLOPTS | PROMPT_COMMAND | GCONV_PATH | LOCPATH
    | JAVA_TOOL_OPTIONS | _JAVA_OPTIONS | JDK_JAVA_OPTIONS | CLASSPATH | MAKEFLAGS | MAKEFILES
    | PAGER | MANPAGER | EDITOR | VISUAL | BROWSER | LESSOPEN | LESSCLOSE | SSH_.* | SUDO_.*
    | DOCKER_HOST | GLIBC_TUNABLES | RUSTC.* | CARGO_.* | GOFLAGS | TAR_OPTIONS
    | RIPGREP_CONFIG_PATH
    """,
    re.VERBOSE,
)
"""Variables that make a program load or run something else."""

CREDENTIAL_NAMES = frozenset(
    name.encode()
    for name in _words("""
        .aws .azure .docker .git-credentials .gnupg .kube .netrc .npmrc .password-store .pgpass
        .pypirc .ssh gshadow keyrings shadow sudoers sudoers.d
    """)
)
RAW_DEVICES = re.compile(
    rb"/dev/(?:sd|hd|vd|xvd|nvme|mmcblk|dm-|md\d|loop|mapper/|disk/|mem$|kmem$|port$)"
    rb"|/proc/kcore$|/proc/(?:\d+|self|thread-self)(?:/task/\d+)?/mem$"
)
