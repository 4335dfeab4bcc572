def test_smoke(homeserver):
    alice = homeserver.register("alice")
    r = alice.get("/account/whoami"); print(r.json)
    b = alice.login_again()
    assert b.post("/logout", {}).status == 200
    assert b.get("/account/whoami").status == 401
    assert alice.post("/logout/all", {}).status == 200
    assert alice.get("/account/whoami").status == 401
