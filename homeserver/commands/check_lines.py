"""The lines that a check of a server consists of, and what they say of addresses."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from textwrap import wrap

from homeserver.clock import Clock
from homeserver.commands.federation_text import printable
from homeserver.commands.tls_probe import Certificate, Probed

_SOON = timedelta(days=14)
_WIDTH = 100
_INDENT = " " * 10


class Outcome(Enum):
    OK = "ok"
    NOTE = "note"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Line:
    outcome: Outcome
    step: str
    found: str
    advice: str = ""

    def written(self) -> str:
        text = wrap(
            printable(f"{self.step}: {self.found}"), _WIDTH, subsequent_indent=_INDENT + "  "
        )
        lines = [f"  {self.outcome.value:8}" + "\n".join(text)]
        if self.advice:
            lines += wrap(
                self.advice,
                _WIDTH,
                initial_indent=f"{_INDENT}-> ",
                subsequent_indent=f"{_INDENT}   ",
            )
        return "\n".join(lines)


def probed_lines(
    where: str, tls_name: str, probed: Probed, clock: Clock, *, is_own: bool
) -> list[tuple[Line, bool]]:
    """Return the lines about one address, and whether it can be used."""
    if probed.connect_problem is not None:
        advice = "its machine is off, its port closed, or a firewall stands in between"
        if is_own:
            advice = (
                "open and forward this port to this machine (federation.tls_port, or the proxy's)."
                " If your router does not lead you back to yourself, ask from another network"
            )
        return [(Line(Outcome.FAILED, f"connect {where}", probed.connect_problem, advice), False)]
    lines = [(Line(Outcome.OK, f"connect {where}", "connected"), False)]
    certificate = probed.certificate
    shown = "" if certificate is None else f" ({_described(certificate, clock)})"
    if probed.tls_problem is not None:
        mending = f"the server's administrator must install a certificate for {tls_name}"
        if is_own:
            mending = f"install a certificate for {tls_name} with its whole chain"
        advice = f"{mending}, not expired, of an authority that everybody knows"
        if not is_own:
            advice += ", or you name its authority: federation.ca_file"
        found = probed.tls_problem + shown
        lines.append((Line(Outcome.FAILED, f"TLS {where}", found, advice), False))
    elif certificate is not None and certificate.not_after - _now(clock) < _SOON:
        found = f"good for {tls_name}, but not for long{shown}"
        lines.append((Line(Outcome.NOTE, f"TLS {where}", found, "see that it is renewed"), True))
    else:
        lines.append((Line(Outcome.OK, f"TLS {where}", f"good for {tls_name}{shown}"), True))
    return lines


def forwarding_advice(url: str) -> str:
    return f"let what answers at {url} forward it to this server, or serve the file"


def _described(certificate: Certificate, clock: Clock) -> str:
    days = (certificate.not_after - _now(clock)).days
    until = certificate.not_after.date()
    ends = f"expired {until}" if days < 0 else f"ends {until}, in {days} days"
    return f"names: {certificate.names}; issuer: {certificate.issuer}; {ends}"


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
