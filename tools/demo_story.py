"""What `make demo` prints: one step a line, and whether it went as expected."""

import textwrap
import traceback
from dataclasses import dataclass, field

from tools.stack import StackFailed


@dataclass
class Story:
    met: int = 0
    failed: list[str] = field(default_factory=list)

    def begin(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def tell(self, text: str) -> None:
        print(f"    {text}", flush=True)

    def show(self, text: str) -> None:
        """Show what somebody sees on a screen."""
        print(textwrap.indent(text.rstrip("\n"), "      | ", lambda _: True), flush=True)

    def expect(self, text: str, *, holds: bool, instead: str = "") -> None:
        """Print ✓ or ✗ and count it.

        instead  what was seen when it does not hold
        """
        print(f"  {'✓' if holds else '✗'} {text}", flush=True)
        if holds:
            self.met += 1
            return
        self.failed.append(text)
        if instead:
            self.show(f"instead: {instead}")

    def fail(self, error: BaseException) -> None:
        """Take note of what ended the story before its time."""
        if not isinstance(error, StackFailed):
            traceback.print_exception(error)
        self.expect(str(error) or type(error).__name__, holds=False)

    def summary(self) -> str:
        lines = [f"✗ {text}" for text in self.failed]
        return "\n".join([*lines, f"{self.met} expectations met, {len(self.failed)} failed"])
