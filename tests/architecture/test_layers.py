"""Who may import whom. The rules are those of the architecture's section on layers."""

from collections.abc import Mapping

from tests.architecture.sources import PACKAGES, all_sources, imports_of, list_sources

NEUTRAL = (
    "appservice_registrations", "errors", "clock", "config", "randomness", "background", "logs",
    "metrics", "requester",
)  # fmt: skip
"""Top-level modules of the homeserver that know no feature; every layer above core may use them."""

OUTBOUND = ("transport.outbound", "transport.federation_client")

ALLOWED: Mapping[str, tuple[str, ...]] = {
    "core": (),
    "transport": NEUTRAL,
    "storage": NEUTRAL,
    "engine": (*NEUTRAL, "storage"),
    "services": (*NEUTRAL, "storage", "engine", *OUTBOUND),
    "api": (*NEUTRAL, "services", "transport.endpoint"),
    "console": (),
    "commands": (*NEUTRAL, "services", "transport", "network"),
    **dict.fromkeys(NEUTRAL, NEUTRAL),
    # Settings are decoded like request bodies.
    "config": (*NEUTRAL, "transport.decoding"),
    "appservice_registrations": (*NEUTRAL, "transport.decoding"),
}
"""What each part of the homeserver may import besides itself and core."""
CONNECTING = ("", "server", "process", "network", "__main__")
"""The package itself, and the modules that connect everything or start it."""


def is_within(module: str, parents: tuple[str, ...]) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


def test_homeserver_imports_go_down_the_layers() -> None:
    sources = list_sources("homeserver")
    known = {source.module for source in sources}
    wrong = []
    for source in sources:
        inside = source.module.removeprefix("homeserver").removeprefix(".")
        if inside in CONNECTING:
            continue
        part = inside.split(".")[0]
        for line, module in imports_of(source, known):
            if not is_within(module, ("homeserver",)):
                continue
            target = module.removeprefix("homeserver").removeprefix(".")
            if not is_within(target, (part, "core", *ALLOWED.get(part, ()))):
                wrong.append(f"{source.name}:{line} imports {module}")

    assert not wrong, "\n".join(wrong)


def test_every_part_of_the_homeserver_has_a_layer() -> None:
    parts = {
        source.module.removeprefix("homeserver").removeprefix(".").split(".")[0]
        for source in list_sources("homeserver")
    }

    assert parts - set(ALLOWED) - set(CONNECTING) == set()


def test_nobody_imports_server_but_who_starts_it() -> None:
    wrong = []
    for source in all_sources():
        if source.module in ("homeserver.__main__", "homeserver.process"):
            continue
        for line, module in imports_of(source, {"homeserver.server"}):
            if is_within(module, ("homeserver.server",)):
                wrong.append(f"{source.name}:{line}")

    assert not wrong, "\n".join(wrong)


def test_only_the_core_of_the_homeserver_is_shared_with_the_other_packages() -> None:
    known = {source.module for source in all_sources()}
    allowed = {
        "appservices": ("appservices", "homeserver.core"),
        "agent_bridge": ("agent_bridge", "homeserver.core"),
        "homeserver": ("homeserver",),
        "synapse_compat_tests": ("synapse_compat_tests",),
    }
    wrong = []
    for package, parents in allowed.items():
        for source in list_sources(package):
            for line, module in imports_of(source, known):
                if is_within(module, tuple(allowed)) and not is_within(module, parents):
                    wrong.append(f"{source.name}:{line} imports {module}")

    assert not wrong, "\n".join(wrong)


def test_nothing_but_tests_imports_tests() -> None:
    wrong = [
        f"{source.name}:{line}"
        for source in all_sources()
        for line, module in imports_of(source, set())
        if is_within(module, ("tests",))
    ]

    assert not wrong, "\n".join(wrong)


def test_no_import_hides_behind_type_checking() -> None:
    wrong = [source.name for source in all_sources() if "TYPE_CHECKING" in source.text]

    assert not wrong, "\n".join(wrong)


def test_no_imports_go_in_a_circle() -> None:
    known = {source.module for package in PACKAGES for source in list_sources(package)}
    graph = {
        source.module: {module for _, module in imports_of(source, known)} & known
        for source in all_sources()
    }

    assert find_cycle(graph) is None


def find_cycle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """Return the modules of one cycle in order; depth first, each module visited once."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for imported in sorted(graph[module]):
            found = walk(imported, [*path, module])
            if found is not None:
                return found
        done.add(module)
        return None

    for module in sorted(graph):
        found = walk(module, [])
        if found is not None:
            return found
    return None


def test_a_cycle_is_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
