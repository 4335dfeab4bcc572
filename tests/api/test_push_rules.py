"""Push rules through the API and in sync."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.homeserver import Homeserver, Reply, User


def rule_path(kind: str, rule_id: str, part: str = "") -> str:
    return f"/pushrules/global/{kind}/{quote(rule_id, safe='')}{part}"


def rule_ids(user: User, kind: str) -> list[str]:
    rules = user.get("/pushrules/global/").json[kind]
    return [rule["rule_id"] for rule in rules if not rule["default"]]


def put_content_rule(user: User, rule_id: str, **query: str) -> Reply:
    body = {"pattern": f"{rule_id}*", "actions": ["notify"]}
    return user.request("PUT", rule_path("content", rule_id), body, query=query)


def pushed(synced: Any) -> Any:
    events = synced.get("account_data", {}).get("events", [])
    return next((e["content"] for e in events if e["type"] == "m.push_rules"), None)


def test_everybody_begins_with_the_predefined_rules(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    rules = alice.get("/pushrules/").json["global"]

    assert rules["override"][0]["rule_id"] == ".m.rule.master"
    mention = next(r for r in rules["override"] if r["rule_id"] == ".m.rule.is_user_mention")
    assert mention["conditions"][0]["value"] == "@alice:hs.test"
    assert alice.get("/pushrules/global/").json == rules
    assert rule_ids(alice, "content") == []


def test_a_rule_is_put_read_and_deleted(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert put_content_rule(alice, "cake").status == 200

    assert alice.get(rule_path("content", "cake")).json == {
        "rule_id": "cake",
        "default": False,
        "enabled": True,
        "actions": ["notify"],
        "pattern": "cake*",
    }
    assert alice.request("DELETE", rule_path("content", "cake")).status == 200
    assert alice.get(rule_path("content", "cake")).errcode == "M_NOT_FOUND"
    assert alice.request("DELETE", rule_path("content", "cake")).errcode == "M_NOT_FOUND"


def test_the_rules_of_users_are_apart(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")

    put_content_rule(alice, "cake")

    assert rule_ids(bob, "content") == []


def test_rules_survive_a_restart(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    put_content_rule(alice, "cake")
    alice.put(rule_path("override", ".m.rule.master", "/enabled"), {"enabled": True})

    alice.homeserver = homeserver.restart()

    assert rule_ids(alice, "content") == ["cake"]
    assert alice.get(rule_path("override", ".m.rule.master", "/enabled")).json["enabled"]


def test_rules_are_ordered_beside_others(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    put_content_rule(alice, "one")
    put_content_rule(alice, "two")

    put_content_rule(alice, "three", after="two")
    put_content_rule(alice, "four", before="one")

    assert rule_ids(alice, "content") == ["two", "three", "four", "one"]


def test_a_neighbour_that_does_not_exist_is_refused(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    reply = put_content_rule(alice, "one", before="nowhere")

    assert reply.status == 400
    assert rule_ids(alice, "content") == []


@pytest.mark.parametrize(
    ("kind", "rule_id", "body"),
    [
        ("content", ".mine", {"pattern": "x", "actions": []}),
        ("content", "a/b", {"pattern": "x", "actions": []}),
        ("content", "a\\b", {"pattern": "x", "actions": []}),
        ("content", "a", {"actions": []}),
        ("content", "a", {"pattern": "x"}),
        ("content", "a", {"pattern": "x", "actions": ["shout"]}),
        ("override", "a", {"actions": [], "conditions": [{"kind": "event_match"}]}),
        ("nothing", "a", {"actions": []}),
    ],
)
def test_rules_that_are_not_well_formed_are_refused(
    homeserver: Homeserver, kind: str, rule_id: str, body: object
) -> None:
    alice = homeserver.register("alice")

    assert alice.put(rule_path(kind, rule_id), body).status == 400


def test_a_rule_is_disabled_and_given_other_actions(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    loud = ["notify", {"set_tweak": "sound", "value": "bing"}]
    put_content_rule(alice, "cake")

    for kind, rule_id in (("content", "cake"), ("underride", ".m.rule.message")):
        alice.put(rule_path(kind, rule_id, "/enabled"), {"enabled": False})
        alice.put(rule_path(kind, rule_id, "/actions"), {"actions": loud})

        assert alice.get(rule_path(kind, rule_id, "/enabled")).json == {"enabled": False}
        assert alice.get(rule_path(kind, rule_id, "/actions")).json == {"actions": loud}


def test_settings_of_unknown_rules_are_not_found(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    enabled = rule_path("content", "cake", "/enabled")
    actions = rule_path("content", "cake", "/actions")

    assert alice.get(enabled).status == alice.get(actions).status == 404
    assert alice.put(enabled, {"enabled": True}).errcode == "M_NOT_FOUND"
    assert alice.put(actions, {"actions": []}).errcode == "M_NOT_FOUND"
    assert alice.put(actions, {"actions": ["shout"]}).errcode in ("M_NOT_FOUND", "M_INVALID_PARAM")
    assert alice.put(enabled, {}).errcode == "M_MISSING_PARAM"


def test_predefined_rules_cannot_be_deleted(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.request("DELETE", rule_path("override", ".m.rule.master")).status == 404


def test_a_changed_rule_wakes_sync_with_the_whole_ruleset(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    phone = alice.login_again()
    since = phone.sync()["next_batch"]
    waiting = phone.start_request("GET", "/sync", query={"since": since, "timeout": 30000})

    put_content_rule(alice, "cake")

    synced = waiting.reply().json
    assert pushed(synced) == alice.get("/pushrules/").json
    assert pushed(phone.sync(synced["next_batch"])) is None


def test_a_change_that_changes_nothing_is_not_synced(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    put_content_rule(alice, "cake")
    since = alice.sync()["next_batch"]

    alice.put(rule_path("content", "cake", "/enabled"), {"enabled": True})

    assert pushed(alice.sync(since)) is None


def test_rules_changed_before_a_restart_are_synced_after_it(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    since = alice.sync()["next_batch"]
    put_content_rule(alice, "cake")

    alice.homeserver = homeserver.restart()

    assert pushed(alice.sync(since)) == alice.get("/pushrules/").json


def test_rules_that_fail_to_be_stored_are_not_remembered(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    put_content_rule(alice, "cake")
    for statement in (1, 2, 3):
        homeserver.database.fail_at = statement
        assert put_content_rule(alice, "tea").status >= 500

        assert rule_ids(alice, "content") == ["cake"]
