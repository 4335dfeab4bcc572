"""A system-call filter for what namespaces leave reachable: sockets by path, key rings, ttys.

Invariant: the filter fails closed on a call of another architecture (kill), and returns EPERM for
what it forbids, so that a program sees an ordinary error.
"""

import struct
from dataclasses import dataclass

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_KILL_PROCESS = 0x80000000
_EPERM = 0x00050000 | 1
_ALLOW = 0x7FFF0000

_NUMBER = 0
_ARCHITECTURE = 4
_FIRST_ARGUMENT = 16
_SECOND_ARGUMENT = 24

_X32_BIT = 0x40000000
_AF_UNIX, _AF_ALG, _AF_VSOCK = 1, 38, 40
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


@dataclass(frozen=True)
class _Architecture:
    audit: int
    socket: int
    ioctl: int
    forbidden: tuple[int, ...]
    """add_key request_key keyctl bpf perf_event_open userfaultfd io_uring_setup, _enter, _register.
    io_uring makes sockets without the socket call; key rings outlive namespaces."""


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, 41, 16, (248, 249, 250, 321, 298, 323, 425, 426, 427)),
    "aarch64": _Architecture(0xC00000B7, 198, 29, (217, 218, 219, 280, 241, 282, 425, 426, 427)),
}


def make_filter(machine: str, *, unix_sockets: bool) -> bytes | None:
    """Build the classic BPF program, or None for a machine this table does not know."""
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    families = (_AF_ALG, _AF_VSOCK) if unix_sockets else (_AF_UNIX, _AF_ALG, _AF_VSOCK)
    program = [
        _op(_LOAD_WORD, _ARCHITECTURE),
        _op(_JUMP_EQUAL, architecture.audit, 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD_WORD, _NUMBER),
        _op(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
        _op(_RETURN, _EPERM),
    ]
    for number in architecture.forbidden:
        program += [_op(_JUMP_EQUAL, number, 0, 1), _op(_RETURN, _EPERM)]
    program += _refuse_values(architecture.socket, _FIRST_ARGUMENT, families)
    program += _refuse_values(architecture.ioctl, _SECOND_ARGUMENT, (_TIOCSTI, _TIOCLINUX))
    program.append(_op(_RETURN, _ALLOW))
    return b"".join(program)


def _refuse_values(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Refuse one call when the low word of an argument is one of the values; then go on."""
    checks = [
        op for value in values for op in (_op(_JUMP_EQUAL, value, 0, 1), _op(_RETURN, _EPERM))
    ]
    body = [_op(_LOAD_WORD, argument), *checks, _op(_LOAD_WORD, _NUMBER)]
    return [_op(_JUMP_EQUAL, number, 0, len(body)), *body]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
